//! The recorded facts of Kubernetes v1.36, read once into the schema graph.
//!
//! `facts/kubernetes-1.36.json` -> [`StructSchema`]s by name and id, and the list of resources.
//! Invariant: the facts are part of the program, so a fault in them is ours: loading panics.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde_json::Value;

use crate::kind::Column;

use super::{
    AnyForm, Field, ListSchema, ListType, MapSchema, PatchStrategy, ProtoInline, ProtoMessage,
    Schema, StructRef, StructSchema, TypeId, Union,
};

/// A served resource as recorded: names, scope, verbs and subresources.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceFacts {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub singular: String,
    #[serde(default)]
    pub short_names: Vec<String>,
    #[serde(default)]
    pub categories: Vec<String>,
    #[serde(default)]
    pub subresources: Vec<SubresourceFacts>,
}

#[derive(Debug, Deserialize)]
pub struct SubresourceFacts {
    pub name: String,
    pub verbs: Vec<String>,
    /// `Kind`, or `group/version/Kind` where it is not the parent's group.
    pub kind: String,
}

/// Every served resource, in the order discovery lists them.
pub fn resources() -> &'static [ResourceFacts] {
    &FACTS.resources
}

/// The struct with this fact name, such as `core.v1.PodSpec`.
pub fn struct_named(name: &str) -> Option<&'static StructSchema> {
    FACTS.index.get(name).map(|id| struct_by_id(*id))
}

/// A reference to the struct with this fact name.
pub fn struct_ref(name: &str) -> Option<StructRef> {
    FACTS.index.get(name).copied().map(StructRef::Builtin)
}

/// The fact name of the type that carries a group, version and kind.
pub(crate) fn type_of_kind(group: &str, version: &str, kind: &str) -> Option<StructRef> {
    let key = (group.to_owned(), version.to_owned(), kind.to_owned());
    FACTS.by_kind.get(&key).copied().map(StructRef::Builtin)
}

/// The Table columns of a resource; none for what has no Table (reviews and the like).
pub(crate) fn columns(resource: &ResourceFacts) -> &'static [Column] {
    let root = match resource.group.as_str() {
        "" => "/api".to_owned(),
        group => format!("/apis/{group}"),
    };
    let path = format!("{root}/{}/{}", resource.version, resource.resource);
    COLUMNS.get(&path).map_or(&[], Vec::as_slice)
}

pub(super) fn struct_by_id(id: TypeId) -> &'static StructSchema {
    &FACTS.structs[usize::from(id.0)]
}

struct Facts {
    resources: Vec<ResourceFacts>,
    structs: Vec<StructSchema>,
    index: HashMap<String, TypeId>,
    by_kind: HashMap<(String, String, String), TypeId>,
}

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let text = include_str!("../../facts/kubernetes-1.36.json");
    let file: FactsFile = serde_json::from_str(text).expect("the facts file is valid");
    Facts::build(file)
});

static COLUMNS: LazyLock<HashMap<String, Vec<Column>>> = LazyLock::new(|| {
    let text = include_str!("../../facts/table-columns.json");
    serde_json::from_str(text).expect("the table facts are valid")
});

// === impl Facts ===

impl Facts {
    fn build(file: FactsFile) -> Facts {
        let index: HashMap<String, TypeId> = file
            .types
            .keys()
            .enumerate()
            .map(|(at, name)| (name.clone(), TypeId(at as u16)))
            .collect();
        let mut by_kind = HashMap::new();
        let structs = file
            .types
            .into_iter()
            .map(|(name, facts)| {
                if let Some([group, version, kind]) = &facts.gvk {
                    let key = (group.clone(), version.clone(), kind.clone());
                    by_kind.insert(key, index[&name]);
                }
                facts.into_struct(name, &index)
            })
            .collect();
        Facts { resources: file.resources, structs, index, by_kind }
    }
}

// === the file's shape ===

