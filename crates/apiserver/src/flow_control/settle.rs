//! The objects that configure flow control: the ones a cluster starts with, and what FlowSchemas are told about themselves.
//!
//! Stored objects -> missing ones made, drifted ones put back, `Dangling` conditions written, the configuration in force.
//! Runs inside the request that changed one of them, so the next request is judged by the new state. Counterparts:
//! `storage_flowcontrol.go` (producer) and `apf_controller.go` (consumer). Invariant: a second run writes nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::apply::{self, Manager};
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status, default};
use skiff_store::{Entry, Expect, Op, RangeRequest, Txn};

use super::config::CATCH_ALL;
use crate::objects;
use crate::server::Server;
use crate::verbs::write::set;

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const FACTS: &str = include_str!("../../facts/flow-control.json");
const NOTE: &str = r#"{"user":"system:apiserver","manager":"kube-apiserver","verb":"settle"}"#;
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// These are kept as they are whatever their annotation says.
const MANDATORY: &[&str] = &["exempt", CATCH_ALL];
/// How often a run starts over when someone else writes meanwhile.
const ATTEMPTS: usize = 10;

/// FlowSchemas and PriorityLevelConfigurations that every cluster starts with.
pub fn defaults() -> (Vec<Value>, Vec<Value>) {
    let facts: Vec<Value> = serde_json::from_str(FACTS).expect("facts are valid JSON");
    facts.into_iter().partition(|object| object["kind"] == "FlowSchema")
}

/// Brings objects and configuration in line with what is stored now.
pub async fn settle(server: &Server) -> Result<(), Status> {
    let _one_at_a_time = server.flow_control.settling.lock().await;
    let kinds = server.kinds();
    let kind = |resource| kinds.get(GROUP, "v1", resource).ok_or_else(Status::no_such_path);
    let (schema, level) = (kind("flowschemas")?, kind("prioritylevelconfigurations")?);
    let (schema_defaults, level_defaults) = defaults();
    for _ in 0..ATTEMPTS {
        let levels = Stored::read(server, level).await?;
        let schemas = Stored::read(server, schema).await?;
        let mut ops = levels.restored(&level_defaults);
        ops.extend(schemas.restored(&schema_defaults));
        if ops.is_empty() {
            ops = schemas.judged(&levels)?;
        }
        if ops.is_empty() {
            server.flow_control.reconfigure(&schemas.values(), &levels.values());
            return Ok(());
        }
        match server.store.commit(Txn { ops, note: NOTE.into(), ..Txn::default() }).await {
            Ok(_) | Err(skiff_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(objects::store_status(error)),
        }
    }
    Err(Status::internal("flow control objects change too fast to be settled"))
}

/// All objects of one of the two kinds.
struct Stored<'a> {
    kind: &'a Arc<KindDef>,
    objects: Vec<(Arc<Entry>, Value)>,
}

// === impl Stored ===

