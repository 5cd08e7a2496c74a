//! What create, update, patch and the subresources share: from a decoded object to a committed revision.
//!
//! ownership -> mutating admission -> strategy -> validation -> validating admission -> transaction. Counterpart:
//! `rest.BeforeCreate`, `rest.BeforeUpdate` and `Store.Create`/`Store.Update`. Invariant: a dry run does everything but
//! the transaction, and no path to the store leaves one of these stages out.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use skiff_api::codec::{self, Decoded, Target, decode_stored};
use skiff_api::field::{ErrorList, Path};
use skiff_api::kinds::pod_spec::security::NOT_ALLOWED;
use skiff_api::kinds::resource::admin;
use skiff_api::meta::{meta, meta_mut};
use skiff_api::validation::{
    drop_repeated_owners, validate_kind_meta_update, validate_meta, validate_meta_update,
};
use skiff_api::{GroupKind, KindDef, Reason, Status, default};
use skiff_store::{Entry, Error, Expect, Revision, Txn};

use crate::admission::{self, Operation, Request};
use crate::authz::escalation;
use crate::call::{Call, FieldValidation, WriteOptions};
use crate::network::Allocation;
use crate::objects;
use crate::ownership;
use crate::subresources::part;

/// One write under way.
pub struct Write<'a> {
    pub call: &'a Call,
    /// As the path names it.
    pub kind: Arc<KindDef>,
    /// As it is stored; everything between decoding and the store happens at this version.
    pub stored: Arc<KindDef>,
    /// `status`, ...; empty for the object itself.
    pub subresource: String,
    pub options: WriteOptions,
    /// What of the object a subresource shows, if that is a kind of its own.
    pub facet: Option<&'a dyn Facet>,
}

/// A side of an object that is a kind of its own, as its scale is: admission is shown this, not the whole.
pub trait Facet: Sync {
    fn show(&self, object: &Value) -> Value;

    fn put(&self, object: &mut Value, part: &Value);
}

/// A state that is to replace the current one.
pub struct Proposed {
    pub object: Value,
    /// Server-side apply has settled who owns what.
    pub owned: bool,
    /// The client names the revision this is for: a lost race is the client's to settle.
    pub fixed: bool,
}

/// What became of a write.
pub struct Outcome {
    pub bytes: Bytes,
    pub created: bool,
}

/// How often a write that names no revision starts over when others are faster.
const ATTEMPTS: usize = 100;
/// How often another name is drawn for `generateName`.
const NAME_ATTEMPTS: usize = 8;

// === impl Write ===

