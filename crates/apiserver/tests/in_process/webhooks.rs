//! Admission webhooks, called for real over TLS.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::common::webhook::Webhook;
use crate::common::{Client, cluster};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": name } })
}

/// A webhook about ConfigMaps, with whatever else is said about it.
fn hook(name: &str, webhook: &Webhook, more: Value) -> Value {
    let mut hook = json!({
        "name": name, "clientConfig": webhook.client_config(), "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"] }],
    });
    if let (Some(hook), Value::Object(more)) = (hook.as_object_mut(), more) {
        hook.extend(more);
    }
    hook
}

async fn configure(admin: &Client, kind: &str, name: &str, hooks: Vec<Value>) {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations");
    let configuration = json!({ "metadata": { "name": name }, "webhooks": hooks });
    admin.post(&path, &configuration).await.created();
}

fn patch(operations: Value) -> Value {
    let text = BASE64_STANDARD.encode(operations.to_string());
    json!({ "allowed": true, "patch": text, "patchType": "JSONPatch" })
}

#[tokio::test]
async fn a_validating_webhook_is_told_everything_and_may_refuse() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::reviewing(|request| match request["name"] == "bad" {
        true => json!({ "allowed": false, "status": { "code": 403, "message": "not this one" }, "warnings": ["careful"] }),
        false => json!({ "allowed": true }),
    })
    .await;
    configure(&admin, "validating", "v", vec![hook("w.example.com", &webhook, json!({}))]).await;
    admin.post(&format!("{MAPS}?fieldManager=me"), &map("good")).await.created();
    let answer = admin.post(MAPS, &map("bad")).await;
    assert_eq!(answer.headers["warning"], "299 - \"careful\"");
    let (code, _, message) = answer.refused();
    assert_eq!(code, 403);
    assert_eq!(message, r#"admission webhook "w.example.com" denied the request: not this one"#);
    let request = &webhook.asked()[0]["request"];
    assert_eq!(request["kind"], json!({ "group": "", "version": "v1", "kind": "ConfigMap" }));
    assert_eq!(
        request["resource"],
        json!({ "group": "", "version": "v1", "resource": "configmaps" })
    );
    assert_eq!((&request["namespace"], &request["name"]), (&json!("default"), &json!("good")));
    assert_eq!(request["userInfo"], json!({ "username": "admin", "groups": ["system:masters"] }));
    assert_eq!(request["object"]["data"]["k"], "good");
    assert_eq!((&request["oldObject"], &request["dryRun"]), (&Value::Null, &json!(false)));
    let options =
        json!({ "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me" });
    assert_eq!(request["options"], options);
    admin.delete(&format!("{MAPS}/good")).await.ok();
    let deletion = &webhook.asked()[2]["request"];
    assert_eq!((&deletion["operation"], &deletion["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(deletion["oldObject"]["data"]["k"], "good");
    assert_eq!(deletion["options"]["kind"], "DeleteOptions");
}

#[tokio::test]
async fn mutating_webhooks_change_the_object_in_order_and_again_if_needed() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let count = Webhook::reviewing(|request| {
        let labels = request["object"]["metadata"]["labels"].as_object().map_or(0, |map| map.len());
        patch(json!([{ "op": "add", "path": "/data/labels", "value": labels.to_string() }]))
    })
    .await;
    let label = Webhook::reviewing(|_| {
        patch(json!([{ "op": "add", "path": "/metadata/labels", "value": { "a": "b" } }]))
    })
    .await;
    let again = json!({ "reinvocationPolicy": "IfNeeded" });
    configure(&admin, "mutating", "1", vec![hook("count.example.com", &count, again)]).await;
    configure(&admin, "mutating", "2", vec![hook("label.example.com", &label, json!({}))]).await;
    let created = admin.post(MAPS, &map("a")).await.created();
    assert_eq!(created["data"], json!({ "k": "a", "labels": "1" }));
    assert_eq!((count.asked().len(), label.asked().len()), (2, 1));
    assert_eq!(count.asked()[0]["request"]["object"]["metadata"].get("uid"), None);
}

#[tokio::test]
async fn failures_are_errors_unless_ignored() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::start(|_| (500, json!("broken"))).await;
    let ignored = json!({ "failurePolicy": "Ignore" });
    configure(&admin, "validating", "v", vec![hook("w.example.com", &webhook, ignored)]).await;
    admin.post(MAPS, &map("a")).await.created();
    let hooks = vec![hook("x.example.com", &webhook, json!({}))];
    configure(&admin, "validating", "x", hooks).await;
    let (code, _, message) = admin.post(MAPS, &map("b")).await.refused();
    assert_eq!(code, 500);
    assert_eq!(
        message,
        r#"Internal error occurred: failed calling webhook "x.example.com": failed to call webhook: an error on the server ("unknown") has prevented the request from succeeding"#
    );
}

#[tokio::test]
async fn an_answer_to_another_question_is_no_answer() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let review = json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": { "uid": "x", "allowed": true } });
    let webhook = Webhook::start(move |_| (200, review.clone())).await;
    configure(&admin, "validating", "v", vec![hook("w.example.com", &webhook, json!({}))]).await;
    let (_, _, message) = admin.post(MAPS, &map("a")).await.refused();
    let start = r#"Internal error occurred: failed calling webhook "w.example.com": received invalid webhook response: expected response.uid=""#;
    assert!(message.starts_with(start) && message.ends_with(r#"", got "x""#), "{message}");
}

#[tokio::test]
async fn a_patch_that_cannot_be_read_or_applied_is_said_so() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::reviewing(|request| match request["name"].as_str() {
        Some("odd") => patch(json!({ "op": "add" })),
        _ => patch(json!([{ "op": "remove", "path": "/data/none" }])),
    })
    .await;
    configure(&admin, "mutating", "m", vec![hook("w.example.com", &webhook, json!({}))]).await;
    let (_, _, message) = admin.post(MAPS, &map("odd")).await.refused();
    assert_eq!(
        message,
        r#"Internal error occurred: failed calling webhook "w.example.com": received undecodable patch in webhook response: json: cannot unmarshal object into Go value of type jsonpatch.Patch"#
    );
    let (_, _, message) = admin.post(MAPS, &map("unfit")).await.refused();
    assert_eq!(
        message,
        "Internal error occurred: error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value"
    );
}

#[tokio::test]
async fn dry_runs_reach_only_webhooks_without_side_effects() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::reviewing(|_| json!({ "allowed": true })).await;
    let some = json!({ "sideEffects": "NoneOnDryRun" });
    configure(&admin, "validating", "v", vec![hook("w.example.com", &webhook, some)]).await;
    admin.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.created();
    assert_eq!(webhook.asked()[0]["request"]["dryRun"], true);
}