impl<'a> Stored<'a> {
    async fn read(server: &Server, kind: &'a Arc<KindDef>) -> Result<Stored<'a>, Status> {
        let range = RangeRequest::prefix(kind.key_prefix.as_str());
        let found = server.store.range(range).await.map_err(objects::store_status)?;
        let decoded = |entry: Arc<Entry>| Ok((entry.clone(), decode_stored(&entry.value)?));
        let objects: Result<_, Status> = found.entries.into_iter().map(decoded).collect();
        Ok(Stored { kind, objects: objects? })
    }

    fn values(&self) -> Vec<Value> {
        self.objects.iter().map(|(_, object)| object.clone()).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.objects.iter().any(|(_, object)| meta(object).name() == name)
    }

    /// Writes that make what is missing and put back what drifted.
    fn restored(&self, defaults: &[Value]) -> Vec<Op> {
        defaults.iter().filter_map(|wanted| self.restore(wanted)).collect()
    }

    fn restore(&self, wanted: &Value) -> Option<Op> {
        let name = meta(wanted).name();
        let mut wanted = wanted.clone();
        default::apply(&mut wanted, self.kind);
        let stored = self.objects.iter().find(|(_, object)| meta(object).name() == name);
        let Some((entry, object)) = stored else { return Some(self.create(wanted)) };
        let leaving = meta(object).deletion_timestamp().is_some();
        if leaving || object["spec"] == wanted["spec"] || !is_ours(object) {
            return None;
        }
        let mut object = object.clone();
        object["spec"] = wanted["spec"].clone();
        let generation = meta(&object).generation() + 1;
        set(&mut object, "generation", generation.into());
        Some(self.put(entry, object, PRODUCER))
    }

    fn create(&self, mut object: Value) -> Op {
        let name = meta(&object).name().to_owned();
        object["status"] = json!({});
        set(&mut object, "uid", uuid::Uuid::new_v4().to_string().into());
        set(&mut object, "creationTimestamp", now().into());
        set(&mut object, "generation", 1.into());
        apply::track(self.kind, None, &mut object, &self.manager(PRODUCER, ""));
        let value = objects::encode(self.kind, &mut object);
        Op::Put { key: self.kind.key("", &name).into(), value, expect: Expect::Absent }
    }

    fn put(&self, entry: &Entry, mut object: Value, manager: &str) -> Op {
        let old = decode_stored(&entry.value).ok();
        apply::track(self.kind, old.as_ref(), &mut object, &self.manager(manager, ""));
        self.replaced(entry, object)
    }

    fn replaced(&self, entry: &Entry, mut object: Value) -> Op {
        let value = objects::encode(self.kind, &mut object);
        Op::Put { key: entry.key.clone(), value, expect: Expect::Mod(entry.mod_revision) }
    }

    /// Writes that tell every FlowSchema whether its level exists.
    fn judged(&self, levels: &Stored<'_>) -> Result<Vec<Op>, Status> {
        let mut ops = Vec::new();
        for (entry, object) in &self.objects {
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
            let condition = dangling(level, levels.has(level));
            if !says(object, &condition) {
                ops.push(self.replaced(entry, self.told(object, condition)?));
            }
        }
        Ok(ops)
    }

    /// The schema with a condition, applied as upstream's controller does.
    fn told(&self, object: &Value, mut condition: Value) -> Result<Value, Status> {
        condition["lastTransitionTime"] = now().into();
        let intent = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": { "name": meta(object).name() },
            "status": { "conditions": [condition] },
        });
        let manager = self.manager(CONSUMER, "status");
        apply::apply(self.kind, Some(object), &intent, &manager, true).map(|applied| applied.object)
    }

    fn manager(&self, name: &str, subresource: &str) -> Manager {
        Manager {
            name: name.to_owned(),
            api_version: self.kind.api_version(),
            subresource: subresource.to_owned(),
            time: now(),
        }
    }
}

/// Whether a default object follows the release it came with: unless an administrator said no, or changed it.
fn is_ours(object: &Value) -> bool {
    let meta = meta(object);
    match meta.annotation(AUTO_UPDATE) {
        // An administrator may take over how the exempt level lends, and nothing else that is mandatory.
        _ if MANDATORY.contains(&meta.name()) && !object["spec"]["exempt"].is_object() => true,
        Some(text) => text == "true",
        None => meta.generation() == 1,
    }
}

fn dangling(level: &str, exists: bool) -> Value {
    let about =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    match exists {
        true => json!({ "type": "Dangling", "status": "False", "reason": "Found",
            "message": format!("{about} and it exists") }),
        false => json!({ "type": "Dangling", "status": "True", "reason": "NotFound",
            "message": format!("{about} but there is no such object") }),
    }
}

/// Whether the object has the condition, whenever it came about.
fn says(object: &Value, condition: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let same = |have: &Value| {
        ["type", "status", "reason", "message"].iter().all(|field| have[field] == condition[field])
    };
    conditions.into_iter().any(same)
}

fn now() -> String {
    skiff_api::time::format(skiff_api::time::now())
}