impl<'a> Write<'a> {
    pub fn new(
        call: &'a Call,
        kind: Arc<KindDef>,
        subresource: &str,
        options: WriteOptions,
    ) -> Write<'a> {
        // A custom object is handled at the version that is spoken, and converted on its way to the store.
        let stored = match kind.custom {
            true => kind.clone(),
            false => objects::storage_kind(&call.server.kinds(), &kind),
        };
        Write { call, kind, stored, subresource: subresource.to_owned(), options, facet: None }
    }

    pub fn through(self, facet: &'a dyn Facet) -> Write<'a> {
        Write { facet: Some(facet), ..self }
    }

    /// The body as an object of the path's kind, findings handled as the client asked.
    pub fn decode_body(&self) -> Result<Value, Status> {
        let target = Target::of(&self.kind);
        let decoded = codec::decode(&self.call.body, self.call.body_format()?, &target)?;
        self.accept(decoded, &target)
    }

    /// Strict findings refuse, warn or pass.
    pub fn accept(&self, decoded: Decoded, target: &Target<'_>) -> Result<Value, Status> {
        match self.options.validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => {
                decoded.strict.iter().for_each(|finding| self.call.warn(finding.as_str()))
            }
            FieldValidation::Strict => {
                if let Some(refused) = target.strict_error(&decoded.strict) {
                    return Err(refused);
                }
            }
        }
        Ok(decoded.object)
    }

    /// Defaults, then the version that is stored.
    pub fn to_stored(&self, mut object: Value) -> Result<Value, Status> {
        default::apply(&mut object, &self.kind);
        if Arc::ptr_eq(&self.kind, &self.stored) {
            return Ok(object);
        }
        let mut object = objects::value_at_version(&self.stored, object)?;
        default::apply(&mut object, &self.stored);
        Ok(object)
    }

    /// The object's namespace is the request's.
    pub fn check_namespace(&self, object: &mut Value) -> Result<(), Status> {
        if !self.kind.namespaced {
            remove(object, "namespace");
            return Ok(());
        }
        let wanted = self.call.info.namespace.as_str();
        match meta(object).namespace() {
            given if given == wanted => Ok(()),
            "" => {
                set(object, "namespace", wanted.into());
                Ok(())
            }
            _ => Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            )),
        }
    }

    // --- create ---

    /// Stores an object that must not exist yet.
    pub async fn create(&self, object: Value, owned: bool) -> Result<Outcome, Status> {
        let generated =
            meta(&object).name().is_empty() && !meta(&object).generate_name().is_empty();
        if generated {
            for _ in 1..NAME_ATTEMPTS {
                match self.create_once(object.clone(), owned).await {
                    Err(taken) if taken.reason == Reason::AlreadyExists => {}
                    outcome => return outcome,
                }
            }
        }
        self.create_once(object, owned).await
    }

    async fn create_once(&self, mut object: Value, owned: bool) -> Result<Outcome, Status> {
        let revision = meta(&object).resource_version();
        if !revision.is_empty() && !self.options.dry_run {
            return Err(Status::new(
                500,
                Reason::Unknown,
                "resourceVersion should not be set on objects to be created",
            ));
        }
        wipe_system_meta(&mut object);
        self.name_owners_once(&mut object);
        if !owned {
            ownership::track(self, &mut object, None)?;
        }
        crate::custom::refuse_new_objects(&self.kind, meta(&object).name())?;
        let mut request = Request::new(self, Operation::Create, None);
        admission::mutate(&mut request, &mut object).await?;
        fill_new_meta(&mut object);
        let allocation = self.assign(&mut object, None)?;
        self.prepare_new(&mut object);
        self.refuse_faults(&object, None).await?;
        self.stored.strategy.canonicalize(&mut object);
        admission::validate(&request, &object).await?;
        escalation::check(self.call, &self.stored, &object, None).await?;
        self.commit_new(object, allocation).await
    }

    /// Addresses and ports of a Service; a part of one, such as its status, has none.
    fn assign(&self, object: &mut Value, old: Option<&Value>) -> Result<Allocation<'a>, Status> {
        let kind = &self.stored;
        match self.subresource.as_str() {
            "" => self.call.server.network.assign(kind, object, old, self.options.dry_run),
            _ => Ok(Allocation::none()),
        }
    }

    fn prepare_new(&self, object: &mut Value) {
        let strategy = &self.stored.strategy;
        strategy.warnings_before_create(object).into_iter().for_each(|text| self.call.warn(text));
        strategy.prepare_for_create(&self.stored, object);
        // Where changes are not counted, the number is whatever the client says.
        if strategy.counts_generation(&self.stored) {
            set(object, "generation", 1.into());
        }
    }

    async fn commit_new(
        &self,
        mut object: Value,
        allocation: Allocation<'_>,
    ) -> Result<Outcome, Status> {
        let (namespace, name) = self.place(&object);
        let key = self.stored.key(&namespace, &name);
        if self.options.dry_run {
            objects::as_stored(&self.stored, &mut object);
            return match objects::read(&self.call.server, &key).await? {
                Some(existing) => Err(self.taken(&existing, &name)),
                None => self.unstored(self.through_store(object).await?, true),
            };
        }
        let value = objects::encode_stored(&self.call.server, &self.stored, &mut object).await?;
        let mut txn = Txn::put(key, value, Expect::Absent)
            .note(objects::note(self.call, &self.options.manager));
        txn.ops.extend(allocation.ops(&self.call.server.kinds(), &object));
        match objects::commit(&self.call.server, &self.stored, txn).await {
            Ok(committed) => {
                allocation.keep(&object);
                let entry =
                    committed.entry().ok_or_else(|| Status::internal("nothing was written"))?;
                self.outcome(entry, true).await
            }
            Err(Error::Conflict { current: Some(existing), .. }) => {
                Err(self.taken(&existing, &name))
            }
            Err(error) => Err(objects::store_status(error)),
        }
    }

    fn place(&self, object: &Value) -> (String, String) {
        let name = meta(object).name().to_owned();
        let namespace = if self.stored.namespaced {
            meta(object).namespace().to_owned()
        } else {
            String::new()
        };
        (namespace, name)
    }

    fn taken(&self, existing: &Entry, name: &str) -> Status {
        let mut status = Status::already_exists(&self.kind.group_resource(), name);
        let leaving = decode_stored(&existing.value)
            .is_ok_and(|object| meta(&object).deletion_timestamp().is_some());
        if leaving {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    // --- update ---

    /// Replaces the current state by what `propose` makes of it (given at the path's version). Starts over when
    /// another write came between, unless the proposal names the revision it is for.
    pub async fn update<F>(&self, name: &str, mut propose: F) -> Result<Outcome, Status>
    where
        F: FnMut(Option<Value>) -> Result<Proposed, Status>,
    {
        let namespace = if self.kind.namespaced { self.call.info.namespace.as_str() } else { "" };
        let key = self.stored.key(namespace, name);
        for _ in 0..ATTEMPTS {
            let Some(entry) = objects::read(&self.call.server, &key).await? else {
                let proposed = propose(None)?;
                return self.create_by_update(proposed, name).await;
            };
            let server = &self.call.server;
            let old =
                objects::value(server, &self.stored, &entry.value, entry.mod_revision).await?;
            let proposed = propose(Some(objects::value_at_version(&self.kind, old.clone())?))?;
            let fixed = proposed.fixed;
            match self.update_once(&entry, old, proposed).await {
                Err(status) if is_lost_race(&status) && !fixed => {}
                outcome => return outcome,
            }
        }
        Err(Status::modified(&self.kind.group_resource(), name))
    }

    /// A PUT or an apply to a name that is free.
    async fn create_by_update(&self, proposed: Proposed, name: &str) -> Result<Outcome, Status> {
        let mut object = proposed.object;
        if !matches!(meta(&object).resource_version(), "" | "0") {
            return Err(Status::not_found(&self.kind.group_resource(), name));
        }
        remove(&mut object, "resourceVersion");
        let object = self.to_stored(object)?;
        self.create(object, proposed.owned).await
    }

    async fn update_once(
        &self,
        entry: &Arc<Entry>,
        old: Value,
        proposed: Proposed,
    ) -> Result<Outcome, Status> {
        let name = meta(&old).name().to_owned();
        let mut object = self.to_stored(proposed.object)?;
        if self.call.info.verb == "update" {
            self.name_owners_once(&mut object);
        }
        self.check_identity(&object, &old, entry, &name)?;
        if !proposed.owned {
            ownership::track(self, &mut object, Some(&old))?;
        }
        carry_meta(&mut object, &old);
        let old_part = self.facet.map(|facet| facet.show(&old));
        let old_shown = old_part.as_ref().unwrap_or(&old);
        let mut request = Request::new(self, Operation::Update, Some(old_shown));
        self.mutate(&mut request, &mut object).await?;
        let allocation = self.assign(&mut object, Some(&old))?;
        self.prepare_change(&mut object, &old);
        self.refuse_faults(&object, Some(&old)).await?;
        self.stored.strategy.canonicalize(&mut object);
        match self.facet {
            Some(facet) => admission::validate(&request, &facet.show(&object)).await?,
            // The body of a binding was admitted; that the pod changes with it is the server's doing.
            None if self.subresource == "binding" => {}
            None => admission::validate(&request, &object).await?,
        }
        escalation::check(self.call, &self.stored, &object, Some(&old)).await?;
        self.commit_change(entry, object, &old, allocation).await
    }

    async fn mutate(&self, request: &mut Request<'_>, object: &mut Value) -> Result<(), Status> {
        match self.facet {
            Some(facet) => {
                let mut part = facet.show(object);
                admission::mutate(request, &mut part).await?;
                facet.put(object, &part);
                Ok(())
            }
            None if self.subresource == "binding" => Ok(()),
            None => admission::mutate(request, object).await,
        }
    }

    /// The revision and uid that a client names must be the current ones.
    fn check_identity(
        &self,
        object: &Value,
        old: &Value,
        entry: &Entry,
        name: &str,
    ) -> Result<(), Status> {
        let resource = self.kind.group_resource();
        let (asked, uid) = (meta(object).uid(), meta(old).uid());
        // Only a whole object states a precondition by its uid; in a patch it is a change of the field.
        let states = self.call.info.verb == "update" && !asked.is_empty();
        if states && asked != uid {
            return Err(Status::conflict(
                &resource,
                name,
                &format!(
                    "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}",
                    entry.key
                ),
            ));
        }
        match meta(object).resource_version() {
            "" | "0" => self.check_unconditional(name),
            text => {
                let asked: u64 = text.parse().map_err(|_| {
                    Status::new(
                        500,
                        Reason::Unknown,
                        format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
                    )
                })?;
                match Revision(asked) == entry.mod_revision {
                    true => Ok(()),
                    false => Err(Status::modified(&resource, name)),
                }
            }
        }
    }

    /// An owner that is named twice is kept once, with a warning.
    fn name_owners_once(&self, object: &mut Value) {
        let repeated = drop_repeated_owners(object);
        if !repeated.is_empty() {
            self.call.warn(format!(
                ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
                repeated.join(", ")
            ));
        }
    }

    fn check_unconditional(&self, name: &str) -> Result<(), Status> {
        if self.stored.strategy.allow_unconditional_update() {
            return Ok(());
        }
        let mut errors = ErrorList::default();
        errors.invalid(
            &Path::new("metadata").child("resourceVersion"),
            0,
            "must be specified for an update",
        );
        Err(Status::invalid(&GroupKind::new(&self.kind.group, &self.kind.resource), name, errors))
    }

    fn prepare_change(&self, object: &mut Value, old: &Value) {
        let (strategy, kind) = (&self.stored.strategy, &self.stored);
        match self.subresource.as_str() {
            "" => {
                strategy.prepare_for_update(kind, object, old);
                self.call.server.network.drop_by_type(kind, object, old);
            }
            "status" => {
                strategy.prepare_for_status_update(kind, object, old);
                keep_settled_meta(kind, object, old);
            }
            part => part::take(part, object, old),
        }
        // A binding decides where a pod runs, not what it is.
        let counts = !matches!(self.subresource.as_str(), "status" | "binding");
        let changed = counts && strategy.generation_changes(kind, object, old);
        let generation = meta(old).generation() + i64::from(changed);
        match generation {
            0 => remove(object, "generation"),
            generation => set(object, "generation", generation.into()),
        }
    }

    async fn commit_change(
        &self,
        entry: &Arc<Entry>,
        mut object: Value,
        old: &Value,
        allocation: Allocation<'_>,
    ) -> Result<Outcome, Status> {
        skiff_api::apply::keep_times_if_unchanged(&mut object, old);
        let shown = self.options.dry_run.then(|| object.clone());
        let value = objects::encode_stored(&self.call.server, &self.stored, &mut object).await?;
        if same_but_revision(&value.bytes, entry) {
            return self.outcome(entry, false).await;
        }
        if let Some(mut shown) = shown {
            objects::as_stored(&self.stored, &mut shown);
            set(&mut shown, "resourceVersion", entry.mod_revision.to_string().into());
            return self.unstored(self.through_store(shown).await?, false);
        }
        let (txn, deleted) = match is_released(&object, old) {
            true => (Txn::delete(entry.key.clone(), Expect::Mod(entry.mod_revision)), true),
            false => (Txn::put(entry.key.clone(), value, Expect::Mod(entry.mod_revision)), false),
        };
        let mut txn = txn.note(objects::note(self.call, &self.options.manager));
        txn.ops.extend(match deleted {
            true => self.call.server.network.removal_ops(&self.stored, old),
            false => allocation.ops(&self.call.server.kinds(), &object),
        });
        let txn = if self.is_node_heartbeat() { txn.volatile() } else { txn };
        match objects::commit(&self.call.server, &self.stored, txn).await {
            Ok(committed) => {
                allocation.keep(&object);
                let event = committed
                    .events
                    .first()
                    .ok_or_else(|| Status::internal("nothing was written"))?;
                if deleted {
                    self.call.server.network.release(&self.stored, &object);
                    set(&mut object, "resourceVersion", committed.revision.to_string().into());
                    return self.unstored(object, false);
                }
                self.outcome(&event.entry, false).await
            }
            Err(Error::Conflict { current, .. }) => {
                Err(self.lost_race(current.as_deref(), meta(old).name()))
            }
            Err(error) => Err(objects::store_status(error)),
        }
    }

    /// A node's status ticks all the time, and its kubelet tells it again after a crash.
    fn is_node_heartbeat(&self) -> bool {
        self.subresource == "status" && self.stored.kind == "Node" && !self.stored.custom
    }

    fn lost_race(&self, current: Option<&Entry>, name: &str) -> Status {
        match current {
            Some(_) => Status::modified(&self.kind.group_resource(), name),
            None => Status::not_found(&self.kind.group_resource(), name),
        }
    }

    // --- shared ---

    /// What is wrong with an object outside of the namespaces that are marked for administrators.
    async fn admin_faults(&self, object: &Value, old: Option<&Value>) -> Result<ErrorList, Status> {
        let faults = self.kind.strategy.admin_faults(object, old);
        if faults.is_empty() {
            return Ok(faults);
        }
        let (server, namespace) = (&self.call.server, meta(object).namespace());
        let namespace = objects::find(server, "namespaces", "", namespace).await?;
        let marked = namespace.is_some_and(|it| meta(&it).label(admin::LABEL) == Some("true"));
        Ok(if marked { ErrorList::default() } else { faults })
    }

    async fn refuse_faults(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let mut errors = self.admin_faults(object, old).await?;
        // The rules are those of the group the request speaks: events are held to two sets of them.
        let strategy = &self.kind.strategy;
        match (old, self.subresource.as_str()) {
            (None, _) => {
                validate_meta(&self.stored, object, &mut errors);
                strategy.validate(object, &mut errors);
            }
            (Some(old), "status") => {
                validate_meta_update(&self.stored, object, old, &mut errors);
                validate_kind_meta_update(&self.stored, object, old, &mut errors);
                strategy.validate_status_update(object, old, &mut errors);
            }
            (Some(old), "binding") => {
                validate_meta_update(&self.stored, object, old, &mut errors);
            }
            (Some(old), part) if part::is_part(part) => {
                validate_meta_update(&self.stored, object, old, &mut errors);
                validate_kind_meta_update(&self.stored, object, old, &mut errors);
                strategy.validate_part_update(part, object, old, &mut errors);
            }
            (Some(old), _) => {
                validate_meta_update(&self.stored, object, old, &mut errors);
                validate_kind_meta_update(&self.stored, object, old, &mut errors);
                strategy.validate_update(object, old, &mut errors);
            }
        }
        if self.call.server.config.allow_privileged {
            errors.0.retain(|error| !error.detail.ends_with(NOT_ALLOWED));
        }
        errors.take_warnings().into_iter().for_each(|text| self.call.warn(text));
        if !errors.is_empty() {
            return Err(Status::invalid(&self.said_kind(object), meta(object).name(), errors));
        }
        let warnings = match self.subresource.as_str() {
            "" => strategy.warnings(object, old),
            "status" => strategy.status_warnings(object),
            _ => Vec::new(),
        };
        warnings.into_iter().for_each(|text| self.call.warn(text));
        Ok(())
    }

    /// A custom resource is reported as the kind it says it is, which may be what is wrong with it.
    fn said_kind(&self, object: &Value) -> GroupKind {
        let kind = object["kind"].as_str().filter(|_| self.stored.custom);
        GroupKind::new(&self.stored.group, kind.unwrap_or(&self.stored.kind))
    }

    async fn outcome(&self, entry: &Entry, created: bool) -> Result<Outcome, Status> {
        let (server, revision) = (&self.call.server, entry.mod_revision);
        let bytes = objects::at_version(server, &self.kind, &entry.value, revision).await?;
        Ok(Outcome { bytes, created })
    }

    /// What storing and reading would make of an object.
    async fn through_store(&self, object: Value) -> Result<Value, Status> {
        let server = &self.call.server;
        let stored = objects::storage_kind(&server.kinds(), &self.stored);
        match self.stored.custom && !Arc::ptr_eq(&stored, &self.stored) {
            false => Ok(object),
            true => {
                let stored = objects::unstored(server, &stored, object).await?;
                objects::unstored(server, &self.stored, stored).await
            }
        }
    }

    /// The answer to a dry run, or to the removal of an object.
    fn unstored(&self, object: Value, created: bool) -> Result<Outcome, Status> {
        let shown = objects::value_at_version(&self.kind, object)?;
        Ok(Outcome { bytes: objects::plain_bytes(&self.kind, &shown), created })
    }
}

/// What a client may not say about a new object, and mutating admission does not know yet.
fn wipe_system_meta(object: &mut Value) {
    const FIELDS: &[&str] = &[
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ];
    FIELDS.iter().for_each(|field| remove(object, field));
}

/// What the server says about every new object, once admission has had its way with it.
fn fill_new_meta(object: &mut Value) {
    let prefix = meta(object).generate_name().to_owned();
    if meta(object).name().is_empty() && !prefix.is_empty() {
        set(object, "name", generated_name(&prefix).into());
    }
    set(object, "uid", uuid::Uuid::new_v4().to_string().into());
    set(object, "creationTimestamp", skiff_api::time::format(skiff_api::time::now()).into());
}

/// A prefix and five characters that spell no words.
pub fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LENGTH: usize = 63 - 5;
    let random = uuid::Uuid::new_v4();
    let suffix = random
        .as_bytes()
        .iter()
        .take(5)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    prefix.chars().take(LENGTH).chain(suffix).collect()
}

