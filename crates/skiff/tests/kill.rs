//! `kill -9` of a whole API server under 64 writing clients: every write it answered is there when it is back.
//!
//! Each round starts `skiff server` on the same directory, lets the writers create, replace and delete ConfigMaps over
//! TLS until so many writes are answered, which differs from round to round, kills the server, starts it again and compares what it lists
//! with what it acknowledged. `SKIFF_SERVER_KILLS` sets the number of rounds.
//! The store's own kill test looks at keys; this one goes through the whole request path.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Scratch, Server};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::task::JoinSet;

const WRITERS: usize = 64;
/// Each writer works on a few names in turn, so that every name is created, replaced and deleted many times.
const NAMES: usize = 4;
/// As many writes are answered in every round, and then some, before the server is killed: by the clock a busy machine would
/// kill a server that nobody had written to.
const WRITTEN: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn every_answered_write_survives_kill_9_of_the_server() {
    let rounds = std::env::var("SKIFF_SERVER_KILLS").map_or(5, |text| text.parse().unwrap());
    let directory = Scratch::new("skiff-server-kill");
    let known = Arc::new(Mutex::new(Known::new()));
    for round in 0..rounds {
        let mut server = Server::start(&directory.0);
        let client = server.client().await;
        let stored = stored(&client).await;
        settle(&mut known.lock().unwrap(), &stored, round);
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(client.clone(), writer, known.clone()));
        }
        let enough = answered(&known) + WRITTEN + 67 * (round % 7);
        let written = async {
            while answered(&known) < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("the writers write");
        server.kill();
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    }
    let server = Server::start(&directory.0);
    let stored = stored(&server.client().await).await;
    settle(&mut known.lock().unwrap(), &stored, rounds);
    println!("{rounds} kills, {} answered writes, all there", answered(&known));
}

fn answered(known: &Mutex<Known>) -> u64 {
    known.lock().unwrap().values().map(|state| state.answered).sum()
}

/// What a writer was told last about a name, and what it had asked for when the answer failed to come.
#[derive(Clone, Default)]
struct State {
    asked: u64,
    answered: u64,
    /// The number stored under the name; none after a deletion.
    now: Option<u64>,
    /// An unanswered write may have happened or not.
    perhaps: Option<Option<u64>>,
}

type Known = BTreeMap<String, State>;

/// Writes until the server is gone.
async fn write(client: Client, writer: usize, known: Arc<Mutex<Known>>) {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    for turn in 0.. {
        let name = format!("w{writer}-{}", turn % NAMES);
        let state = known.lock().unwrap().get(&name).cloned().unwrap_or_default();
        let next = match (state.now, turn % 5) {
            (Some(_), 4) => None,
            _ => Some(state.asked + 1),
        };
        let done = match (state.now, next) {
            (None, Some(number)) => {
                maps.create(&PostParams::default(), &map(&name, number)).await.map(drop)
            }
            (Some(_), Some(number)) => {
                maps.replace(&name, &PostParams::default(), &map(&name, number)).await.map(drop)
            }
            (_, None) => maps.delete(&name, &DeleteParams::default()).await.map(drop),
        };
        let mut known = known.lock().unwrap();
        let state = known.entry(name).or_default();
        state.asked += 1;
        match done {
            Ok(()) => {
                state.answered += 1;
                state.now = next;
            }
            Err(kube::Error::Api(status)) => panic!("a plain write was refused: {status:?}"),
            Err(_) => {
                state.perhaps = Some(next);
                return;
            }
        }
    }
}

fn map(name: &str, number: u64) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([("number".to_owned(), number.to_string())].into()),
        ..ConfigMap::default()
    }
}

/// The number under every name there is.
async fn stored(client: &Client) -> BTreeMap<String, u64> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let list = maps.list(&ListParams::default()).await.expect("the server lists");
    let numbers = list.into_iter().filter_map(|map| {
        let number = map.data?.get("number")?.parse().ok()?;
        Some((map.metadata.name?, number))
    });
    numbers.collect()
}

/// Every name holds what was answered last, or what the one unanswered write after it asked for; from here on that is known.
fn settle(known: &mut Known, stored: &BTreeMap<String, u64>, round: u64) {
    for (name, state) in known.iter_mut() {
        let found = stored.get(name).copied();
        let explained = found == state.now || state.perhaps == Some(found);
        assert!(explained, "round {round}: {name} is {found:?}, answered was {:?}", state.now);
        state.now = found;
        state.perhaps = None;
    }
    for name in stored.keys() {
        assert!(known.contains_key(name), "round {round}: {name} was never written");
    }
}
