//! A kind is a value: everything the request path needs to know about it.
//!
//! [`KindDef`]s are built from the recorded facts plus a [`Strategy`] (built-in kinds) or from a
//! CustomResourceDefinition; [`Kinds`] finds them by path. Routes, discovery, Tables, patches,
//! garbage collection and protobuf are derived from them. Counterpart: `rest.Storage`, which upstream
//! writes once per kind.

mod kinds;
mod names;
mod strategy;

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::kinds::fill::object_at;
use crate::kinds::pod_spec::drop_disabled_fields;
use crate::schema::StructRef;

pub use kinds::Kinds;
pub use names::{GroupKind, GroupResource, GroupVersion};
pub use strategy::{
    FieldPaths, META_AND_SPEC, NameRule, SETTLED_META, Strategy, keep, keep_all_but_status,
    keep_meta,
};

/// Everything there is to say about one kind at one version.
#[derive(Clone)]
pub struct KindDef {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    /// The plural name in paths.
    pub resource: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
    /// The columns of a Table.
    pub columns: Vec<Column>,
    pub schema: StructRef,
    /// What sets this kind apart from any other.
    pub strategy: Arc<dyn Strategy>,
    /// The version in which objects are stored. Other served versions are converted on the way.
    pub storage_version: GroupVersion,
    /// Store keys of this kind start with it; ends with `/`.
    pub key_prefix: String,
    /// Defined by a CustomResourceDefinition.
    pub custom: bool,
    /// Field selector keys that a CustomResourceDefinition adds, with their JSON pointers.
    pub selectable: Vec<(String, String)>,
    /// A custom kind's `openAPIV3Schema` as it was declared, to be published.
    pub document: Option<Arc<Value>>,
    /// Where a custom kind with a scale subresource keeps what that speaks of.
    pub scale: Option<ScalePaths>,
    /// How objects of a custom kind come to be in this version.
    pub versioning: Option<Arc<Versioning>>,
}

/// What a CustomResourceDefinition says of one of its versions, beside its shape.
#[derive(Clone, Debug, Default)]
pub struct Versioning {
    /// What every client that speaks this version is warned of.
    pub deprecation: Option<String>,
    /// Who converts between versions; without one, only the version's name changes.
    pub webhook: Option<ConversionWebhook>,
    pub edition: Arc<Edition>,
    /// The definition is being deleted: nothing new is let in.
    pub terminating: bool,
}

/// What a definition says of its kinds, and since when. A watch lasts as long as one edition.
#[derive(Clone, Debug, Default)]
pub struct Edition {
    /// What was stored up to this revision may have been another schema's.
    pub since: u64,
    /// Spec and accepted names.
    pub says: (Value, Value),
}

/// `spec.conversion.webhook` of a definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConversionWebhook {
    /// The definition's name.
    pub definition: String,
    /// A `WebhookClientConfig`.
    pub client: Value,
    pub review_versions: Vec<String>,
}

/// JSON pointers into an object that can be scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// A label selector in its text form.
    pub selector: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    pub verbs: Vec<String>,
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// One column of a Table, `metav1.TableColumnDefinition` without its prose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    #[serde(rename = "type")]
    pub of: String,
    /// `name` for the name column, else empty.
    pub format: String,
    /// 0 is shown always, 1 only with `-o wide`.
    pub priority: i32,
    /// Left out where the column shows what every object has.
    #[serde(default)]
    pub description: String,
}

// === impl Edition ===

impl Edition {
    pub fn of(definition: &Value, since: u64) -> Edition {
        let part = |pointer: &str| definition.pointer(pointer).cloned().unwrap_or_default();
        Edition { since, says: (part("/spec"), part("/status/acceptedNames")) }
    }
}

// === impl KindDef ===

impl KindDef {
    /// What becomes of a new object before it is validated: [`Strategy::prepare_for_create`],
    /// without fields of features that are off.
    pub fn prepare_for_create(&self, object: &mut Value) {
        self.drop_disabled_fields(object);
        self.strategy.prepare_for_create(self, object);
    }

    /// As [`KindDef::prepare_for_create`], for an update of the whole object.
    pub fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        self.drop_disabled_fields(object);
        self.strategy.prepare_for_update(self, object, old);
    }

    fn drop_disabled_fields(&self, object: &mut Value) {
        let spec = self.strategy.pod_spec().and_then(|pointer| object_at(object, pointer));
        if let Some(spec) = spec {
            drop_disabled_fields(spec);
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        names::join_version(&self.group, &self.version)
    }

    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&self.group, &self.kind)
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.resource)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The store key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{}{namespace}/{name}", self.key_prefix),
            false => format!("{}{name}", self.key_prefix),
        }
    }
}

impl fmt::Debug for KindDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KindDef({}/{} {})", self.group, self.version, self.resource)
    }
}
