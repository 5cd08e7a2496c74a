//! `delete` and `deletecollection`: at once, or marked and left to finalizers and grace.
//!
//! DeleteOptions + object -> [`Plan`] -> transaction. Counterpart: `registry/generic/registry/store.go` `Delete`,
//! `rest.BeforeDelete`. Invariant: an object with finalizers, or a pod with grace left, is marked and not removed.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use skiff_api::codec::{self, Target, decode_stored};
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::{meta, meta_mut};
use skiff_api::{GroupKind, KindDef, Status};
use skiff_store::{Entry, Error, Expect, Txn};

use super::write::set;
use crate::admission::{self, Request};
use crate::call::{Call, check_dry_run};
use crate::objects;
use crate::reply::{List, Reply};

/// `metav1.DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<String>,
    pub orphan: Option<bool>,
    pub dry_run: bool,
}

/// What a deletion does to an object.
enum Plan {
    Remove,
    /// Write this state and wait for grace and finalizers.
    Mark(Box<Value>),
    /// As [`Plan::Mark`], and then remove at once: watchers of a graceful kind see both.
    MarkAndRemove(Box<Value>),
    /// It was marked before and nothing changes.
    Keep,
}

/// So many objects of a collection are deleted side by side, and share what the disk is asked to keep.
const AT_ONCE: usize = 16;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Kinds whose removal answers with the object instead of a Status, as upstream's storages are set up.
const RETURN_OBJECT: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("policy", "podsecuritypolicies"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
];

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    let options = DeleteOptions::read(call)?;
    warn_of_orphans(call, &kind, &options);
    let (object, removed) = one(call, &kind, &call.info.name, &options).await?;
    answer(call, kind, object, removed).await
}

/// Jobs alone leave what they own behind where nothing is said.
fn warn_of_orphans(call: &Call, kind: &KindDef, options: &DeleteOptions) {
    let is_job = kind.kind == "Job" && kind.group == "batch";
    if is_job && options.propagation.is_none() && options.orphan.is_none() {
        call.warn("child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning");
    }
}

pub async fn run_collection(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    super::selection::check_list_options(&call.query, false)?;
    let options = DeleteOptions::read(call)?;
    warn_of_orphans(call, &kind, &options);
    let page = super::list::selected_page(call, &kind).await?;
    let deletions = page.entries.into_iter().map(|entry| one_of(call, &kind, &options, entry));
    let mut deletions = stream::iter(deletions).buffered(AT_ONCE);
    let mut items = Vec::new();
    while let Some(deleted) = deletions.next().await {
        items.extend(deleted?);
    }
    drop(deletions);
    Ok(Reply::List(List {
        kind,
        items,
        resource_version: page.revision.to_string(),
        continue_token: page.token,
        remaining: page.remaining,
    }))
}

/// Deletes one object of a collection and shows it as it was listed; somebody else may have been quicker.
async fn one_of(
    call: &Call,
    kind: &Arc<KindDef>,
    options: &DeleteOptions,
    entry: Arc<Entry>,
) -> Result<Option<Bytes>, Status> {
    let stored = decode_stored(&entry.value)?;
    let (namespace, name) = (meta(&stored).namespace(), meta(&stored).name());
    match one_in(call, kind, namespace, name, options).await {
        Ok(_) => {
            let revision = entry.mod_revision;
            objects::at_version(&call.server, kind, &entry.value, revision).await.map(Some)
        }
        Err(gone) if gone.code == 404 => Ok(None),
        Err(status) => Err(status),
    }
}

async fn answer(
    call: &Call,
    kind: Arc<KindDef>,
    object: Value,
    removed: bool,
) -> Result<Reply, Status> {
    let returned = RETURN_OBJECT.contains(&(kind.group.as_str(), kind.resource.as_str()));
    if removed && !returned {
        return Ok(Reply::deleted(&kind, meta(&object).name(), meta(&object).uid()));
    }
    let object = objects::unstored(&call.server, &kind, object).await?;
    let bytes = objects::plain_bytes(&kind, &object);
    Ok(Reply::object(kind, bytes))
}

