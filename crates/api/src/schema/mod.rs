//! The structure of objects: what fields there are and how lists and maps merge.
//!
//! The recorded facts of a release, or a CRD's structural schema, become one graph of [`Schema`]
//! nodes; decoding, pruning, defaulting, protobuf, patches and apply all walk it.
//! Counterpart: the OpenAPI types and `structured-merge-diff`'s typed schema.
//! Invariant: the graph is immutable once built. Built-in types may refer to themselves (by
//! [`StructRef::Builtin`]); custom ones cannot, as a structural schema has no references.

mod declarations;
mod facts;

use std::sync::Arc;

use serde_json::Value;

pub use declarations::{Declared, declared, declared_field};
pub use facts::{ResourceFacts, SubresourceFacts, resources, struct_named, struct_ref};
pub(crate) use facts::{columns, type_of_kind};

/// What may stand at one place of an object.
#[derive(Clone, Debug)]
pub enum Schema {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 text in JSON, raw bytes in protobuf.
    Bytes,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// A managedFields set: JSON that is bytes inside protobuf.
    FieldsV1,
    /// Any JSON, kept as it is and owned as one value (`runtime.RawExtension`, `apiextensions.JSON`,
    /// the schema-or-bool forms of JSONSchemaProps).
    Any(AnyForm),
    List(Arc<ListSchema>),
    Map(Arc<MapSchema>),
    Struct(StructRef),
}

/// How an [`Schema::Any`] is spelt in protobuf, and what JSON it admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyForm {
    /// `apiextensions.v1.JSON`: message with the JSON text in field 1.
    Json,
    /// `runtime.RawExtension`: message with the raw bytes in field 1.
    Raw,
    JsonSchemaOrBool,
    JsonSchemaOrArray,
    JsonSchemaOrStringArray,
    /// A custom resource's `x-kubernetes-preserve-unknown-fields` place without a type.
    Unknown,
}

#[derive(Debug)]
pub struct ListSchema {
    pub items: Schema,
    pub topology: ListType,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole; the default.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects identified by these keys.
    Map(Vec<String>),
}

#[derive(Debug)]
pub struct MapSchema {
    pub values: Schema,
    /// `x-kubernetes-map-type: atomic`: owned as one value by server-side apply.
    pub atomic: bool,
    /// `nullable: true` of the values: a custom resource keeps explicit nulls.
    pub nullable: bool,
}

/// Where a struct's definition is kept.
#[derive(Clone, Debug)]
pub enum StructRef {
    Builtin(TypeId),
    Custom(Arc<StructSchema>),
}

/// Index into the built-in types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

impl std::ops::Deref for StructRef {
    type Target = StructSchema;

    fn deref(&self) -> &StructSchema {
        match self {
            StructRef::Builtin(id) => facts::struct_by_id(*id),
            StructRef::Custom(schema) => schema,
        }
    }
}

/// An object with known fields.
#[derive(Clone, Debug, Default)]
pub struct StructSchema {
    /// Fact name such as `core.v1.PodSpec`; the kind for a custom resource's root, else empty.
    pub name: String,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// Fields that are not listed are kept as they are (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// A server-side apply may name fields that are not listed: they, or those of a place above, are kept.
    pub apply_unknown: bool,
    /// `x-kubernetes-embedded-resource`: apiVersion, kind and metadata are implied.
    pub embedded_resource: bool,
    pub proto: Option<ProtoMessage>,
    /// Group, version and kind of a type that is an object on its own.
    pub gvk: Option<(String, String, String)>,
    pub unions: Vec<Union>,
}

impl StructSchema {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|field| field.name.as_str().cmp(name))
            .ok()
            .map(|at| &self.fields[at])
    }
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub schema: Schema,
    pub required: bool,
    /// Absent and zero differ. A scalar that is no pointer is left out of JSON when zero, unless
    /// [`Field::always`].
    pub pointer: bool,
    /// Written even when empty.
    pub always: bool,
    /// The static default; what depends on other fields is a [`Strategy`](crate::Strategy) matter.
    pub default: Option<Value>,
    /// `nullable: true` of a structural schema: an explicit null is kept.
    pub nullable: bool,
    /// Server-side apply owns the fields of this struct one by one, although its type is atomic.
    pub granular: bool,
    pub proto: Option<u32>,
    pub patch: PatchStrategy,
}

/// How a strategic merge patch treats a field (`x-kubernetes-patch-strategy` and `-merge-key`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    /// Said outright, although it is what happens without a word.
    pub replace: bool,
    pub retain_keys: bool,
    pub key: Option<String>,
}

/// A struct whose fields exclude each other (`x-kubernetes-unions`).
#[derive(Clone, Debug)]
pub struct Union {
    pub discriminator: Option<String>,
    /// Field name and its discriminator value.
    pub members: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct ProtoMessage {
    /// Full message name, `k8s.io.api.core.v1.Pod`.
    pub name: String,
    /// Members that protobuf nests in an embedded message while JSON is flat.
    pub inline: Vec<ProtoInline>,
}

#[derive(Clone, Debug)]
pub struct ProtoInline {
    pub number: u32,
    /// JSON name and number inside of the embedded message.
    pub members: Vec<(String, u32)>,
    pub inline: Vec<ProtoInline>,
}
