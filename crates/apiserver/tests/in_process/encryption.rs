//! Encryption at rest: what is on the disk, what is read back, and keys that change underneath.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::{ApiServerConfig, EncryptionConfig};

use crate::common::{Client, Cluster, cluster, cluster_with};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ENDPOINT: &str = "/skiff/v1/secrets-encryption";
const TREASURE: &str = "a treasure that nobody may find on a disk";

fn secret(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "stringData": { "treasure": TREASURE } })
}

/// Whether any file below the directory holds the treasure, plain or as objects carry it.
fn is_found(directory: &Path) -> bool {
    let encoded = BASE64_STANDARD.encode(TREASURE);
    let holds = |bytes: &[u8], text: &str| {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    std::fs::read_dir(directory).expect("a directory").flatten().any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => is_found(&path),
            false => {
                let bytes = std::fs::read(&path).expect("a file");
                holds(&bytes, TREASURE) || holds(&bytes, &encoded)
            }
        }
    })
}

async fn status(admin: &Client) -> Value {
    admin.get(ENDPOINT).await.ok()
}

async fn post(admin: &Client, what: &str) -> crate::common::Answer {
    let path = format!("{ENDPOINT}/{what}");
    admin.send(Method::POST, &path, "", bytes::Bytes::new()).await
}

fn only_key(status: &Value) -> String {
    let keys = status["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 1, "{status}");
    format!("aesgcm:{}", keys[0].as_str().expect("a name"))
}

async fn treasure_of(admin: &Client, name: &str) -> String {
    let read = admin.get(&format!("{SECRETS}/{name}")).await.ok();
    let bytes = BASE64_STANDARD.decode(read["data"]["treasure"].as_str().expect("data"));
    String::from_utf8(bytes.expect("base64")).expect("text")
}

#[tokio::test]
async fn a_secret_is_nowhere_on_the_disk_and_everywhere_in_the_api() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let mut events = admin.watch(&format!("{SECRETS}?watch=true")).await;
    let made = admin.post(SECRETS, &secret("s")).await.created();
    let (kind, seen) = events.next().await;
    assert_eq!((kind.as_str(), &seen), ("ADDED", &made));
    assert_eq!(admin.get(&format!("{SECRETS}/s")).await.ok(), made);
    let list = admin.get(SECRETS).await.ok();
    assert_eq!(list["items"][0]["metadata"], made["metadata"]);
    let update = json!({ "metadata": { "labels": { "a": "b" } } });
    let changed = admin.patch(&format!("{SECRETS}/s"), "merge-patch+json", &update).await.ok();
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(events.next().await, ("MODIFIED".to_owned(), changed));
    let stale = admin.put(&format!("{SECRETS}/s"), &made).await;
    assert_eq!(stale.status, StatusCode::CONFLICT);
    admin.post(SECRETS, &secret("gone")).await.created();
    events.next().await;
    admin.delete(&format!("{SECRETS}/gone")).await.ok();
    let (kind, last) = events.next().await;
    assert_eq!((kind.as_str(), &last["metadata"]["name"]), ("DELETED", &json!("gone")));

    let map = json!({ "metadata": { "name": "m" }, "data": { "plain": "to be found" } });
    admin.post("/api/v1/namespaces/default/configmaps", &map).await.created();
    let cluster = cluster.restart().await;
    assert!(!is_found(cluster.directory()));
    assert_eq!(treasure_of(&cluster.admin(), "s").await, TREASURE);
}

