//! A server over a store whose files are torn or damaged: it says what it dropped and serves everything up to there.

mod common;

use std::path::PathBuf;

use common::{Scratch, Server};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, ObjectMeta, PostParams, WatchParams};
use kube::{Api, Client};

const WRITES: usize = 40;

/// A directory in which a server took `WRITES` ConfigMaps, one after the other, and was killed.
struct Written {
    directory: Scratch,
    /// The revision of each.
    revisions: Vec<u64>,
}

#[tokio::test]
async fn a_torn_tail_is_reported_and_costs_nothing() {
    let written = Written::new("torn").await;
    written.change_log(|log| {
        let end = log.iter().rposition(|byte| *byte != 0).expect("records") + 1;
        log[end + 8..end + 40].fill(0xab);
    });
    let server = Server::start(&written.directory.0);
    let client = server.client().await;
    assert_eq!(names(&client).await, expected(WRITES));
    let log = server.log();
    assert!(log.contains("store opened after a repair") && log.contains("torn bytes"), "{log}");
}

#[tokio::test]
async fn damage_in_the_middle_is_reported_and_everything_before_it_served() {
    let written = Written::new("damaged").await;
    written.change_log(|log| {
        let at = find(log, b"m-20").expect("the name is in its record");
        log[at] ^= 0x55;
    });
    let server = Server::start(&written.directory.0);
    let client = server.client().await;
    assert_eq!(names(&client).await, expected(20));
    let log = server.log();
    assert!(log.contains("writes are lost") && log.contains("set aside in damaged-"), "{log}");
    assert_eq!(written.files("damaged-").len(), 1);

    // Nobody may go on from a state that is gone, and no revision is given out twice.
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let old = written.revisions[5].to_string();
    let event = maps.watch(&WatchParams::default(), &old).await.expect("a stream");
    let event = futures::StreamExt::next(&mut Box::pin(event)).await.expect("an event");
    let Ok(kube::core::WatchEvent::Error(status)) = event else { panic!("{event:?}") };
    assert_eq!(status.code, 410);
    let made = maps.create(&PostParams::default(), &map(90)).await.expect("it takes writes");
    assert!(revision(&made) > *written.revisions.last().expect("writes"));
}

#[tokio::test]
async fn a_server_that_recovered_from_damage_starts_again_without_a_word() {
    let written = Written::new("again").await;
    written.change_log(|log| {
        let at = find(log, b"m-30").expect("the name is in its record");
        log[at..at + 300].fill(0);
    });
    let mut server = Server::start(&written.directory.0);
    assert_eq!(names(&server.client().await).await, expected(30));
    server.kill();
    let server = Server::start(&written.directory.0);
    assert_eq!(names(&server.client().await).await, expected(30));
    assert!(!server.log().contains("store opened"), "{}", server.log());
}

// === impl Written ===

impl Written {
    async fn new(name: &str) -> Written {
        let directory = Scratch::new(&format!("skiff-{name}-store"));
        let mut server = Server::start(&directory.0);
        let maps: Api<ConfigMap> = Api::namespaced(server.client().await, "default");
        let mut revisions = Vec::new();
        for number in 0..WRITES {
            let made = maps.create(&PostParams::default(), &map(number)).await.expect("created");
            revisions.push(revision(&made));
        }
        server.kill();
        Written { directory, revisions }
    }

    fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let store = self.directory.0.join("data/store");
        let entries = std::fs::read_dir(store).expect("a store").map(|entry| entry.expect("one"));
        let named = |name: &str| name.starts_with(prefix);
        let found = entries.filter(|entry| named(&entry.file_name().to_string_lossy()));
        found.map(|entry| entry.path()).collect()
    }

    /// Changes the bytes of the only segment there is.
    fn change_log(&self, change: impl FnOnce(&mut [u8])) {
        let [segment] = &self.files("log-")[..] else { panic!("one segment holds it all") };
        let mut bytes = std::fs::read(segment).expect("readable");
        change(&mut bytes);
        std::fs::write(segment, bytes).expect("writable");
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

fn map(number: usize) -> ConfigMap {
    let name = format!("m-{number:02}");
    let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
    let data = Some([("filler".to_owned(), "x".repeat(400))].into());
    ConfigMap { metadata, data, ..ConfigMap::default() }
}

fn revision(map: &ConfigMap) -> u64 {
    map.metadata.resource_version.as_deref().expect("a revision").parse().expect("a number")
}

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("m-{number:02}")).collect()
}

async fn names(client: &Client) -> Vec<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let list = maps.list(&ListParams::default()).await.expect("the server lists");
    let names = list.into_iter().filter_map(|map| map.metadata.name);
    names.filter(|name| name.starts_with("m-")).collect()
}
