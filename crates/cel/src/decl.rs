//! What is known about the data rules look at: a graph of declared types.
//!
//! Schemas in (whoever has them adapts them), declarations out, which serve three ends: the checker
//! sees types and fields, the cost estimate sees how large things may get, and the evaluation sees
//! JSON as typed values. Counterpart: `k8s.io/apiserver/pkg/cel` (`DeclType`, `Escape`).
//! Invariant: fields are keyed by the identifier rules write, not by the name JSON has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::parser::RESERVED;
use crate::types::Type;

/// Bytes the largest request has; what is unbounded is bounded by it.
pub const MAX_REQUEST_SIZE: u64 = 3 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct DeclType {
    pub kind: DeclKind,
    /// The most elements, entries, characters or bytes a value may have.
    pub max_elements: u64,
    /// The fewest bytes a value takes as JSON: how many fit into a request follows from it.
    pub min_size: u64,
    pub nullable: bool,
}

#[derive(Clone, Debug)]
pub enum DeclKind {
    /// Anything without parts, and `dyn`.
    Scalar(Type),
    List {
        element: Arc<DeclType>,
        equality: ListEquality,
    },
    Map {
        value: Arc<DeclType>,
    },
    Object(Arc<ObjectType>),
}

/// When two lists are the same (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListEquality {
    #[default]
    Atomic,
    /// Order does not matter.
    Set,
    /// Elements are told apart by these fields; order does not matter.
    Map(Vec<String>),
}

/// A type whose fields are known.
#[derive(Clone, Debug)]
pub struct ObjectType {
    pub name: Arc<str>,
    /// By the identifier expressions use.
    pub fields: BTreeMap<String, DeclField>,
    /// From names in JSON to identifiers, where the two differ.
    identifiers: HashMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct DeclField {
    /// The name in JSON.
    pub json: String,
    pub decl: Arc<DeclType>,
}

// === impl DeclType ===

impl DeclType {
    pub fn scalar(kind: Type, min_size: u64, max_elements: u64) -> DeclType {
        DeclType { kind: DeclKind::Scalar(kind), max_elements, min_size, nullable: false }
    }

    /// A value nothing is known of.
    pub fn dynamic() -> DeclType {
        DeclType::scalar(Type::Dyn, 1, MAX_REQUEST_SIZE - 2)
    }

    pub fn bool() -> DeclType {
        DeclType::scalar(Type::Bool, 4, 0)
    }

    pub fn int() -> DeclType {
        DeclType::scalar(Type::Int, 1, 0)
    }

    pub fn double() -> DeclType {
        DeclType::scalar(Type::Double, 1, 0)
    }

    pub fn string() -> DeclType {
        DeclType::scalar(Type::String, 2, MAX_REQUEST_SIZE - 2)
    }

    /// A list of at most `max_items`, or of as many as fit into a request.
    pub fn list(element: DeclType, max_items: Option<u64>) -> DeclType {
        let fitting = (MAX_REQUEST_SIZE - 2) / (element.min_size + 1);
        DeclType {
            kind: DeclKind::List { element: Arc::new(element), equality: ListEquality::Atomic },
            max_elements: max_items.unwrap_or(fitting),
            min_size: 2,
            nullable: false,
        }
    }

    pub fn with_equality(mut self, how: ListEquality) -> DeclType {
        if let DeclKind::List { equality, .. } = &mut self.kind {
            *equality = how;
        }
        self
    }

    /// A map of at most `max_properties`, or of as many as fit into a request.
    pub fn map(value: DeclType, max_properties: Option<u64>) -> DeclType {
        // Quotes, colon, comma and a key of two characters go with each value.
        let fitting = (MAX_REQUEST_SIZE - 2) / (value.min_size + 6);
        DeclType {
            kind: DeclKind::Map { value: Arc::new(value) },
            max_elements: max_properties.unwrap_or(fitting),
            min_size: 2,
            nullable: false,
        }
    }

    pub fn object(object: ObjectType, min_size: u64) -> DeclType {
        let kind = DeclKind::Object(Arc::new(object));
        DeclType { kind, max_elements: 0, min_size, nullable: false }
    }

    pub fn with_nullable(mut self, nullable: bool) -> DeclType {
        self.nullable = nullable;
        self
    }

    /// Names every object type after where it is: `name`, `name.field`, `name.list.@idx`, ...
    ///
    /// Types are told apart by name, so this is to be called once on a whole graph.
    pub fn named(self, name: &str) -> DeclType {
        let kind = match self.kind {
            DeclKind::Object(object) => {
                let mut object = Arc::unwrap_or_clone(object);
                object.name = Arc::from(name);
                for (field, DeclField { decl, .. }) in &mut object.fields {
                    rename(decl, &format!("{name}.{field}"));
                }
                DeclKind::Object(Arc::new(object))
            }
            DeclKind::List { mut element, equality } => {
                rename(&mut element, &format!("{name}.@idx"));
                DeclKind::List { element, equality }
            }
            DeclKind::Map { mut value } => {
                rename(&mut value, &format!("{name}.@elem"));
                DeclKind::Map { value }
            }
            scalar => scalar,
        };
        DeclType { kind, ..self }
    }