/// What an update may leave out and never changes.
fn carry_meta(object: &mut Value, old: &Value) {
    if let Some(born) = old.pointer("/metadata/creationTimestamp") {
        set(object, "creationTimestamp", born.clone());
    }
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let said =
            object.pointer(&format!("/metadata/{field}")).is_some_and(|value| !value.is_null());
        if let (false, Some(value)) = (said, old.pointer(&format!("/metadata/{field}"))) {
            set(object, field, value.clone());
        }
    }
    let generation = meta(old).generation();
    match generation {
        0 => remove(object, "generation"),
        _ => set(object, "generation", generation.into()),
    }
}

/// What of the metadata a status update may not change.
fn keep_settled_meta(kind: &KindDef, object: &mut Value, old: &Value) {
    let kept: Vec<String> = match (kind.custom, kind.kind.as_str()) {
        (true, _) => {
            let both =
                [&*object, old].into_iter().filter_map(|object| object["metadata"].as_object());
            both.flat_map(|meta| meta.keys())
                .filter(|name| *name != "managedFields")
                .cloned()
                .collect()
        }
        (false, "Deployment") => vec!["labels".to_owned()],
        (false, "Pod") => vec!["ownerReferences".to_owned()],
        _ => Vec::new(),
    };
    for field in
        kept.iter().map(String::as_str).chain(["deletionTimestamp", "deletionGracePeriodSeconds"])
    {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => set(object, field, value.clone()),
            None => remove(object, field),
        }
    }
}

