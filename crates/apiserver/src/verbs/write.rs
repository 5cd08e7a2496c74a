//! What create, update, patch and the subresources share: from a decoded object to a committed revision.
//!
//! ownership -> mutating admission -> strategy -> validation -> validating admission -> transaction, for a new object here, for
//! one that has a predecessor in [`update`]; [`metadata`] is the server's part of both. Counterpart: `rest.BeforeCreate`,
//! `rest.BeforeUpdate` and `Store.Create`/`Store.Update`. Invariant: a dry run does everything but
//! the transaction, and no path to the store leaves one of these stages out.

mod empties;
mod metadata;
mod update;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use skiff_api::codec::{self, Decoded, Target, decode_stored};
use skiff_api::field::ErrorList;
use skiff_api::kinds::pod_spec::security::NOT_ALLOWED;
use skiff_api::kinds::resource::admin;
use skiff_api::meta::meta;
use skiff_api::validation::{
    drop_repeated_owners, validate_kind_meta_update, validate_meta, validate_meta_update,
};
use skiff_api::{GroupKind, KindDef, Reason, Status, default};
use skiff_store::{Entry, Error, Expect, Txn};

use crate::admission::{self, Operation, Request};
use crate::authz::{claims, escalation};
use crate::call::{Call, WriteOptions};
use crate::network::Allocation;
use crate::objects;
use crate::ownership;
use crate::subresources::part;
use empties::Part;
use metadata::{fill_new_meta, wipe_system_meta};

pub use empties::Empties;
pub use metadata::{generated_name, names_revision, remove, set};

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
    pub empties: Empties,
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

/// When an owner that is named twice is found in what plugins and webhooks have made of an object.
const AFTER_ADMISSION: &str = " after mutating admission happens";

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
        let subresource = subresource.to_owned();
        let empties = Empties::default();
        Write { call, kind, stored, subresource, options, facet: None, empties }
    }

    pub fn through(self, facet: &'a dyn Facet) -> Write<'a> {
        Write { facet: Some(facet), ..self }
    }

    /// The body as an object of the path's kind, findings handled as the client asked.
    pub fn decode_body(&self) -> Result<Value, Status> {
        let target = Target::of(&self.kind);
        let decoded = codec::decode(&self.call.body, self.call.body_format()?, &target)?;
        self.empties.note(&decoded);
        self.accept(decoded, &target)
    }

    /// Strict findings refuse, warn or pass.
    pub fn accept(&self, decoded: Decoded, target: &Target<'_>) -> Result<Value, Status> {
        self.call.accept(decoded, target, self.options.validation)
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
        if !matches!(revision, "" | "0") && !self.options.dry_run {
            return Err(Status::new(
                500,
                Reason::Unknown,
                "resourceVersion should not be set on objects to be created",
            ));
        }
        wipe_system_meta(&mut object);
        self.name_owners_once(&mut object, "");
        if !owned {
            ownership::track(self, &mut object, None)?;
        }
        crate::custom::refuse_new_objects(&self.kind, meta(&object).name())?;
        let mut request = Request::new(self, Operation::Create, None);
        admission::mutate(&mut request, &mut object).await?;
        self.name_owners_once(&mut object, AFTER_ADMISSION);
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
        self.stored.prepare_for_create(object);
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

    // --- shared ---

    /// An owner that is named twice is kept once, with a warning that says `when` it was found.
    fn name_owners_once(&self, object: &mut Value, when: &str) {
        let repeated = drop_repeated_owners(object);
        if !repeated.is_empty() {
            self.call.warn(format!(
                ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
                repeated.join(", ")
            ));
        }
    }

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

    fn faults_of_new(&self, object: &Value, errors: &mut ErrorList) {
        let strategy = &self.kind.strategy;
        let last = strategy.checks_metadata_last();
        if !last {
            validate_meta(&self.stored, object, errors);
        }
        let told = self.empties().filter(|_| strategy.tells_empty_from_absent());
        let seen = match told {
            Some(empties) => {
                let over = strategy.defaults_keep_empties();
                empties.put_into(object, |at| Part::Whole.has(at), over)
            }
            None => Cow::Borrowed(object),
        };
        strategy.validate(&seen, errors);
        if last && errors.is_empty() {
            validate_meta(&self.stored, object, errors);
        }
    }

    /// The rules are those of the group the request speaks: events are held to two sets of them.
    fn faults_of_change(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_meta_update(&self.stored, object, old, errors);
        if self.subresource == "binding" {
            return;
        }
        validate_kind_meta_update(&self.stored, object, old, errors);
        let strategy = &self.kind.strategy;
        let [object, old] = self.seen_by_rules(object, old);
        match self.subresource.as_str() {
            "status" => strategy.validate_status_update(&object, &old, errors),
            part if part::is_part(part) => {
                strategy.validate_part_update(part, &object, &old, errors)
            }
            _ => strategy.validate_update(&object, &old, errors),
        }
    }

    /// What was given empty, if the objects are of the version that gave it.
    fn empties(&self) -> Option<&Empties> {
        let read_as_sent = Arc::ptr_eq(&self.kind, &self.stored);
        (read_as_sent && !self.empties.is_empty()).then_some(&self.empties)
    }

    /// Where the rules look for faults of a change: both objects with what was given empty, so that it is shown and
    /// is no change by itself.
    fn seen_by_rules<'o>(&self, object: &'o Value, old: &'o Value) -> [Cow<'o, Value>; 2] {
        let Some(empties) = self.empties() else { return [object, old].map(Cow::Borrowed) };
        let over = self.kind.strategy.defaults_keep_empties();
        let part = Part::of(&self.subresource);
        [
            empties.put_into(object, |at| part.has(at), over),
            empties.put_into(old, |at| part.has(at), false),
        ]
    }

    async fn refuse_faults(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let mut errors = self.admin_faults(object, old).await?;
        match old {
            None => self.faults_of_new(object, &mut errors),
            Some(old) => {
                if claims::guards(&self.kind, &self.subresource) {
                    errors.0.append(&mut claims::faults(self.call, object, old).await?.0);
                }
                self.faults_of_change(object, old, &mut errors);
            }
        }
        if self.call.server.config.allow_privileged {
            errors.0.retain(|error| !error.detail.ends_with(NOT_ALLOWED));
        }
        errors.take_warnings().into_iter().for_each(|text| self.call.warn(text));
        if !errors.is_empty() {
            return Err(Status::invalid(&self.said_kind(object), meta(object).name(), errors));
        }
        let strategy = &self.kind.strategy;
        let warnings = match self.subresource.as_str() {
            "" | "scale" => strategy.warnings(object, old),
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
