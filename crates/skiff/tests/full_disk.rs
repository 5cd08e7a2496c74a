//! A server whose disk fills up: writes are refused, reads go on, and what was answered is there when it is back.
//!
//! The data directory is a small tmpfs in a mount namespace of the server's own.

mod common;

use std::process::Command;

use common::{Scratch, Server};
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};

/// Room for two segments of the log, and more.
const ROOM: &str = "40m";

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_none_that_was_answered() {
    let directory = Scratch::new("skiff-full-disk");
    std::fs::create_dir_all(directory.0.join("data")).expect("a directory");
    let server = start(&directory, ROOM);
    let client = server.client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let mut answered = Vec::new();
    let refused = loop {
        let number = answered.len();
        assert!(number < 200, "the disk never fills up");
        match maps.create(&PostParams::default(), &map(number)).await {
            Ok(made) => answered.push(made.metadata.name.expect("a name")),
            Err(kube::Error::Api(status)) => break status,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!((refused.code, refused.reason.as_str()), (500, "InternalError"), "{refused:?}");
    assert!(refused.message.contains("No space left on device"), "{}", refused.message);
    assert_eq!(names(&client).await, answered);
    let again = maps.create(&PostParams::default(), &map(999)).await;
    assert!(matches!(again, Err(kube::Error::Api(status)) if status.code == 500));
    let ready = client.request_text(get("/readyz")).await.expect_err("it is not ready");
    let kube::Error::Api(ready) = ready else { panic!("{ready}") };
    assert_eq!(ready.code, 500);
    client.request_text(get("/livez/ping")).await.expect("it answers");

    let elsewhere = Scratch::new("skiff-full-disk-copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(server.own_view(&directory.0.join("data")))
        .arg(&elsewhere.0)
        .status()
        .expect("cp runs");
    assert!(copied.success());
    drop(server);
    let server = Server::start(&elsewhere.0);
    let client = server.client().await;
    assert_eq!(names(&client).await, answered);
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    maps.create(&PostParams::default(), &map(999)).await.expect("there is room again");
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).expect("a request")
}

fn start(directory: &Scratch, room: &str) -> Server {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c"]);
    command.arg(format!("mount -t tmpfs -o size={room} none $0 && exec \"$@\""));
    command.arg(directory.0.join("data")).arg(env!("CARGO_BIN_EXE_skiff"));
    Server::launch(&mut command, &directory.0)
}

fn map(number: usize) -> ConfigMap {
    let name = format!("m-{number:03}");
    let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
    let data = Some([("filler".to_owned(), "x".repeat(900_000))].into());
    ConfigMap { metadata, data, ..ConfigMap::default() }
}

async fn names(client: &Client) -> Vec<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let list = maps.list(&ListParams::default()).await.expect("the server lists");
    let names = list.into_iter().filter_map(|map| map.metadata.name);
    names.filter(|name| name.starts_with("m-")).collect()
}
