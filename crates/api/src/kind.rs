//! A kind is a value: everything the request path needs to know about it.
//!
//! [`KindDef`]s are built from the recorded facts plus a [`Strategy`] (built-in kinds) or from a
//! CustomResourceDefinition; [`Kinds`] finds them by path. Routes, discovery, Tables, patches,
//! garbage collection and protobuf are derived from them. Counterpart: `registry/*/strategy.go`
//! and `rest.Storage`, which upstream writes once per kind.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kinds::fill::object_at;
use crate::kinds::pod_spec::drop_disabled_fields;
use crate::meta::meta_mut;
use crate::schema::StructRef;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    pub group: String,
    pub version: String,
}

/// Prints as `Deployment.apps`, or `Pod` for the core group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    pub group: String,
    pub kind: String,
}

/// Prints as `deployments.apps`, or `pods` for the core group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    pub group: String,
    pub resource: String,
}

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

/// The hooks of a kind, called by the one request path in the order listed here.
///
/// Every method has a default that fits a plain kind, so a kind's file says only what is special.
/// Objects are complete JSON objects of the kind's storage version, already checked against the schema for JSON
/// types, and pruned. Counterpart: `rest.RESTCreateStrategy`, `rest.RESTUpdateStrategy`, `rest.TableConvertor`.
pub trait Strategy: Send + Sync {
    /// Defaults that depend on other fields or that are no static fact. Runs after the static
    /// defaults, on create, update and on read of objects stored by an older release.
    fn default(&self, _object: &mut Value) {}

    /// The pointer to the PodSpec of the Pods that the kind is, or has made of a template.
    fn pod_spec(&self) -> Option<&'static str> {
        None
    }

    /// Clears what a client may not set on create (status), sets what the server sets.
    /// The default drops `status` if the kind has a status subresource.
    fn prepare_for_create(&self, kind: &KindDef, object: &mut Value) {
        if kind.subresource("status").is_some() {
            remove(object, "status");
        }
    }

    /// Keeps what an update of the main resource may not change (status).
    fn prepare_for_update(&self, kind: &KindDef, object: &mut Value, old: &Value) {
        if kind.subresource("status").is_some() {
            keep(object, old, "status");
        }
    }

    /// Keeps everything but status (and the metadata that status updates may change).
    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
    }

    /// What a change through another subresource that writes one part brings along.
    fn prepare_for_part_update(&self, _part: &str, _object: &mut Value, _old: &Value) {}

    /// Whether `metadata.generation` counts changes of this kind, and whether the objects differ in
    /// what counts: by default everything outside of metadata and status, for kinds with a status.
    fn generation_changes(&self, kind: &KindDef, object: &Value, old: &Value) -> bool {
        self.counts_generation(kind) && differ_outside_status(object, old)
    }

    /// Whether generation starts at 1 on create.
    fn counts_generation(&self, kind: &KindDef) -> bool {
        COUNTED.iter().any(|(group, name)| *name == kind.kind && *group == kind.group)
    }

    /// Faults of an object, apart from metadata, which is validated for every kind.
    fn validate(&self, _object: &Value, _errors: &mut ErrorList) {}

    /// Faults of a change: those of the new object, in upstream's order among those of the change.
    fn validate_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
    }

    /// Faults of a change through the status subresource (instead of the two above).
    fn validate_status_update(&self, _object: &Value, _old: &Value, _errors: &mut ErrorList) {}

    /// Faults of a create or change that are none in a namespace marked for administrators of devices.
    fn admin_faults(&self, _object: &Value, _old: Option<&Value>) -> ErrorList {
        ErrorList::default()
    }

    /// Annotations that are no metadata to upstream: views of the metadata alone do not show them.
    fn metadata_hides(&self) -> &'static [&'static str] {
        &[]
    }

    /// What an object gets once it has been found good.
    fn canonicalize(&self, _object: &mut Value) {}

    /// Faults of a change through another subresource, which changes one part of the object.
    fn validate_part_update(
        &self,
        _part: &str,
        object: &Value,
        _old: &Value,
        errors: &mut ErrorList,
    ) {
        self.validate(object, errors);
    }

    /// Texts of `Warning:` headers for a change through the status subresource.
    fn status_warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Texts of `Warning:` headers that a create gets even if it fails: about what preparation is
    /// going to rewrite.
    fn warnings_before_create(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Texts of `Warning:` headers for a create or update.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The rule for `metadata.name`.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    /// A PUT to a name that does not exist creates it (Events, Leases, ... as upstream).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a new object's metadata is looked at only where nothing else is wrong with it.
    fn checks_metadata_last(&self) -> bool {
        false
    }

    /// Whether the validation of a new object depends on which lists and maps were given empty.
    fn tells_empty_from_absent(&self) -> bool {
        false
    }

    /// An update without a resourceVersion is accepted and overwrites.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// The grace period in seconds of a deletion that asks for none; `None`: deleted at once.
    /// `requested` is what DeleteOptions say. Pods are the one kind with grace.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Field selector keys beside `metadata.name` and `metadata.namespace`, with the JSON pointer
    /// of each.
    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Rows of a Table end with the object's age under no column.
    fn ends_with_age(&self) -> bool {
        false
    }

    /// The cell of a Table row under the column with this name; `now` is Unix seconds.
    /// Name, Age and Created At are filled in for every kind and never asked for.
    fn cell(&self, _object: &Value, _column: &str, _now: i64) -> Value {
        Value::Null
    }

    /// Turns a stored object into another served version of the same kind.
    fn convert(&self, _object: &mut Value, _to: &GroupVersion) -> Result<(), String> {
        Ok(())
    }
}

