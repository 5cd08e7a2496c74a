//! What is told of the parts of the control plane.

use serde_json::{Value, json};

use crate::common;

const PATH: &str = "/api/v1/componentstatuses";

#[tokio::test]
async fn parts_are_told_as_healthy_while_they_run() {
    let cluster = common::cluster().await;
    let admin = cluster.admin();
    let scheduler = cluster.server.runs("scheduler");
    let list = admin.get(PATH).await;
    assert_eq!(list.headers["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let list = list.ok();
    assert_eq!(list["metadata"], json!({}));
    let told = |item: &Value| (item["metadata"]["name"].clone(), item["conditions"][0].clone());
    let told: Vec<_> = list["items"].as_array().expect("items").iter().map(told).collect();
    let healthy = json!({ "type": "Healthy", "status": "True", "message": "ok" });
    assert_eq!(told[0], (json!("scheduler"), healthy.clone()));
    assert_eq!(told[1].0, "controller-manager");
    assert_eq!(told[2], (json!("etcd-0"), healthy));
    drop(scheduler);
    let gone = admin.get(&format!("{PATH}/scheduler")).await.ok();
    assert_eq!(gone["conditions"][0]["status"], "False", "nothing answers on its port: {gone}");
}

#[tokio::test]
async fn parts_are_selected_by_name_and_unknown_ones_are_not_found() {
    let cluster = common::cluster().await;
    let admin = cluster.admin();
    let one = admin.get(&format!("{PATH}?fieldSelector=metadata.name%3Detcd-0")).await.ok();
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
    let none = admin.get(&format!("{PATH}?labelSelector=a%3Db")).await.ok();
    assert_eq!(none["items"], json!([]));
    let missing = admin.get(&format!("{PATH}/nope")).await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["message"], "componentstatus \"nope\" not found");
}
