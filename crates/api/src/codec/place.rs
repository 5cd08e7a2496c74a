//! Where a walk over a document is, kept on the stack until someone asks.
//!
//! Findings print a place with its indexes, Go's type errors print declared fields alone. Both texts
//! are made only when there is something to report.

use crate::schema::{Schema, StructSchema, declared_field};

use super::go_types::{self, TypeError};

#[derive(Clone, Copy)]
pub struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    /// A field, and the struct it belongs to if that has a schema.
    Field(&'a str, Option<&'a StructSchema>),
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    pub const ROOT: Place<'static> = Place { parent: None, step: Step::Root };

    pub fn field<'b>(&'b self, name: &'b str, owner: Option<&'b StructSchema>) -> Place<'b> {
        Place { parent: Some(self), step: Step::Field(name, owner) }
    }

    pub fn key<'b>(&'b self, name: &'b str) -> Place<'b> {
        Place { parent: Some(self), step: Step::Key(name) }
    }

    pub fn index(&self, at: usize) -> Place<'_> {
        Place { parent: Some(self), step: Step::Index(at) }
    }

    /// `spec.containers[0].name`
    pub fn full(&self) -> String {
        let mut text = self.parent.map_or_else(String::new, Place::full);
        match self.step {
            Step::Root => {}
            Step::Index(at) => text.push_str(&format!("[{at}]")),
            Step::Field(name, _) | Step::Key(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
        }
        text
    }

    /// `/spec/containers/0/name`
    pub fn pointer(&self) -> String {
        let above = self.parent.map_or_else(String::new, Place::pointer);
        match self.step {
            Step::Root => above,
            Step::Index(at) => format!("{above}/{at}"),
            Step::Field(name, _) | Step::Key(name) => {
                format!("{above}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
        }
    }

    /// What Go's decoder says when a value of this place does not fit a field with this schema.
    pub fn mismatch(&self, found: &str, schema: &Schema) -> TypeError {
        self.unmarshal(found, &self.go_type(schema))
    }

    /// Likewise, with the wanted type spelt out.
    pub fn unmarshal(&self, found: &str, wanted: &str) -> TypeError {
        match self.owner() {
            None => {
                TypeError(format!("json: cannot unmarshal {found} into Go value of type {wanted}"))
            }
            Some(owner) => TypeError(format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
                owner.name.rsplit('.').next().unwrap_or_default(),
                self.declared_path()
            )),
        }
    }

    /// The struct of the innermost field.
    fn owner(&self) -> Option<&'a StructSchema> {
        match self.step {
            Step::Field(_, owner) => owner,
            _ => self.parent?.owner(),
        }
    }

    /// `spec.rules.IngressRuleValue.http`: fields alone, with the structs they are embedded by.
    fn declared_path(&self) -> String {
        let above = self.parent.map_or_else(String::new, Place::declared_path);
        let Step::Field(name, owner) = self.step else { return above };
        // The metadata of a custom resource is decoded on its own.
        if owner.is_some_and(|owner| owner.proto.is_none()) {
            return above;
        }
        let declared = owner.and_then(|owner| declared_field(&owner.name, name));
        let own = declared.map_or(name, |declared| declared.path);
        match above.is_empty() {
            true => own.to_owned(),
            false => format!("{above}.{own}"),
        }
    }

    /// Go's name of the type here: as declared, else as the schema implies.
    pub fn go_type(&self, schema: &Schema) -> String {
        self.named().map_or_else(|| go_types::of(schema), str::to_owned)
    }

    fn named(&self) -> Option<&'static str> {
        match self.step {
            Step::Root => None,
            Step::Field(name, owner) => declared_field(&owner?.name, name)?.named,
            Step::Index(_) => self.parent?.named()?.strip_prefix("[]"),
            Step::Key(_) => Some(self.parent?.named()?.strip_prefix("map[")?.split_once(']')?.1),
        }
    }
}
