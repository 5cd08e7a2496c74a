//! Where a value stands, in the two ways upstream's validator spells it.
//!
//! [`Place`] is built on the stack while walking down. Messages carry its name (`spec.list[0]`, with a dot in
//! front of a map's key at the root); the field of an error is that name below the path that is validated.

use crate::field::Path;

/// A place in the value that is validated.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    /// A declared property.
    Property(&'a str),
    /// A key of a map.
    Entry(&'a str),
    Index(usize),
}

// === impl Place ===

impl<'a> Place<'a> {
    pub const ROOT: Place<'static> = Place { parent: None, step: Step::Root };

    pub fn property<'b>(&'b self, name: &'b str) -> Place<'b> {
        Place { parent: Some(self), step: Step::Property(name) }
    }

    pub fn entry<'b>(&'b self, name: &'b str) -> Place<'b> {
        Place { parent: Some(self), step: Step::Entry(name) }
    }

    pub fn index(&self, at: usize) -> Place<'_> {
        Place { parent: Some(self), step: Step::Index(at) }
    }

    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// The name that messages carry.
    pub fn name(&self) -> String {
        let mut name = self.parent.map_or_else(String::new, Place::name);
        match self.step {
            Step::Root => {}
            Step::Property(own) if name.is_empty() => name.push_str(own),
            Step::Property(own) | Step::Entry(own) => {
                name.push('.');
                name.push_str(own);
            }
            Step::Index(at) => name.push_str(&format!("[{at}]")),
        }
        name
    }

    /// The field of an error, when everything is validated as what stands at `below`.
    pub fn field(&self, below: &Path<'_>) -> String {
        named_field(&self.name(), below)
    }
}

/// The field that a name stands for.
pub fn named_field(name: &str, below: &Path<'_>) -> String {
    let name = name.strip_prefix('.').unwrap_or(name);
    match (name.is_empty(), below.is_root()) {
        (true, _) => below.to_string(),
        (false, true) => name.to_owned(),
        (false, false) => format!("{below}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_map_at_the_root_have_a_dot_in_messages_only() {
        let key = Place::ROOT.entry("a");
        let list = key.property("list");
        assert_eq!(list.index(0).name(), ".a.list[0]");
        assert_eq!(list.index(0).field(&Path::ROOT), "a.list[0]");
        let status = Path::new("status");
        assert_eq!(Place::ROOT.field(&status), "status");
        assert_eq!(Place::ROOT.property("x").name(), "x");
        assert_eq!(Place::ROOT.index(1).field(&status), "status.[1]");
    }
}
