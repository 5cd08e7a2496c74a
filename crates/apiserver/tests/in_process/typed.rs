//! What the typed clients of the server's own process are told, and what becomes of what they write.

use serde_json::{Value, json};

use crate::common;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn owners(object: &Value) -> &Value {
    &object["metadata"]["managedFields"]
}

#[tokio::test]
async fn they_are_not_told_who_owns_which_field_and_leave_it_as_it_is() {
    let cluster = common::cluster().await;
    let (admin, component) = (cluster.admin(), cluster.component("a part"));
    let path = format!("{CONFIG_MAPS}/a");
    let mut all = component.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=0")).await;
    let selected = format!("{CONFIG_MAPS}?watch=1&labelSelector=a%3Db");
    let mut selected = component.watch(&selected).await;
    let object =
        json!({ "metadata": { "name": "a", "labels": { "a": "b" } }, "data": { "k": "1" } });
    let created = admin.post(CONFIG_MAPS, &object).await.created();
    for events in [&mut all, &mut selected] {
        let (_, object) = events.next().await;
        assert_eq!(object["data"], json!({ "k": "1" }));
        assert_eq!(*owners(&object), Value::Null);
    }

    let mut shown = component.get(&path).await.ok();
    assert_eq!(*owners(&shown), Value::Null);
    shown["data"]["more"] = "2".into();
    let answer = component.put(&format!("{path}?fieldManager=part"), &shown).await.ok();
    assert_eq!(*owners(&answer), Value::Null);
    let stored = admin.get(&path).await.ok();
    let of = |object: &Value, manager: &str| {
        let owners = owners(object).as_array().into_iter().flatten();
        let owner = owners.clone().find(|owner| owner["manager"] == manager);
        owner.map(|owner| owner["fieldsV1"].clone())
    };
    assert_eq!(of(&stored, "test"), of(&created, "test"), "what was the creator's still is");
    assert_eq!(of(&stored, "part"), Some(json!({ "f:data": { "f:more": {} } })));
}
