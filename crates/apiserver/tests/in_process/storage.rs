//! What becomes of stores that earlier builds wrote.

use serde_json::json;
use skiff_store::{Expect, Op, Txn, Value};

#[tokio::test]
async fn objects_that_an_earlier_build_kept_elsewhere_are_found() {
    const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";
    let cluster = crate::common::cluster().await;
    let made = json!({ "metadata": { "name": "old" }, "spec": { "replicas": 0, "selector": { "a": "b" },
        "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } } } });
    let made = cluster.admin().post(CONTROLLERS, &made).await.created();
    let cluster = cluster
        .restart_after(async |directory| {
            let opened = skiff_store::embedded::open(&directory.join("store"), Default::default());
            let (store, _) = opened.expect("the store opens");
            let now = "/registry/controllers/default/old";
            let entry = store.get(now).await.expect("a store").expect("it is there");
            let (key, value) = ("/registry/replicationcontrollers/default/old", &entry.value);
            let ops = vec![
                Op::Put {
                    key: key.into(),
                    value: Value::new(value.clone()),
                    expect: Expect::Absent,
                },
                Op::Delete { key: now.into(), expect: Expect::Present },
            ];
            store.commit(Txn { ops, ..Txn::default() }).await.expect("moved back");
            store.close().await.expect("the store closes");
        })
        .await;
    let found = cluster.admin().get(&format!("{CONTROLLERS}/old")).await.ok();
    assert_eq!(found["metadata"]["uid"], made["metadata"]["uid"]);
    let list = cluster.admin().get(CONTROLLERS).await.ok();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
}
