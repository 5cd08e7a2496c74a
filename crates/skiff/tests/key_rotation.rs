//! `kill -9` in the middle of a rotation of the keys that Secrets are encrypted with.
//!
//! Each round asks for a rotation, kills the server at a moment of its own, and starts it again: every Secret reads as it was
//! written, whichever key seals it. `SKIFF_ROTATION_KILLS` sets the number of rounds. At the end a rotation goes through.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{Scratch, Server};
use http::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::Value;

const SECRETS: usize = 120;
const ENDPOINT: &str = "/skiff/v1/secrets-encryption";

#[tokio::test(flavor = "multi_thread")]
async fn every_secret_is_readable_after_kill_9_during_rotations() {
    let rounds: u32 =
        std::env::var("SKIFF_ROTATION_KILLS").map_or(6, |text| text.parse().expect("a number"));
    let directory = Scratch::new("skiff-rotation-kill");
    let mut server = Server::start(&directory.0);
    let mut client = server.client().await;
    let written = write(&client).await;
    let began = Instant::now();
    rotate(&client).await.expect("nothing disturbs the first rotation");
    let takes = began.elapsed();
    let mut interrupted = 0;
    for round in 0..rounds {
        let rotation = tokio::spawn(async move { rotate(&client).await });
        tokio::time::sleep(takes * round / rounds).await;
        server.kill();
        let done = rotation.await.expect("no panic");
        interrupted += u32::from(done.is_err());
        server = Server::start(&directory.0);
        client = server.client().await;
        assert_eq!(stored(&client).await, written, "round {round}");
        assert!(!server.log().contains("cannot be finished"), "{}", server.log());
    }
    println!("{rounds} kills, {interrupted} of them before the rotation was done");
    assert!(interrupted > 0, "no rotation was interrupted");
    rotate(&client).await.expect("a rotation goes through");
    assert_eq!(stored(&client).await, written);
    let status = status(&client).await;
    let [key] = &status["keys"].as_array().expect("keys")[..] else { panic!("{status}") };
    let form = format!("aesgcm:{}", key.as_str().expect("a name"));
    let counts = status["values"]["/registry/secrets/"].as_object().expect("counts");
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&form], "{status}");
}

async fn rotate(client: &Client) -> kube::Result<Value> {
    let request = Request::post(format!("{ENDPOINT}/rotate")).body(Vec::new()).expect("a request");
    let limit = tokio::time::timeout(Duration::from_secs(60), client.request(request));
    limit.await.expect("an answer or the end of the connection")
}

async fn status(client: &Client) -> Value {
    let request = Request::get(ENDPOINT).body(Vec::new()).expect("a request");
    client.request(request).await.expect("a status")
}

async fn write(client: &Client) -> BTreeMap<String, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    for number in 0..SECRETS {
        let metadata = ObjectMeta { name: Some(format!("s{number}")), ..ObjectMeta::default() };
        let string_data = Some([("text".to_owned(), format!("treasure {number}"))].into());
        let secret = Secret { metadata, string_data, ..Secret::default() };
        secrets.create(&PostParams::default(), &secret).await.expect("created");
    }
    let written = stored(client).await;
    assert_eq!(written.len(), SECRETS);
    written
}

async fn stored(client: &Client) -> BTreeMap<String, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let list = secrets.list(&ListParams::default()).await.expect("every Secret is readable");
    let texts = list.into_iter().filter_map(|secret| {
        let text = secret.data?.remove("text")?;
        Some((secret.metadata.name?, String::from_utf8(text.0).ok()?))
    });
    texts.collect()
}
