//! Go's names of types, as its decoder prints them in errors.

use crate::kind::KindDef;
use crate::schema::{Schema, StructSchema};

/// A value that does not fit its field; prints what Go's decoder prints.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// `core.v1.PodSpec` is `v1.PodSpec` to Go.
pub fn structure(schema: &StructSchema) -> String {
    let mut parts = schema.name.rsplit('.');
    let name = parts.next().unwrap_or_default();
    match parts.next() {
        Some(package) => format!("{package}.{name}"),
        None => name.to_owned(),
    }
}

/// The package of a group's internal types.
pub fn internal_package(group: &str) -> &str {
    match group {
        // Events have one internal type, whichever group they are asked for in.
        "" | "events.k8s.io" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        other => other.split('.').next().unwrap_or_default(),
    }
}

/// What Go's `%T` says of an object in the middle of a request.
pub fn object(kind: &KindDef) -> String {
    match kind.custom {
        true => "*unstructured.Unstructured".to_owned(),
        false => format!("*{}.{}", internal_package(&kind.group), kind.kind),
    }
}

pub fn of(schema: &Schema) -> String {
    match schema {
        Schema::String => "string".to_owned(),
        Schema::Bool => "bool".to_owned(),
        Schema::Int32 => "int32".to_owned(),
        Schema::Int64 => "int64".to_owned(),
        Schema::Double => "float64".to_owned(),
        Schema::Bytes => "[]uint8".to_owned(),
        Schema::Time => "v1.Time".to_owned(),
        Schema::MicroTime => "v1.MicroTime".to_owned(),
        Schema::Quantity => "resource.Quantity".to_owned(),
        Schema::IntOrString => "intstr.IntOrString".to_owned(),
        Schema::FieldsV1 => "v1.FieldsV1".to_owned(),
        Schema::Any(_) => "interface {}".to_owned(),
        Schema::List(list) => format!("[]{}", of(&list.items)),
        Schema::Map(map) => format!("map[string]{}", of(&map.values)),
        Schema::Struct(it) => structure(it),
    }
}
