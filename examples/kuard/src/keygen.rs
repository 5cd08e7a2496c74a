//! Key generation: work that can be watched, counted and shared out through a queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::app::{App, now};
use crate::http::{Answer, Call};

const SHOWN: usize = 20;
/// How long to wait for a queue that is empty or does not answer.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    pub enable: bool,
    pub num_to_gen: u64,
    pub time_to_run: u64,
    #[serde(rename = "memQServer")]
    pub memq_server: String,
    #[serde(rename = "memQQueue")]
    pub memq_queue: String,
    pub exit_on_complete: bool,
    pub exit_code: u8,
}

/// What was made last.
#[derive(Default)]
pub struct History(Mutex<VecDeque<(u64, String)>>);

impl History {
    pub fn status(&self, config: &Config) -> Value {
        let history = self.0.lock().expect("no worker panics");
        let shown: Vec<Value> =
            history.iter().map(|(id, data)| json!({ "id": id, "data": data })).collect();
        json!({ "config": config, "history": shown })
    }

    fn add(&self, id: u64, line: String) {
        println!("{} {line}", now());
        let mut history = self.0.lock().expect("no worker panics");
        history.push_front((id, line));
        history.truncate(SHOWN);
    }
}

/// GET tells, PUT starts over with another configuration.
pub fn api(app: &App, call: &Call) -> Answer {
    if call.method == Method::PUT {
        match serde_json::from_slice::<Config>(&call.body) {
            Ok(config) => app.keygen.send_replace(config),
            Err(error) => return Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
        };
    }
    Answer::json(&app.keys.status(&app.keygen.borrow()))
}

/// Works in the background. Resolves, with the exit code, only when the process shall end.
pub fn start(app: &Arc<App>, config: Config) -> impl Future<Output = u8> + use<> {
    let app = app.clone();
    async move {
        let mut configs = app.keygen.subscribe();
        let (mut config, mut id) = (config, 0);
        loop {
            if config.enable {
                let done = tokio::select! {
                    () = work(&app, &config, id) => true,
                    _ = configs.changed() => false,
                };
                if done {
                    app.keys.add(id, format!("(ID {id}) Workload exiting"));
                    if config.exit_on_complete {
                        return config.exit_code;
                    }
                    wait_for_change(&mut configs).await;
                }
                id += 1;
            } else {
                wait_for_change(&mut configs).await;
            }
            config = configs.borrow_and_update().clone();
        }
    }
}

async fn wait_for_change(configs: &mut watch::Receiver<Config>) {
    if configs.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn work(app: &App, config: &Config, id: u64) {
    match config.memq_server.is_empty() {
        true => by_count(app, config, id).await,
        false => by_queue(app, config, id).await,
    }
}

async fn by_count(app: &App, config: &Config, id: u64) {
    let began = Instant::now();
    let total = match config.num_to_gen {
        0 => "Inf".to_owned(),
        number => number.to_string(),
    };
    let mut made = 0;
    loop {
        let enough = config.num_to_gen > 0 && made >= config.num_to_gen;
        let late = config.time_to_run > 0 && began.elapsed().as_secs() >= config.time_to_run;
        if enough || late {
            return;
        }
        made += 1;
        let line = format!("(ID {id} {made}/{total}) Item done: {}", fingerprint().await);
        app.keys.add(id, line);
    }
}

/// One key per message; an empty queue is the end if the process is to end, else a wait.
async fn by_queue(app: &App, config: &Config, id: u64) {
    let mut made = 0;
    loop {
        match dequeue(&config.memq_server, &config.memq_queue).await {
            Ok(Some(message)) => {
                made += 1;
                let key = fingerprint().await;
                let body = message["body"].as_str().unwrap_or("").to_owned();
                app.keys.add(id, format!("(ID {id} {made}/Inf) Item done: {body} {key}"));
            }
            Ok(None) if config.exit_on_complete => return,
            Ok(None) => tokio::time::sleep(RETRY).await,
            Err(error) => {
                app.keys.add(id, format!("(ID {id}) The queue does not answer: {error}"));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Makes a 4096-bit RSA key and tells its fingerprint as ssh does.
async fn fingerprint() -> String {
    let made = tokio::task::spawn_blocking(|| {
        let pair = KeyPair::generate(KeySize::Rsa4096).expect("the library makes keys");
        let hash = digest(&SHA256, pair.public_key().as_ref());
        format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(hash))
    });
    made.await.expect("making a key does not panic")
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn dequeue(server: &str, queue: &str) -> Result<Option<Value>, Failure> {
    let url: hyper::Uri =
        format!("{}/queues/{queue}/dequeue", server.trim_end_matches('/')).parse()?;
    let host = url.host().ok_or("the URL of the queue has no host")?;
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path).header("host", host).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    match answer.status() {
        StatusCode::NO_CONTENT => Ok(None),
        StatusCode::OK => {
            Ok(Some(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?))
        }
        status => Err(format!("it answered {status}").into()),
    }
}