    /// The type as the checker sees it.
    pub fn cel_type(&self) -> Type {
        match &self.kind {
            DeclKind::Scalar(kind) => kind.clone(),
            DeclKind::List { element, .. } => Type::list(element.cel_type()),
            DeclKind::Map { value } => Type::map(Type::String, value.cel_type()),
            DeclKind::Object(object) => Type::Object(object.name.clone()),
        }
    }

    pub fn as_object(&self) -> Option<&Arc<ObjectType>> {
        match &self.kind {
            DeclKind::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The declaration one step further: an identifier, `@items`, `@values` or `@keys`.
    pub(crate) fn step(&self, step: &str) -> Option<Step<'_>> {
        match (&self.kind, step) {
            (DeclKind::List { element, .. }, "@items") => Some(Step::To(element)),
            (DeclKind::Map { value }, "@values" | "@items") => Some(Step::To(value)),
            (DeclKind::Map { .. }, "@keys") => Some(Step::Key),
            // Data of any plain type is of one size, whatever its name.
            (DeclKind::Map { value }, _) if value.is_any() => Some(Step::To(value)),
            (DeclKind::Object(object), field) => Some(Step::To(&object.fields.get(field)?.decl)),
            _ => None,
        }
    }

    fn is_any(&self) -> bool {
        matches!(self.kind, DeclKind::Scalar(Type::Any))
    }

    /// Calls `visit` with every object type in the graph.
    pub(crate) fn visit_objects(&self, visit: &mut dyn FnMut(&Arc<ObjectType>)) {
        match &self.kind {
            DeclKind::Object(object) => {
                visit(object);
                object.fields.values().for_each(|field| field.decl.visit_objects(visit));
            }
            DeclKind::List { element, .. } => element.visit_objects(visit),
            DeclKind::Map { value } => value.visit_objects(visit),
            DeclKind::Scalar(_) => {}
        }
    }
}

pub(crate) enum Step<'d> {
    To(&'d DeclType),
    /// The keys of a map, of which no size is declared.
    Key,
}

fn rename(decl: &mut Arc<DeclType>, name: &str) {
    *decl = Arc::new(Arc::unwrap_or_clone(decl.clone()).named(name));
}

// === impl ObjectType ===

impl ObjectType {
    pub fn new(name: &str) -> ObjectType {
        ObjectType { name: Arc::from(name), fields: BTreeMap::new(), identifiers: HashMap::new() }
    }

    /// Declares a field by its name in JSON. One no identifier can be made of stays out of reach.
    pub fn field(mut self, json: &str, decl: DeclType) -> ObjectType {
        if let Some(identifier) = escape(json) {
            if identifier != json {
                self.identifiers.insert(json.to_owned(), identifier.clone());
            }
            let field = DeclField { json: json.to_owned(), decl: Arc::new(decl) };
            self.fields.insert(identifier, field);
        }
        self
    }

    /// The identifier and declaration of the field JSON calls `json`.
    pub(crate) fn by_json_name(&self, json: &str) -> Option<(&str, &DeclField)> {
        let identifier = self.identifiers.get(json).map_or(json, String::as_str);
        self.fields.get_key_value(identifier).map(|(name, field)| (&**name, field))
    }
}

/// Literals and the operator that is a word: like reserved words, they stand between underscores as identifiers.
const WORDS: [&str; 4] = ["true", "false", "null", "in"];

/// The identifier expressions use for a property, `None` where none can be made.
pub fn escape(property: &str) -> Option<String> {
    if property.is_empty() || property.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if WORDS.contains(&property) || RESERVED.contains(&property) {
        return Some(format!("__{property}__"));
    }
    let mut out = String::with_capacity(property.len());
    let mut rest = property;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match next {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[next.len_utf8()..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_become_identifiers_or_stay_out_of_reach() {
        let cases = [
            ("name", Some("name")),
            ("namespace", Some("__namespace__")),
            ("my__prop", Some("my__underscores__prop")),
            ("x-int", Some("x__dash__int")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("1a", None),
            ("a b", None),
            ("", None),
        ];
        for (property, expected) in cases {
            assert_eq!(escape(property).as_deref(), expected, "{property}");
        }
    }

    #[test]
    fn object_types_are_named_after_where_they_are() {
        let inner = || DeclType::object(ObjectType::new("object"), 2);
        let root = ObjectType::new("object").field("list", DeclType::list(inner(), None));
        let root = DeclType::object(root, 2).named("self");
        let mut names = Vec::new();
        root.visit_objects(&mut |object| names.push(object.name.to_string()));
        assert_eq!(names, ["self", "self.list.@idx"]);
    }
}
