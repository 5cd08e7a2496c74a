//! A write that replaces what is stored: from the current state to its successor.
//!
//! Counterpart: `Store.Update` and `rest.BeforeUpdate`. Invariant: a write whose client named no revision starts over when
//! another was faster, and one that changes nothing writes nothing.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use skiff_api::apply::is_in_whole_list;
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::meta;
use skiff_api::{GroupKind, Reason, Status};
use skiff_store::{Entry, Error, Expect, Revision, Txn};

use super::empties::Part;
use super::metadata::{carry_meta, keep_settled_meta, remove, set};
use super::{AFTER_ADMISSION, Outcome, Proposed, Write};
use crate::admission::{self, Operation, Request};
use crate::authz::escalation;
use crate::network::Allocation;
use crate::objects;
use crate::ownership;
use crate::subresources::part;

/// How often a write that names no revision starts over when others are faster.
const ATTEMPTS: usize = 100;

impl Write<'_> {
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
            self.name_owners_once(&mut object, "");
        }
        self.check_identity(&object, &old, entry, &name)?;
        if !proposed.owned {
            self.track(&mut object, &old)?;
        }
        carry_meta(&mut object, &old);
        let old_part = self.facet.map(|facet| facet.show(&old));
        let old_shown = old_part.as_ref().unwrap_or(&old);
        let mut request = Request::new(self, Operation::Update, Some(old_shown));
        self.mutate(&mut request, &mut object).await?;
        self.name_owners_once(&mut object, AFTER_ADMISSION);
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

    /// Lists that are owned whole are compared with what was given empty in them.
    fn track(&self, object: &mut Value, old: &Value) -> Result<(), Status> {
        let in_whole_list = |at: &str| is_in_whole_list(at, &self.stored.schema);
        let seen = match self.empties() {
            Some(empties) => empties.put_into(object, in_whole_list, false),
            None => Cow::Borrowed(&*object),
        };
        let Cow::Owned(mut seen) = seen else {
            return ownership::track(self, object, Some(old));
        };
        ownership::track(self, &mut seen, Some(old))?;
        ownership::take_owners(object, &mut seen);
        Ok(())
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
            // A dry run is decided above the store, where keys have no root yet.
            let root = if self.options.dry_run { "/registry" } else { "" };
            let key = entry.key.to_string();
            let key = key.strip_prefix(root).unwrap_or(&key);
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}"
            );
            return Err(Status::conflict(&resource, name, &why));
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
                kind.prepare_for_update(object, old);
                self.call.server.network.drop_by_type(kind, object, old);
            }
            "status" => {
                strategy.prepare_for_status_update(kind, object, old);
                keep_settled_meta(kind, object, old);
            }
            part => {
                part::take(part, object, old);
                strategy.prepare_for_part_update(part, object, old);
            }
        }
        // A binding decides where a pod runs, not what it is.
        let counts = !matches!(self.subresource.as_str(), "status" | "binding");
        let changed = counts && self.generation_changes(object, old);
        let generation = meta(old).generation() + i64::from(changed);
        match generation {
            0 => remove(object, "generation"),
            generation => set(object, "generation", generation.into()),
        }
    }

    fn generation_changes(&self, object: &Value, old: &Value) -> bool {
        let (strategy, kind) = (&self.stored.strategy, &self.stored);
        match self.empties().filter(|_| strategy.counts_empties()) {
            Some(empties) => {
                let seen = empties.put_into(object, |at| Part::Whole.has(at), false);
                strategy.generation_changes(kind, &seen, old)
            }
            None => strategy.generation_changes(kind, object, old),
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
