//! `/healthz`, `/livez`, `/readyz`: whether the server works, check by check.
//!
//! Counterpart: `pkg/server/healthz`. The store is the one part that can fail; the other names are upstream's, so that a
//! probe which excludes or asks for one finds it.

use http::StatusCode;
use serde_json::Value;
use skiff_api::Status;
use skiff_store::Txn;

use crate::call::Call;
use crate::metrics::exposition::Exposition;
use crate::nonresource::not_found;
use crate::reply::Reply;
use crate::server::Server;

const ROOT_PATHS: &str = include_str!("../facts/root-paths.json");
/// The order in which upstream runs its checks.
const ORDER: &[&str] = &[
    "ping",
    "log",
    "loopback-serving-certificate",
    "etcd",
    "informer-sync",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/storage-readiness",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-wait-for-first-sync",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

pub async fn run(call: &Call, parts: &[&str]) -> Result<Reply, Status> {
    let checks = checks(parts[0]);
    if let [_, rest @ ..] = parts
        && !rest.is_empty()
    {
        let wanted = rest.join("/");
        return match checks.contains(&wanted) {
            true => Ok(answer(call, &[wanted]).await),
            false => Ok(not_found()),
        };
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let left: Vec<String> =
        checks.iter().filter(|check| !excluded.contains(&check.as_str())).cloned().collect();
    let mut unknown: Vec<&&str> =
        excluded.iter().filter(|name| !checks.iter().any(|check| check == **name)).collect();
    unknown.sort();
    unknown.dedup();
    if call.query.has("verbose") {
        return Ok(verbose(call, parts[0], &left, &checks, &unknown).await);
    }
    Ok(answer(call, &left).await)
}

async fn answer(call: &Call, checks: &[String]) -> Reply {
    for check in checks {
        if let Err(why) = perform(call, check).await {
            let text = format!("[-]{check} failed: {why}\n");
            return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
    }
    Reply::text(StatusCode::OK, "ok")
}

async fn verbose(
    call: &Call,
    endpoint: &str,
    left: &[String],
    all: &[String],
    unknown: &[&&str],
) -> Reply {
    let (mut text, mut failed) = (String::new(), false);
    for check in all {
        if !left.contains(check) {
            text.push_str(&format!("[+]{check} excluded: ok\n"));
            continue;
        }
        match perform(call, check).await {
            Ok(()) => text.push_str(&format!("[+]{check} ok\n")),
            Err(_) => {
                failed = true;
                text.push_str(&format!("[-]{check} failed: reason withheld\n"));
            }
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            names.join(",")
        ));
    }
    let (code, verdict) = if failed {
        (StatusCode::INTERNAL_SERVER_ERROR, "failed")
    } else {
        (StatusCode::OK, "passed")
    };
    text.push_str(&format!("{endpoint} check {verdict}\n"));
    Reply::text(code, text)
}

/// `/metrics/slis`: every check as a gauge.
pub async fn as_metrics(call: &Call) -> String {
    let mut out = Exposition::default();
    let name = "kubernetes_healthcheck";
    out.family(name, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
    for endpoint in ["healthz", "livez", "readyz"] {
        for check in checks(endpoint) {
            let works = u8::from(perform(call, &check).await.is_ok());
            out.sample(name, &format!("name=\"{check}\",type=\"{endpoint}\""), works);
        }
    }
    out.into_text()
}

/// A transaction of nothing: it goes the way of a write, and is refused when writes are.
pub async fn store(server: &Server) -> Result<(), String> {
    let nothing = server.store.commit(Txn::default()).await;
    nothing.map(drop).map_err(|error| error.to_string())
}

async fn perform(call: &Call, check: &str) -> Result<(), String> {
    match check {
        // Upstream's `/readyz` does not ask the store; here the hook named for it does.
        "etcd" | "poststarthook/storage-readiness" => store(&call.server).await,
        "shutdown" if call.server.stopping.is_cancelled() => {
            Err("process is shutting down".to_owned())
        }
        _ => Ok(()),
    }
}

fn checks(endpoint: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(ROOT_PATHS).expect("facts are valid JSON");
    let prefix = format!("/{endpoint}/");
    let mut names: Vec<String> = listed["paths"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|path| path.as_str()?.strip_prefix(&prefix).map(str::to_owned))
        .collect();
    names.sort_by_key(|name| ORDER.iter().position(|first| first == name).unwrap_or(ORDER.len()));
    names
}
