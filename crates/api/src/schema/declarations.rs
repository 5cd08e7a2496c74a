//! How upstream's Go types declare their fields: order, embedding, named types.
//!
//! `facts/go-declarations.json` -> per type the fields as declared. Go's decoder names embedded
//! structs and named types in its errors, and its encoder writes fields in this order; neither shows
//! anywhere else. Read once, when the first such text is made.

use std::collections::HashMap;
use std::sync::LazyLock;

/// One field, written `Embedded.name named.Type` in the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The JSON name.
    pub name: &'static str,
    /// The name behind those of the embedded structs it comes from: `IngressRuleValue.http`.
    pub path: &'static str,
    /// The declared type where the schema cannot tell: `v1.RestartPolicy`, `[]v1.AccessMode`.
    pub named: Option<&'static str>,
}

/// The fields of the type with this fact name, in the order of their declaration.
pub fn declared(type_name: &str) -> &'static [Declared] {
    DECLARATIONS.get(type_name).map_or(&[], Vec::as_slice)
}

/// One field of a type.
pub fn declared_field(type_name: &str, field: &str) -> Option<&'static Declared> {
    declared(type_name).iter().find(|declared| declared.name == field)
}

static DECLARATIONS: LazyLock<HashMap<&'static str, Vec<Declared>>> = LazyLock::new(|| {
    let text = include_str!("../../facts/go-declarations.json");
    let file: HashMap<&'static str, &'static str> =
        serde_json::from_str(text).expect("the declarations are valid");
    file.into_iter().map(|(name, fields)| (name, fields.split(" | ").map(read).collect())).collect()
});

fn read(text: &'static str) -> Declared {
    let (path, named) = match text.split_once(' ') {
        Some((path, named)) => (path, Some(named)),
        None => (text, None),
    };
    let name = path.rsplit('.').next().unwrap_or(path);
    Declared { name, path, named }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{resources, type_of_kind};

    #[test]
    fn every_served_type_declares_the_fields_it_has() {
        for resource in resources() {
            let kind = type_of_kind(&resource.group, &resource.version, &resource.kind);
            let schema = kind.expect("a served type is known");
            let mut names: Vec<&str> = declared(&schema.name).iter().map(|it| it.name).collect();
            names.sort_unstable();
            let fields: Vec<&str> = schema.fields.iter().map(|it| it.name.as_str()).collect();
            assert_eq!(names, fields, "{}", schema.name);
        }
    }

    #[test]
    fn embedding_and_named_types_are_told() {
        let http = declared_field("networking.v1.IngressRule", "http").expect("declared");
        assert_eq!((http.path, http.named), ("IngressRuleValue.http", None));
        let modes = declared_field("core.v1.PersistentVolumeClaimSpec", "accessModes");
        assert_eq!(modes.and_then(|it| it.named), Some("[]v1.PersistentVolumeAccessMode"));
    }
}
