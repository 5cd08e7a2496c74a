//! Priority and fairness as clients see it: objects, their conditions, and who is turned away.

use http::{StatusCode, header};
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

fn level(name: &str, shares: u32) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "borrowingLimitPercent": 0, "limitResponse": { "type": "Reject" } } } })
}

fn schema(name: &str, level: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": 50,
        "rules": [{ "subjects": [{ "kind": "User", "user": { "name": "ann" } }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] }] } })
}

fn dangling(schema: &Value) -> (&str, &str) {
    let condition = &schema["status"]["conditions"][0];
    (condition["status"].as_str().unwrap_or(""), condition["message"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn a_schema_is_told_whether_its_level_exists() {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    admin.post(SCHEMAS, &schema("mine", "later")).await.created();
    let path = format!("{SCHEMAS}/mine");
    let before = admin.get(&path).await.ok();
    assert_eq!(
        dangling(&before),
        (
            "True",
            "This FlowSchema references the PriorityLevelConfiguration object named \"later\" but there is no such object"
        )
    );
    admin.post(LEVELS, &level("later", 5)).await.created();
    let after = admin.get(&path).await.ok();
    assert_eq!(
        dangling(&after),
        (
            "False",
            "This FlowSchema references the PriorityLevelConfiguration object named \"later\" and it exists"
        )
    );
    admin.delete(&format!("{LEVELS}/later")).await.ok();
    assert_eq!(dangling(&admin.get(&path).await.ok()).0, "True");
}

#[tokio::test]
async fn default_objects_come_back_when_deleted_or_changed() {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    let path = format!("{SCHEMAS}/global-default");
    let before = admin.get(&path).await.ok();
    let mut changed = before.clone();
    changed["spec"]["matchingPrecedence"] = 7.into();
    admin.put(&path, &changed).await.ok();
    assert_eq!(admin.get(&path).await.ok()["spec"], before["spec"]);
    admin.delete(&path).await.ok();
    assert_eq!(admin.get(&path).await.ok()["spec"], before["spec"]);
}

#[tokio::test]
async fn a_default_object_that_an_administrator_took_over_stays_changed() {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    let path = format!("{SCHEMAS}/global-default");
    let mut mine = admin.get(&path).await.ok();
    mine["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] = "false".into();
    mine["spec"]["matchingPrecedence"] = 7.into();
    admin.put(&path, &mine).await.ok();
    assert_eq!(admin.get(&path).await.ok()["spec"]["matchingPrecedence"], 7);
    let cluster = cluster.restart().await;
    assert_eq!(cluster.admin().get(&path).await.ok()["spec"]["matchingPrecedence"], 7);
}

#[tokio::test]
async fn a_second_start_writes_no_flow_control_object() {
    let cluster = crate::common::cluster().await;
    let before = cluster.admin().get(SCHEMAS).await.ok();
    let cluster = cluster.restart().await;
    let after = cluster.admin().get(SCHEMAS).await.ok();
    assert_eq!(before["items"], after["items"]);
}

#[tokio::test]
async fn a_level_without_seats_turns_requests_away_in_plain_words() {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    let ann = cluster.user(UserInfo::new("ann", &["system:authenticated"]));
    let served = ann.get("/version").await;
    assert_eq!(served.status, StatusCode::OK);
    admin.post(LEVELS, &level("none", 0)).await.created();
    admin.post(SCHEMAS, &schema("mine", "none")).await.created();
    let answer = ann.get("/version").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(&answer.bytes[..], b"Too many requests, please try again later.\n");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    let uid = admin.get(&format!("{LEVELS}/none")).await.ok()["metadata"]["uid"].clone();
    assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], *uid.as_str().expect("a uid"));
    let metrics = String::from_utf8(admin.get("/metrics").await.bytes.to_vec()).expect("text");
    assert!(metrics.contains("apiserver_flowcontrol_rejected_requests_total{flow_schema=\"mine\",priority_level=\"none\",reason=\"concurrency-limit\"} 1\n"), "{metrics}");
}
