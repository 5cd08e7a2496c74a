//! The metrics API, answered in this process: `kubectl top` and autoscalers need nothing installed.
//!
//! Whoever installs a metrics-server of their own applies their APIService over ours, and theirs is asked from then on.
//! Invariant: an APIService that is there already is left as it is.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::api::PostParams;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, Backend, Body};
use skiff_metrics_server::{GROUP, MetricsServer, VERSION};

use super::identity::Clients;
use super::system_objects::apply;

const NAMESPACE: &str = "kube-system";
/// The Service that the APIService names; it need not exist.
const SERVICE: &str = "skiff-metrics-server";
const ROLE: &str = "system:metrics-server";
const ACCOUNT: &str = "metrics-server";

pub async fn run(api: &ApiServer, clients: &Clients) -> super::Result<()> {
    let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    let server = MetricsServer::new(clients.user(&account));
    let backend = Arc::new(InProcess(server));
    api.aggregate(NAMESPACE, SERVICE, backend).await.map_err(|status| status.message.clone())?;
    let client = clients.system();
    apply(client.clone(), "clusterroles", &reading_role()).await?;
    apply(client.clone(), "clusterroles", &users_role()).await?;
    apply(client.clone(), "clusterrolebindings", &binding()).await?;
    Ok(announce(client).await?)
}

struct InProcess(Arc<MetricsServer>);

impl Backend for InProcess {
    fn answer(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let (server, request) = (self.0.clone(), request.map(drop));
        let answer = async move {
            let response = server.handle(request).await;
            response.map(|bytes| Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
        };
        answer.boxed()
    }
}

async fn announce(client: Client) -> kube::Result<()> {
    let api = super::system_objects::api(client, "apiservices", &api_service());
    let object = serde_json::from_value(api_service()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

fn api_service() -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": { "name": format!("{VERSION}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": { "namespace": NAMESPACE, "name": SERVICE },
        },
    })
}

/// What the server itself may read.
fn reading_role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": ROLE },
        "rules": [
            { "apiGroups": [""], "resources": ["nodes/proxy", "nodes/metrics"], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] },
        ],
    })
}

/// Whoever may view a namespace may see what its pods use.
fn users_role() -> Value {
    let aggregated =
        |role: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true".into());
    let labels: serde_json::Map<String, Value> =
        ["view", "edit", "admin"].map(aggregated).into_iter().collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": "system:aggregated-metrics-reader", "labels": labels },
        "rules": [{ "apiGroups": [GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] }],
    })
}

fn binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": ROLE },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE },
        "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
    })
}