async fn one(
    call: &Call,
    kind: &Arc<KindDef>,
    name: &str,
    options: &DeleteOptions,
) -> Result<(Value, bool), Status> {
    let namespace = if kind.namespaced { call.info.namespace.as_str() } else { "" };
    one_in(call, kind, namespace, name, options).await
}

/// Deletes one object; the state it was left in, and whether it is gone.
pub async fn one_in(
    call: &Call,
    kind: &Arc<KindDef>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(Value, bool), Status> {
    let stored = match kind.custom {
        true => kind.clone(),
        false => objects::storage_kind(&call.server.kinds(), kind),
    };
    let key = stored.key(namespace, name);
    let mut options = options.clone();
    let mut marked = None;
    loop {
        let Some(entry) = objects::read(&call.server, &key).await? else {
            // Someone who saw our mark was quicker: what was asked for is done.
            let missing = || Status::not_found(&kind.group_resource(), name);
            return marked.map(|last| (last, true)).ok_or_else(missing);
        };
        let server = &call.server;
        let object = objects::value(server, &stored, &entry.value, entry.mod_revision).await?;
        options.check_preconditions(&stored, &object)?;
        let request = Request::deletion(call, kind, &stored, namespace, name, &object, &options);
        admission::admit_deletion(request).await?;
        let mut plan = plan(&stored, &object, &options);
        let value = match &mut plan {
            Plan::Mark(object) | Plan::MarkAndRemove(object) if !options.dry_run => {
                Some(objects::encode_stored(server, &stored, object).await?)
            }
            _ => None,
        };
        let again = matches!(plan, Plan::MarkAndRemove(_)) && !options.dry_run;
        match carry_out(call, &stored, &entry, object, (plan, value), options.dry_run).await {
            Err(Error::Conflict { .. }) if options.resource_version.is_none() => {}
            Err(Error::Conflict { .. }) => {
                return Err(Status::modified(&kind.group_resource(), name));
            }
            Err(error) => return Err(objects::store_status(error)),
            // The mark itself changed the revision that the client asked for.
            Ok((last, _)) if again => {
                options.resource_version = None;
                marked = Some(last);
            }
            Ok(done) => return Ok(done),
        }
    }
}

/// Carries out a plan; what is to be written comes with it.
async fn carry_out(
    call: &Call,
    stored: &KindDef,
    entry: &Entry,
    object: Value,
    (plan, value): (Plan, Option<skiff_store::Value>),
    dry_run: bool,
) -> Result<(Value, bool), Error> {
    let expect = Expect::Mod(entry.mod_revision);
    let note = objects::note(call, "");
    match (plan, value) {
        (Plan::Keep, _) => Ok((object, false)),
        (Plan::Remove, _) if dry_run => Ok((object, true)),
        (Plan::Mark(marked), None) => Ok((*marked, false)),
        (Plan::MarkAndRemove(marked), None) => Ok((*marked, true)),
        (Plan::Remove, _) => {
            let mut txn = Txn::delete(entry.key.clone(), expect).note(note);
            txn.ops.extend(call.server.network.removal_ops(stored, &object));
            let committed = objects::commit(&call.server, stored, txn).await?;
            call.server.network.release(stored, &object);
            Ok((with_revision(object, committed.revision), true))
        }
        (Plan::Mark(marked) | Plan::MarkAndRemove(marked), Some(value)) => {
            let txn = Txn::put(entry.key.clone(), value, expect).note(note);
            let committed = objects::commit(&call.server, stored, txn).await?;
            Ok((with_revision(*marked, committed.revision), false))
        }
    }
}

fn with_revision(mut object: Value, revision: skiff_store::Revision) -> Value {
    set(&mut object, "resourceVersion", revision.to_string().into());
    object
}

/// The decision, without side effects.
fn plan(kind: &KindDef, object: &Value, options: &DeleteOptions) -> Plan {
    let mut new = object.clone();
    let grace = kind.strategy.grace_period(object, options.grace);
    if crate::custom::is_definition(kind) && meta(object).deletion_timestamp().is_none() {
        crate::custom::mark_for_cleanup(&mut new);
        return Plan::Mark(Box::new(new));
    }
    // Grace that runs is shortened on request, and nothing else about the deletion changes.
    let running = meta(object).deletion_grace_period_seconds().filter(|left| *left > 0);
    let shortens = |left: i64| options.grace.is_some_and(|asked| asked.max(0) < left);
    if grace.is_some() && running.is_some_and(|left| !shortens(left)) {
        return Plan::Keep;
    }
    set_propagation_finalizers(kind, &mut new, options);
    let held = meta(&new).finalizers().next().is_some() || namespace_is_held(kind, &new);
    let marked_before = meta(object).deletion_timestamp().is_some();
    let left = meta(object).deletion_grace_period_seconds().unwrap_or(0);
    let wanted = grace.unwrap_or(0).max(0);
    if !held && wanted == 0 {
        let settled = marked_before && meta(object).deletion_grace_period_seconds() == Some(0);
        if grace.is_none() || settled {
            return Plan::Remove;
        }
        mark(kind, &mut new, 0);
        return Plan::MarkAndRemove(Box::new(new));
    }
    if marked_before && wanted >= left && new == *object {
        return Plan::Keep;
    }
    mark(kind, &mut new, if marked_before { wanted.min(left) } else { wanted });
    match new == *object {
        true => Plan::Keep,
        false => Plan::Mark(Box::new(new)),
    }
}

fn mark(kind: &KindDef, object: &mut Value, grace: i64) {
    let already = meta(object).deletion_timestamp().is_some();
    let before = meta(object).deletion_grace_period_seconds();
    if !already || before != Some(grace) {
        let at = skiff_api::time::format(skiff_api::time::now() + grace);
        set(object, "deletionTimestamp", at.into());
    }
    // What holds others is marked by the time alone, and goes when the last of them has gone.
    if !matches!(kind.resource.as_str(), "namespaces" | "customresourcedefinitions") {
        set(object, "deletionGracePeriodSeconds", grace.into());
        let generation = meta(object).generation();
        if generation > 0 && !already {
            set(object, "generation", (generation + 1).into());
        }
    }
    if kind.group.is_empty() && kind.resource == "namespaces" {
        object["status"]["phase"] = "Terminating".into();
    }
}

/// Two kinds leave their pods behind unless told otherwise: their first clients relied on it.
fn orphans_by_default(kind: &KindDef) -> bool {
    matches!(
        (kind.group.as_str(), kind.kind.as_str()),
        ("batch", "Job") | ("", "ReplicationController")
    )
}

/// A namespace goes when the namespace controller has emptied it and taken its finalizer out of the spec.
fn namespace_is_held(kind: &KindDef, object: &Value) -> bool {
    kind.group.is_empty()
        && kind.resource == "namespaces"
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

fn set_propagation_finalizers(kind: &KindDef, object: &mut Value, options: &DeleteOptions) {
    // Nothing an Event could be the owner of is looked after.
    if kind.kind == "Event" && !kind.custom {
        return;
    }
    let wanted = match (options.propagation.as_deref(), options.orphan) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some(_), _) | (None, Some(false)) => None,
        (None, None) if orphans_by_default(kind) => Some(ORPHAN),
        // Without a word on it, an object keeps what an earlier deletion asked for.
        (None, None) => return,
    };
    let Some(meta) = meta_mut(object) else { return };
    let list = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
        list.extend(wanted.map(Value::from));
        if list.is_empty() {
            meta.remove("finalizers");
        }
    }
}