#[tokio::test]
async fn a_webhook_behind_a_service_needs_the_service_and_an_endpoint() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::reviewing(|_| json!({ "allowed": false })).await;
    let service = json!({ "service": { "namespace": "default", "name": "hook" }, "caBundle": webhook.bundle });
    let hooks = vec![hook("w.example.com", &webhook, json!({ "clientConfig": service }))];
    configure(&admin, "validating", "v", hooks).await;
    let url = "Post \"https://hook.default.svc:443/?timeout=10s\"";
    let refused = |why: &str| {
        format!(
            "Internal error occurred: failed calling webhook \"w.example.com\": failed to call webhook: {url}: {why}"
        )
    };
    let (_, _, message) = admin.post(MAPS, &map("a")).await.refused();
    assert_eq!(message, refused(r#"service "hook" not found"#));
    let service = json!({ "metadata": { "name": "hook" }, "spec": { "ports": [{ "port": 443 }] } });
    admin.post("/api/v1/namespaces/default/services", &service).await.created();
    let (_, _, message) = admin.post(MAPS, &map("a")).await.refused();
    assert_eq!(message, refused(r#"no endpoints available for service "hook""#));
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::reviewing(|_| json!({ "allowed": true })).await;
    let other = BASE64_STANDARD.encode(cluster.server.pki().ca_pem());
    let url = format!("https://127.0.0.1:{}/check", webhook.port);
    let config = json!({ "clientConfig": { "url": url, "caBundle": other } });
    configure(&admin, "validating", "v", vec![hook("w.example.com", &webhook, config)]).await;
    let (_, _, message) = admin.post(MAPS, &map("a")).await.refused();
    assert!(message.ends_with("x509: certificate signed by unknown authority"), "{message}");
    assert!(webhook.asked().is_empty());
}

#[tokio::test]
async fn scale_bindings_and_evictions_are_shown_as_what_they_are() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let webhook = Webhook::reviewing(|_| json!({ "allowed": true })).await;
    let rules = json!({ "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"] }] });
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    admin.post(pods, &pod).await.created();
    configure(&admin, "validating", "v", vec![hook("w.example.com", &webhook, rules)]).await;
    let binding = json!({ "metadata": { "name": "p" }, "target": { "name": "n" } });
    admin.post(&format!("{pods}/p/binding"), &binding).await.created();
    let eviction = json!({ "metadata": { "name": "p" } });
    admin.post(&format!("{pods}/p/eviction"), &eviction).await.created();
    let asked = webhook.asked();
    let told: Vec<(Value, Value, Value)> = asked
        .iter()
        .map(|review| &review["request"])
        .map(|r| (r["operation"].clone(), r["kind"]["kind"].clone(), r["subResource"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!("CREATE"), json!("Binding"), json!("binding")),
            (json!("CREATE"), json!("Eviction"), json!("eviction")),
            (json!("DELETE"), json!("Pod"), Value::Null),
        ]
    );
}
