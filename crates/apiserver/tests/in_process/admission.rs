//! Admission plugins where they meet the rest of the request path.

use futures::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, ApiServerConfig, UserInfo};

use crate::common::{Client, cluster, cluster_with};

const NS: &str = "/api/v1/namespaces/default";

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

/// A quota as if its controller had counted.
async fn quota(admin: &Client, name: &str, hard: Value, used: Value) {
    let quota = json!({ "metadata": { "name": name }, "spec": { "hard": hard } });
    let mut quota = admin.post(&format!("{NS}/resourcequotas"), &quota).await.created();
    quota["status"] = json!({ "hard": hard, "used": used });
    admin.put(&format!("{NS}/resourcequotas/{name}/status"), &quota).await.ok();
}

async fn used(admin: &Client, name: &str) -> Value {
    admin.get(&format!("{NS}/resourcequotas/{name}")).await.ok()["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_race_for_the_last_slots_only_so_many_win() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let hard = json!({ "count/configmaps": "5" });
    quota(&admin, "q", hard, json!({ "count/configmaps": "2" })).await;
    let racers = (0..24).map(|at| {
        let admin = admin.clone();
        tokio::spawn(async move {
            admin.post(&format!("{NS}/configmaps"), &map(&format!("m{at}"))).await.status
        })
    });
    let answers = join_all(racers).await;
    let won = answers.iter().filter(|a| matches!(a, Ok(StatusCode::CREATED))).count();
    let lost = answers.iter().filter(|a| matches!(a, Ok(StatusCode::FORBIDDEN))).count();
    assert_eq!((won, lost), (3, 21));
    assert_eq!(used(&admin, "q").await["count/configmaps"], "5");
}

#[tokio::test]
async fn an_update_is_charged_for_its_growth() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let service = json!({ "metadata": { "name": "s" }, "spec": { "ports": [{ "port": 80 }] } });
    admin.post(&format!("{NS}/services"), &service).await.created();
    let hard = json!({ "services.loadbalancers": "1", "services.nodeports": "1" });
    let none = json!({ "services.loadbalancers": "0", "services.nodeports": "0" });
    quota(&admin, "q", hard, none).await;
    let path = format!("{NS}/services/s");
    let balanced = json!({ "spec": { "type": "LoadBalancer" } });
    admin.patch(&path, "merge-patch+json", &balanced).await.ok();
    assert_eq!(used(&admin, "q").await["services.nodeports"], "1");
    let wider =
        json!({ "spec": { "ports": [{ "port": 80, "name": "a" }, { "port": 81, "name": "b" }] } });
    let (code, _, message) = admin.patch(&path, "merge-patch+json", &wider).await.refused();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        r#"services "s" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"#
    );
}

#[tokio::test]
async fn a_dry_run_is_not_charged() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let none = json!({ "configmaps": "0" });
    quota(&admin, "q", json!({ "configmaps": "1" }), none.clone()).await;
    admin.post(&format!("{NS}/configmaps?dryRun=All"), &map("a")).await.created();
    assert_eq!(used(&admin, "q").await, none);
}