// === impl DeleteOptions ===

impl DeleteOptions {
    pub fn read(call: &Call) -> Result<DeleteOptions, Status> {
        let options = match call.body.is_empty() {
            true => DeleteOptions::from_query(call)?,
            false => {
                let decoded =
                    codec::decode(&call.body, call.body_format()?, &Target::delete_options())
                        .map_err(plain_syntax_error)?;
                DeleteOptions::from_object(&decoded.object)?
            }
        };
        options.check()?;
        Ok(options)
    }

    fn from_query(call: &Call) -> Result<DeleteOptions, Status> {
        let query = &call.query;
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        check_dry(&dry_run)?;
        let stated =
            |name: &str| query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(DeleteOptions {
            grace: query.int("gracePeriodSeconds")?,
            uid: stated("uid"),
            resource_version: stated("resourceVersion"),
            propagation: query.get("propagationPolicy").map(str::to_owned),
            orphan: query.optional_flag("orphanDependents"),
            dry_run: !dry_run.is_empty(),
        })
    }

    /// As admission is shown them.
    pub fn to_value(&self) -> Value {
        let mut value = json!({});
        let mut put = |field: &str, given: Option<Value>| {
            if let Some(given) = given {
                value[field] = given;
            }
        };
        put("gracePeriodSeconds", self.grace.map(Value::from));
        let stated = [("uid", &self.uid), ("resourceVersion", &self.resource_version)];
        let stated: serde_json::Map<String, Value> = stated
            .into_iter()
            .filter_map(|(field, text)| Some((field.to_owned(), text.as_deref()?.into())))
            .collect();
        put("preconditions", (!stated.is_empty()).then(|| stated.into()));
        put("orphanDependents", self.orphan.map(Value::from));
        put("propagationPolicy", self.propagation.as_deref().map(Value::from));
        put("dryRun", self.dry_run.then(|| json!(["All"])));
        value
    }

