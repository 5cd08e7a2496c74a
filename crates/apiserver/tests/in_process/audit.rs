//! The audit log as an auditor reads it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_apiserver::{ApiServerConfig, AuditConfig, AuditLogTerms, UserInfo};

use crate::common::Cluster;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Audited {
    cluster: Cluster,
    dir: PathBuf,
}

impl Audited {
    async fn new(rules: &str) -> Audited {
        let dir = std::env::temp_dir().join(format!("skiff-audited-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let policy = dir.join("policy.yaml");
        let text = format!("kind: Policy\napiVersion: audit.k8s.io/v1\n{rules}");
        std::fs::write(&policy, text).expect("a policy");
        let log = AuditLogTerms {
            path: dir.join("audit.log"),
            max_size: 1 << 30,
            max_age: Duration::ZERO,
            max_backups: 0,
        };
        let audit = Some(AuditConfig { policy, log });
        let cluster =
            crate::common::cluster_with(|config| ApiServerConfig { audit, ..config }).await;
        Audited { cluster, dir }
    }

    /// The events about configmaps, once there are as many as wanted.
    async fn events(&self, wanted: usize) -> Vec<Value> {
        for _ in 0..500 {
            let events = self.written();
            if events.len() >= wanted {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the log never holds {wanted} events: {:?}", self.written());
    }

    fn written(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("audit.log")).expect("the log");
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.filter(|event| event["objectRef"]["resource"] == "configmaps").collect()
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn config_map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "secret": "sauce" } })
}

#[tokio::test]
async fn metadata_says_who_did_what_to_which_object() {
    let audited = Audited::new("rules: [{level: Metadata}]").await;
    let ann = audited.cluster.user(UserInfo::new("ann", &["system:masters"]));
    ann.post(CONFIG_MAPS, &config_map("a")).await.created();
    let events = audited.events(2).await;
    let stages: Vec<&Value> = events.iter().map(|event| &event["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    let event = &events[1];
    assert_eq!(event["user"]["username"], "ann");
    assert_eq!(event["verb"], "create");
    assert_eq!(event["requestURI"], CONFIG_MAPS);
    assert_eq!(event["userAgent"], "test/1");
    assert_eq!(event["objectRef"]["name"], "a");
    assert_eq!(event["responseStatus"], json!({ "metadata": {}, "code": 201 }));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!((&event["requestObject"], &event["responseObject"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn bodies_are_recorded_at_their_levels_without_managed_fields() {
    let rules = "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n- level: RequestResponse\n  verbs: [create]\n- level: Request\n  verbs: [patch]\n- level: None\n";
    let audited = Audited::new(rules).await;
    let admin = audited.cluster.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.created();
    admin
        .patch(&format!("{CONFIG_MAPS}/a"), "merge-patch+json", &json!({ "data": { "k": "v" } }))
        .await
        .ok();
    admin.get(&format!("{CONFIG_MAPS}/a")).await.ok();
    let events = audited.events(2).await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0]["requestObject"]["data"]["secret"], "sauce");
    assert_eq!(events[0]["responseObject"]["metadata"]["name"], "a");
    assert_eq!(events[0]["responseObject"]["metadata"]["managedFields"], Value::Null);
    assert_eq!(events[1]["requestObject"], json!({ "data": { "k": "v" } }));
    assert_eq!(events[1]["responseObject"], Value::Null);
}

#[tokio::test]
async fn refusals_say_why() {
    let audited = Audited::new("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    let bob = audited.cluster.user(UserInfo::new("bob", &["system:authenticated"]));
    bob.get(CONFIG_MAPS).await.refused();
    let events = audited.events(1).await;
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[0]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events[0]["responseStatus"]["code"], 403);
}

#[tokio::test]
async fn a_watch_starts_and_completes() {
    let audited = Audited::new("rules: [{level: Metadata, verbs: [watch]}]").await;
    let admin = audited.cluster.admin();
    let watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=0")).await;
    drop(watch);
    let events = audited.events(3).await;
    let stages: Vec<&Value> = events.iter().map(|event| &event["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_keeps_the_server_from_starting() {
    let dir = std::env::temp_dir().join(format!("skiff-audited-{}", uuid::Uuid::new_v4()));
    let log =
        AuditLogTerms { path: "-".into(), max_size: 1, max_age: Duration::ZERO, max_backups: 0 };
    let audit = Some(AuditConfig { policy: dir.join("missing.yaml"), log });
    let config = ApiServerConfig { audit, ..ApiServerConfig::new(&dir) };
    let error = skiff_apiserver::ApiServer::build(config).await.err().expect("a refusal");
    assert!(error.to_string().contains("missing.yaml: No such file"), "{error}");
    let _ = std::fs::remove_dir_all(&dir);
}