#[tokio::test]
async fn what_was_written_before_is_sealed_when_asked() {
    let cluster =
        cluster_with(|config| ApiServerConfig { encryption: EncryptionConfig::Off, ..config })
            .await;
    cluster.admin().post(SECRETS, &secret("old")).await.created();
    let cluster = cluster.restart().await;
    assert!(is_found(cluster.directory()));
    let admin = cluster.admin();
    assert_eq!(treasure_of(&admin, "old").await, TREASURE);
    let before = status(&admin).await;
    assert_eq!(before["values"]["/registry/secrets/"], json!({ "plain": 1 }));
    assert_eq!(post(&admin, "reencrypt").await.ok(), json!({ "reencrypted": 1 }));
    assert_eq!(post(&admin, "reencrypt").await.ok(), json!({ "reencrypted": 0 }));
    let after = status(&admin).await;
    assert_eq!(after["values"]["/registry/secrets/"], json!({ only_key(&after): 1 }));
    assert_eq!(treasure_of(&admin, "old").await, TREASURE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_leaves_one_key_and_loses_nothing_under_writers() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    for number in 0..20 {
        admin.post(SECRETS, &secret(&format!("s{number}"))).await.created();
    }
    let first = only_key(&status(&admin).await);
    let writer = tokio::spawn({
        let admin = admin.clone();
        async move {
            for number in 20..120 {
                admin.post(SECRETS, &secret(&format!("s{number}"))).await.created();
            }
        }
    });
    post(&admin, "rotate").await.ok();
    writer.await.expect("every write is accepted");
    post(&admin, "reencrypt").await.ok();
    let after = status(&admin).await;
    assert_ne!(only_key(&after), first);
    assert_eq!(after["values"]["/registry/secrets/"], json!({ only_key(&after): 120 }));
    let cluster = cluster.restart().await;
    for number in 0..120 {
        assert_eq!(treasure_of(&cluster.admin(), &format!("s{number}")).await, TREASURE);
    }
}

/// A list that had begun before the old key went failed: what it had found was sealed with that.
#[tokio::test]
async fn what_a_rotation_sealed_anew_can_still_be_read_as_it_was_before() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post(SECRETS, &secret("old")).await.created();
    let listed = admin.get(SECRETS).await.ok();
    let before = listed["metadata"]["resourceVersion"].as_str().expect("a revision");
    let exactly = format!("{SECRETS}?resourceVersion={before}&resourceVersionMatch=Exact");
    post(&admin, "rotate").await.ok();
    assert_eq!(admin.get(&exactly).await.ok()["items"], listed["items"]);
}

/// As a crash leaves it: the new key is on the disk, and nothing is sealed with it yet.
#[tokio::test]
async fn a_rotation_that_was_interrupted_is_finished_at_the_next_start() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    for name in ["a", "b"] {
        admin.post(SECRETS, &secret(name)).await.created();
    }
    let keys = cluster.directory().join("secrets-encryption.json");
    let before = std::fs::read_to_string(&keys).expect("kept");
    post(&admin, "rotate").await.ok();
    let after = std::fs::read_to_string(&keys).expect("kept");
    let list = |text: &str| -> Vec<Value> {
        let file: Value = serde_json::from_str(text).expect("JSON");
        file["keys"].as_array().expect("keys").clone()
    };
    // The values are sealed with the second key; let the first be the current one, as at the start of a rotation back.
    let both = json!({ "keys": [list(&before)[0], list(&after)[0]] });
    std::fs::write(&keys, both.to_string()).expect("written");
    let cluster = cluster.restart().await;
    let admin = cluster.admin();
    let wanted = format!("aesgcm:{}", list(&before)[0]["name"].as_str().expect("a name"));
    let finished = async {
        loop {
            let status = status(&admin).await;
            if status["keys"].as_array().map(Vec::len) == Some(1) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(std::time::Duration::from_secs(30), finished).await;
    let status = status.expect("the rotation ends");
    assert_eq!(status["values"]["/registry/secrets/"], json!({ wanted: 2 }));
    assert_eq!(treasure_of(&admin, "a").await, TREASURE);
}

#[tokio::test]
async fn a_configuration_says_what_is_sealed_and_its_keys_are_its_own() {
    let file = std::env::temp_dir().join(format!("skiff-encryption-{}.yaml", uuid::Uuid::new_v4()));
    let key = BASE64_STANDARD.encode([3; 32]);
    let text = format!(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n\
         - resources: [configmaps]\n  providers:\n  - aescbc: {{keys: [{{name: one, secret: {key}}}]}}\n  - identity: {{}}\n"
    );
    std::fs::write(&file, text).expect("written");
    let encryption = EncryptionConfig::File(file.clone());
    let cluster = cluster_with(|config| ApiServerConfig { encryption, ..config }).await;
    let admin = cluster.admin();
    let map = json!({ "metadata": { "name": "m" }, "data": { "treasure": TREASURE } });
    let maps = "/api/v1/namespaces/default/configmaps";
    admin.post(maps, &map).await.created();
    assert_eq!(admin.get(&format!("{maps}/m")).await.ok()["data"]["treasure"], TREASURE);
    assert!(!is_found(cluster.directory()));
    let (code, _, message) = post(&admin, "rotate").await.refused();
    assert_eq!(code, 400, "{message}");
    assert_eq!(status(&admin).await["enabled"], false);
    std::fs::remove_file(file).expect("ours to remove");
}

#[tokio::test]
async fn only_those_who_may_reach_the_keys() {
    let cluster = cluster().await;
    let nobody = cluster.user(skiff_apiserver::UserInfo::new("nobody", &["system:authenticated"]));
    assert_eq!(nobody.get(ENDPOINT).await.status, StatusCode::FORBIDDEN);
    assert_eq!(post(&nobody, "rotate").await.status, StatusCode::FORBIDDEN);
    let _: &Cluster = &cluster;
}