    pub fn from_object(object: &Value) -> Result<DeleteOptions, Status> {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let dry_run: Vec<&str> =
            object["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        check_dry(&dry_run)?;
        Ok(DeleteOptions {
            grace: object["gracePeriodSeconds"].as_i64(),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation: text("/propagationPolicy"),
            orphan: object["orphanDependents"].as_bool(),
            dry_run: !dry_run.is_empty(),
        })
    }

    fn check(&self) -> Result<(), Status> {
        let mut errors = ErrorList::default();
        let policy = Path::new("propagationPolicy");
        if let Some(given) = &self.propagation {
            if self.orphan.is_some() {
                errors.invalid(
                    &policy,
                    given.as_str(),
                    "orphanDependents and deletionPropagation cannot be both set",
                );
            }
            if !matches!(given.as_str(), "Foreground" | "Background" | "Orphan") {
                errors.not_supported(
                    &policy,
                    given.as_str(),
                    &["Foreground", "Background", "Orphan", "nil"],
                );
            }
        }
        invalid_options(errors)
    }

    pub fn check_preconditions(&self, kind: &KindDef, object: &Value) -> Result<(), Status> {
        let have = meta(object);
        let refused = |what: &str, asked: &str, is: &str, then: &str| {
            let why = format!(
                "the {what} in the precondition ({asked}) does not match the {what} in record ({is}). The object might have been {then}"
            );
            let resource = skiff_api::GroupResource::new(&kind.group, &kind.kind);
            Err(Status::conflict(&resource, have.name(), &why))
        };
        match (&self.uid, &self.resource_version) {
            (Some(uid), _) if uid != have.uid() => {
                refused("UID", uid, have.uid(), "deleted and then recreated")
            }
            (_, Some(version)) if version != have.resource_version() => {
                refused("ResourceVersion", version, have.resource_version(), "modified")
            }
            _ => Ok(()),
        }
    }
}

/// Options are no object: what is wrong with them is said without naming one.
fn plain_syntax_error(mut status: Status) -> Status {
    const PREFIX: &str = "the object provided is unrecognized (must be of type DeleteOptions): ";
    if let Some(rest) = status.message.strip_prefix(PREFIX) {
        status.message = rest.rsplit_once(" (").map_or(rest, |(text, _)| text).to_owned();
    }
    status
}

fn check_dry(values: &[&str]) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    check_dry_run(values, &mut errors);
    invalid_options(errors)
}

fn invalid_options(errors: ErrorList) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", "DeleteOptions"), "", errors)),
    }
}