/// The built-in kinds whose changes `metadata.generation` counts, by group.
const COUNTED: &[(&str, &str)] = &[
    ("", "Pod"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("resource.k8s.io", "DeviceClass"),
    ("resource.k8s.io", "ResourceSlice"),
    ("scheduling.k8s.io", "PriorityClass"),
];

/// How names of a kind are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /// DNS-1035: starts with a letter.
    Dns1035Label,
    /// Any text that can be one path segment (RBAC).
    PathSegment,
    /// A colon-separated list of path segments is fine as well (CSRs, API services validate their own).
    Custom,
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

/// The built-in and custom kinds that are served now. Cheap to clone; changed by building a new one.
#[derive(Clone, Default)]
pub struct Kinds {
    served: Shelf,
    /// Versions that are stored but not served.
    hidden: Shelf,
}

/// Kinds by group, version and resource. In order, so that looking one up, as every request does, makes no key of its own.
#[derive(Clone, Default)]
struct Shelf(Vec<Arc<KindDef>>);

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
        join_version(&self.group, &self.version)
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

// === impl Kinds ===

impl Kinds {
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<KindDef>> {
        self.served.get((group, version, resource))
    }

    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<KindDef>> {
        self.in_version(group, version).find(|def| def.kind == kind)
    }

    /// Every kind of a group and version, by resource name.
    pub fn in_version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<KindDef>> {
        let Shelf(served) = &self.served;
        let place =
            |def: &Arc<KindDef>| (def.group.as_str(), def.version.as_str()).cmp(&(group, version));
        let first = served.partition_point(|def| place(def).is_lt());
        let count = served[first..].partition_point(|def| place(def).is_eq());
        served[first..first + count].iter()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<KindDef>> {
        self.served.0.iter()
    }

    pub fn insert(&mut self, def: KindDef) {
        self.served.insert(def);
    }

    /// Adds a version that objects are stored in although nobody is served it.
    pub fn insert_hidden(&mut self, def: KindDef) {
        self.hidden.insert(def);
    }

    pub fn remove(&mut self, group: &str, version: &str, resource: &str) {
        if let Ok(at) = self.served.place_of((group, version, resource)) {
            self.served.0.remove(at);
        }
    }

    /// Removes every version of a custom resource.
    pub fn remove_custom(&mut self, group: &str, resource: &str) {
        let others =
            |def: &KindDef| !(def.custom && def.group == group && def.resource == resource);
        self.served.0.retain(|def| others(def));
        self.hidden.0.retain(|def| others(def));
    }

    /// A version of a resource, served or not.
    pub fn defined(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<KindDef>> {
        let key = (group, version, resource);
        self.served.get(key).or_else(|| self.hidden.get(key))
    }

    /// The kind in the version that its objects are stored in.
    pub fn stored(&self, kind: &Arc<KindDef>) -> Arc<KindDef> {
        let storage = &kind.storage_version;
        if storage.version == kind.version && storage.group == kind.group {
            return kind.clone();
        }
        self.defined(&storage.group, &storage.version, &kind.resource).unwrap_or(kind).clone()
    }
}

// === impl Shelf ===

impl Shelf {
    fn place_of(&self, key: (&str, &str, &str)) -> Result<usize, usize> {
        self.0.binary_search_by(|def| key_of(def).cmp(&key))
    }

    fn get(&self, key: (&str, &str, &str)) -> Option<&Arc<KindDef>> {
        self.place_of(key).ok().map(|at| &self.0[at])
    }

    fn insert(&mut self, def: KindDef) {
        let place = self.place_of(key_of(&def));
        let def = Arc::new(def);
        match place {
            Ok(at) => self.0[at] = def,
            Err(at) => self.0.insert(at, def),
        }
    }
}

impl FromIterator<KindDef> for Kinds {
    fn from_iter<I: IntoIterator<Item = KindDef>>(defs: I) -> Kinds {
        let mut kinds = Kinds::default();
        defs.into_iter().for_each(|def| kinds.insert(def));
        kinds
    }
}

fn key_of(def: &KindDef) -> (&str, &str, &str) {
    (&def.group, &def.version, &def.resource)
}

// === names ===

impl GroupKind {
    pub fn new(group: impl Into<String>, kind: impl Into<String>) -> GroupKind {
        GroupKind { group: group.into(), kind: kind.into() }
    }
}

impl GroupResource {
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> GroupResource {
        GroupResource { group: group.into(), resource: resource.into() }
    }
}

impl GroupVersion {
    pub fn new(group: impl Into<String>, version: impl Into<String>) -> GroupVersion {
        GroupVersion { group: group.into(), version: version.into() }
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.kind, &self.group)
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.resource, &self.group)
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join_version(&self.group, &self.version))
    }
}