/// The last finalizer of an object that was being deleted is gone, and no grace is left.
fn is_released(object: &Value, old: &Value) -> bool {
    // Namespaces keep theirs in the spec, where `finalize` takes them out.
    let held = |object: &Value| {
        let in_spec = object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        in_spec || meta(object).finalizers().next().is_some()
    };
    meta(old).deletion_timestamp().is_some()
        && held(old)
        && !held(object)
        && meta(object).deletion_grace_period_seconds().unwrap_or(0) == 0
}

/// Whether an object says which revision it is meant to replace.
pub fn names_revision(object: &Value) -> bool {
    !matches!(meta(object).resource_version(), "" | "0")
}

fn is_lost_race(status: &Status) -> bool {
    status.code == 409 && status.message.contains("the object has been modified")
}

/// Whether an encoding says what is stored already. The hole is empty there and filled here.
fn same_but_revision(fresh: &[u8], entry: &Entry) -> bool {
    let Some(span) = entry.revision_span() else { return false };
    let stored = &entry.value;
    fresh.len() == stored.len() - span.len()
        && fresh[..span.start] == stored[..span.start]
        && fresh[span.start..] == stored[span.end..]
}

pub fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(meta) = meta_mut(object) {
        meta.insert(field.to_owned(), value);
    }
}

pub fn remove(object: &mut Value, field: &str) {
    if let Some(meta) = meta_mut(object) {
        meta.remove(field);
    }
}