#[tokio::test]
async fn plugins_run_as_flags_say() {
    let config = |mut config: ApiServerConfig| {
        config.enable_admission_plugins = vec!["AlwaysPullImages".to_owned()];
        config.disable_admission_plugins = vec!["DefaultTolerationSeconds".to_owned()];
        config
    };
    let cluster = cluster_with(config).await;
    let created = cluster.admin().post(&format!("{NS}/pods"), &pod("p")).await.created();
    assert_eq!(created["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(created["spec"].get("tolerations"), None);
}

#[tokio::test]
async fn an_unknown_plugin_keeps_the_server_from_starting() {
    let directory = std::env::temp_dir().join(format!("skiff-plugins-{}", uuid::Uuid::new_v4()));
    let mut config = ApiServerConfig::new(&directory);
    config.enable_admission_plugins = vec!["Nonsense".to_owned()];
    let error = ApiServer::build(config).await.err().expect("no such plugin");
    assert_eq!(error.to_string(), r#"admission plugin "Nonsense" is unknown"#);
    std::fs::remove_dir_all(directory).expect("what was made so far goes");
}

#[tokio::test]
async fn only_who_may_finalize_an_owner_holds_up_its_deletion() {
    let config = |mut config: ApiServerConfig| {
        config.enable_admission_plugins = vec!["OwnerReferencesPermissionEnforcement".to_owned()];
        config
    };
    let cluster = cluster_with(config).await;
    let admin = cluster.admin();
    let owner = admin.post(&format!("{NS}/configmaps"), &map("owner")).await.created();
    let rules = json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"] }]);
    let role = json!({ "metadata": { "name": "r" }, "rules": rules });
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.post(&format!("{group}/roles"), &role).await.created();
    let binding = json!({
        "metadata": { "name": "r" }, "subjects": [{ "kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io" }],
        "roleRef": { "kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io" },
    });
    admin.post(&format!("{group}/rolebindings"), &binding).await.created();
    let mut owned = map("owned");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true,
    }]);
    let joe = cluster.user(UserInfo::new("joe", &["system:authenticated"]));
    let (code, _, message) = joe.post(&format!("{NS}/configmaps"), &owned).await.refused();
    assert_eq!(code, 403);
    let start = r#"configmaps "owned" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"#;
    assert!(message.starts_with(start), "{message}");
    admin.post(&format!("{NS}/configmaps"), &owned).await.created();
}

#[tokio::test]
async fn a_claim_grows_only_where_its_class_allows() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let class = json!({ "metadata": { "name": "fixed" }, "provisioner": "example.com/p" });
    admin.post("/apis/storage.k8s.io/v1/storageclasses", &class).await.created();
    let claim = json!({
        "metadata": { "name": "c" },
        "spec": { "storageClassName": "fixed", "accessModes": ["ReadWriteOnce"], "volumeName": "v", "resources": { "requests": { "storage": "1Gi" } } },
    });
    let path = format!("{NS}/persistentvolumeclaims");
    let mut claim = admin.post(&path, &claim).await.created();
    claim["status"] = json!({ "phase": "Bound", "capacity": { "storage": "1Gi" } });
    admin.put(&format!("{path}/c/status"), &claim).await.ok();
    let more = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    let (code, _, message) =
        admin.patch(&format!("{path}/c"), "merge-patch+json", &more).await.refused();
    assert_eq!(code, 403);
    assert!(message.ends_with("the storageclass that provisions the pvc must support resize"));
}

#[tokio::test]
async fn a_bound_pod_learns_the_zone_of_its_node() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let labels = json!({ "topology.kubernetes.io/zone": "z1", "other": "no" });
    let node = json!({ "metadata": { "name": "n", "labels": labels } });
    admin.post("/api/v1/nodes", &node).await.created();
    admin.post(&format!("{NS}/pods"), &pod("p")).await.created();
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n" } });
    admin.post(&format!("{NS}/pods/p/binding"), &binding).await.created();
    let bound = admin.get(&format!("{NS}/pods/p")).await.ok();
    assert_eq!(bound["metadata"]["labels"], json!({ "topology.kubernetes.io/zone": "z1" }));
}

#[tokio::test]
async fn devices_in_use_were_open_to_administrators_of_any_namespace() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let exactly = json!({ "deviceClassName": "c", "adminAccess": true });
    let claim = json!({ "metadata": { "name": "c" },
        "spec": { "devices": { "requests": [{ "name": "r", "exactly": exactly }] } } });
    let (code, _, message) = admin.post(claims, &claim).await.refused();
    let told = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    assert_eq!(code, 422);
    assert!(message.ends_with(told), "{message}");
    let label =
        json!({ "metadata": { "labels": { "resource.kubernetes.io/admin-access": "true" } } });
    admin.patch("/api/v1/namespaces/default", "merge-patch+json", &label).await.ok();
    admin.post(claims, &claim).await.created();
}