fn dotted(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    match group.is_empty() {
        true => f.write_str(name),
        false => write!(f, "{name}.{group}"),
    }
}

fn join_version(group: &str, version: &str) -> String {
    match group.is_empty() {
        true => version.to_owned(),
        false => format!("{group}/{version}"),
    }
}

// === the plain strategy's parts ===

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Makes `field` of `object` what it was in `old`.
pub fn keep(object: &mut Value, old: &Value, field: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// What a change through the status subresource leaves alone.
pub fn keep_all_but_status(object: &mut Value, old: &Value) {
    let (Some(new), Some(was)) = (object.as_object_mut(), old.as_object()) else { return };
    let own = |name: &str| matches!(name, "status" | "metadata" | "apiVersion" | "kind");
    new.retain(|name, _| own(name));
    for (name, value) in was.iter().filter(|(name, _)| !own(name)) {
        new.insert(name.clone(), value.clone());
    }
}

/// The metadata that some kinds do not let a status update change.
pub const SETTLED_META: &[&str] =
    &["annotations", "deletionTimestamp", "finalizers", "generation", "labels", "ownerReferences"];

/// Gives `fields` of the metadata back what they were.
pub fn keep_meta(object: &mut Value, old: &Value, fields: &[&str]) {
    let Some(metadata) = meta_mut(object) else { return };
    for field in fields {
        match old["metadata"].get(field) {
            Some(value) => drop(metadata.insert((*field).to_owned(), value.clone())),
            None => drop(metadata.remove(*field)),
        }
    }
}

fn differ_outside_status(object: &Value, old: &Value) -> bool {
    let (Some(new), Some(was)) = (object.as_object(), old.as_object()) else { return false };
    let counted = |name: &str| !matches!(name, "status" | "metadata" | "apiVersion" | "kind");
    let mut ours = new.iter().filter(|(name, _)| counted(name));
    let mut theirs = was.iter().filter(|(name, _)| counted(name));
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return false,
            (a, b) if a == b => {}
            _ => return true,
        }
    }
}
