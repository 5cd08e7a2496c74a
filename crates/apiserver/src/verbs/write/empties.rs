//! The lists and maps of a body that were given empty, which objects are kept without.
//!
//! Upstream tells such a list from one that is not there until the object is stored: in what faults show, in some rules, in
//! a few kinds' generations and where lists are compared whole. [`Empties::put_into`] makes the object that is seen there.
//! Invariant: what is stored never depends on it.

use std::borrow::Cow;
use std::sync::OnceLock;

use serde_json::Value;
use skiff_api::codec::{Decoded, Empty};

/// What one request gave empty; where it starts over, what the first attempt made of it.
#[derive(Default)]
pub struct Empties(OnceLock<Vec<Empty>>);

/// What a write is about: fields of the other part are not the request's.
#[derive(Clone, Copy)]
pub enum Part {
    Whole,
    Status,
}

// === impl Empties ===

impl Empties {
    pub fn note(&self, decoded: &Decoded) {
        if !decoded.empties.is_empty() {
            self.0.get_or_init(|| decoded.empties.clone());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.get().is_none()
    }

    pub fn contains(&self, pointer: &str) -> bool {
        self.0.get().is_some_and(|given| given.iter().any(|(at, _)| at == pointer))
    }

    /// `object` with those that lie where `wanted` says, in place of nothing or, if `over`, of what defaults made of them.
    pub fn put_into<'o>(
        &self,
        object: &'o Value,
        wanted: impl Fn(&str) -> bool,
        over: bool,
    ) -> Cow<'o, Value> {
        let mut seen = Cow::Borrowed(object);
        let given = self.0.get().map_or(&[][..], Vec::as_slice);
        for (pointer, empty) in given.iter().filter(|(at, _)| wanted(at)) {
            let Some((above, name)) = pointer.rsplit_once('/') else { continue };
            let name = name.replace("~1", "/").replace("~0", "~");
            let is_free = |owner: &Value| owner.is_object() && (over || owner[&name].is_null());
            if seen.pointer(above).is_some_and(is_free)
                && let Some(owner) = seen.to_mut().pointer_mut(above)
            {
                owner[&name] = empty.clone();
            }
        }
        seen
    }
}

// === impl Part ===

impl Part {
    pub fn of(subresource: &str) -> Part {
        match subresource {
            "status" => Part::Status,
            _ => Part::Whole,
        }
    }

    pub fn has(self, pointer: &str) -> bool {
        match self {
            Part::Status => pointer.starts_with("/status/"),
            Part::Whole => !["/metadata/", "/status/"].iter().any(|of| pointer.starts_with(of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(pointers: &[&str]) -> Empties {
        let empties = Empties::default();
        let all = pointers.iter().map(|at| ((*at).to_owned(), json!([])));
        empties.0.get_or_init(|| all.collect());
        empties
    }

    #[test]
    fn what_stands_there_stays_unless_defaults_put_it_there() {
        let empties = given(&["/spec/a", "/spec/b", "/gone/c", "/status/d"]);
        let object = json!({"spec": {"a": [1], "b": null}, "status": {}});
        let whole = |at: &str| Part::Whole.has(at);
        let wanted = json!({"spec": {"a": [1], "b": []}, "status": {}});
        assert_eq!(*empties.put_into(&object, whole, false), wanted);
        let wanted = json!({"spec": {"a": [], "b": []}, "status": {}});
        assert_eq!(*empties.put_into(&object, whole, true), wanted);
    }

    #[test]
    fn an_object_that_nothing_is_put_into_is_not_copied() {
        let (empties, object) = (given(&["/spec/a"]), json!({"spec": {"a": [1]}}));
        assert!(matches!(empties.put_into(&object, |_| true, false), Cow::Borrowed(_)));
    }
}