#[derive(Deserialize)]
struct FactsFile {
    resources: Vec<ResourceFacts>,
    types: BTreeMap<String, TypeFacts>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeFacts {
    fields: Vec<FieldFacts>,
    proto: Option<String>,
    gvk: Option<[String; 3]>,
    map: Option<String>,
    #[serde(default)]
    proto_inline: Vec<InlineFacts>,
    #[serde(default)]
    unions: Vec<UnionFacts>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FieldFacts {
    name: String,
    #[serde(rename = "type")]
    of: String,
    proto: Option<u32>,
    #[serde(default)]
    pointer: bool,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    always: bool,
    default: Option<Value>,
    list: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
    map: Option<String>,
    #[serde(default)]
    patch: String,
    patch_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InlineFacts {
    proto: u32,
    members: BTreeMap<String, u32>,
    #[serde(default)]
    proto_inline: Vec<InlineFacts>,
}

#[derive(Deserialize)]
struct UnionFacts {
    discriminator: Option<String>,
    #[serde(rename = "fields-to-discriminateBy")]
    members: BTreeMap<String, String>,
}

impl TypeFacts {
    fn into_struct(self, name: String, index: &HashMap<String, TypeId>) -> StructSchema {
        let inline: Vec<ProtoInline> =
            self.proto_inline.into_iter().map(InlineFacts::into_inline).collect();
        let mut fields: Vec<Field> =
            self.fields.into_iter().map(|field| field.into_field(index)).collect();
        for field in &mut fields {
            field.pointer |= is_inline_pointer(field, &inline);
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        StructSchema {
            name,
            fields,
            atomic: self.map.as_deref() == Some("atomic"),
            proto: self.proto.map(|name| ProtoMessage { name, inline }),
            gvk: self.gvk.map(|[group, version, kind]| (group, version, kind)),
            unions: self.unions.into_iter().map(UnionFacts::into_union).collect(),
            ..StructSchema::default()
        }
    }
}

/// The facts leave open which inline members are pointers. All structs among them are, as each is
/// one of several choices, but for the resources of ephemeral containers.
fn is_inline_pointer(field: &Field, inline: &[ProtoInline]) -> bool {
    let listed = |group: &ProtoInline| {
        group.members.iter().any(|(name, _)| *name == field.name)
            || is_inline_pointer(field, &group.inline)
    };
    matches!(field.schema, Schema::Struct(_))
        && field.name != "resources"
        && inline.iter().any(listed)
}

impl FieldFacts {
    fn into_field(self, index: &HashMap<String, TypeId>) -> Field {
        let schema = self.schema(&self.of, index);
        Field {
            schema,
            required: self.required,
            pointer: self.pointer,
            always: self.always,
            default: self.default,
            nullable: false,
            granular: self.map.as_deref() == Some("granular"),
            proto: self.proto,
            patch: PatchStrategy {
                merge: self.patch.split(',').any(|word| word == "merge"),
                replace: self.patch.split(',').any(|word| word == "replace"),
                retain_keys: self.patch.split(',').any(|word| word == "retainKeys"),
                key: self.patch_key,
            },
            name: self.name,
        }
    }

    fn schema(&self, of: &str, index: &HashMap<String, TypeId>) -> Schema {
        if let Some(items) = bracketed(of, '[', ']') {
            let items = self.schema(items, index);
            return Schema::List(Arc::new(ListSchema { items, topology: self.topology() }));
        }
        if let Some(values) = bracketed(of, '{', '}') {
            let values = self.schema(values, index);
            let atomic = self.map.as_deref() == Some("atomic");
            return Schema::Map(Arc::new(MapSchema { values, atomic, nullable: false }));
        }
        scalar(of).unwrap_or_else(|| {
            let id = index.get(of).unwrap_or_else(|| panic!("facts name the type {of}"));
            Schema::Struct(StructRef::Builtin(*id))
        })
    }

    fn topology(&self) -> ListType {
        match self.list.as_deref() {
            Some("map") => ListType::Map(self.keys.clone()),
            Some("set") => ListType::Set,
            _ => ListType::Atomic,
        }
    }
}

impl InlineFacts {
    fn into_inline(self) -> ProtoInline {
        ProtoInline {
            number: self.proto,
            members: self.members.into_iter().collect(),
            inline: self.proto_inline.into_iter().map(InlineFacts::into_inline).collect(),
        }
    }
}

impl UnionFacts {
    fn into_union(self) -> Union {
        Union { discriminator: self.discriminator, members: self.members.into_iter().collect() }
    }
}

fn bracketed(text: &str, open: char, close: char) -> Option<&str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

fn scalar(name: &str) -> Option<Schema> {
    Some(match name {
        "string" => Schema::String,
        "bool" => Schema::Bool,
        "int32" => Schema::Int32,
        "int64" => Schema::Int64,
        "double" => Schema::Double,
        "bytes" => Schema::Bytes,
        "time" => Schema::Time,
        "microTime" => Schema::MicroTime,
        "quantity" => Schema::Quantity,
        "intOrString" => Schema::IntOrString,
        "fieldsV1" => Schema::FieldsV1,
        "json" => Schema::Any(AnyForm::Json),
        "raw" => Schema::Any(AnyForm::Raw),
        "jsonSchemaOrBool" => Schema::Any(AnyForm::JsonSchemaOrBool),
        "jsonSchemaOrArray" => Schema::Any(AnyForm::JsonSchemaOrArray),
        "jsonSchemaOrStringArray" => Schema::Any(AnyForm::JsonSchemaOrStringArray),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_its_type() {
        assert_eq!(resources().len(), 68);
        for resource in resources() {
            let found = type_of_kind(&resource.group, &resource.version, &resource.kind);
            assert!(found.is_some(), "{} {}", resource.group, resource.kind);
        }
    }

    #[test]
    fn list_semantics_are_read() {
        let spec = struct_named("core.v1.PodSpec").expect("PodSpec is there");
        let containers = spec.field("containers").expect("containers is there");
        assert!(containers.patch.merge && containers.required && containers.always);
        assert_eq!(containers.patch.key.as_deref(), Some("name"));
        let Schema::List(list) = &containers.schema else { panic!("a list") };
        assert_eq!(list.topology, ListType::Map(vec!["name".into()]));
    }
}
