//! Requests per second: creates, gets and lists by many clients at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use serde_json::json;
use tokio::task::JoinSet;

use super::connection::{Error, Target};
use super::cpu::{Meter, Spent};

/// Objects in the listed namespace.
const LISTED: usize = 500;
const VALUE_SIZE: usize = 1024;

/// What a number of clients got done.
pub struct Rate {
    pub done: u64,
    pub took: Duration,
    /// Of every request, in no order.
    pub latencies: Vec<Duration>,
    pub cpu: Spent,
}

/// A namespace of our own, and one beside it that is listed.
pub struct Bench {
    namespace: String,
    listed: String,
}

impl Bench {
    pub async fn prepare(target: &Target) -> Result<Bench, Error> {
        let tag = std::process::id();
        let bench =
            Bench { namespace: format!("bench-{tag}"), listed: format!("bench-list-{tag}") };
        let mut connection = target.connect().await?;
        for name in [&bench.namespace, &bench.listed] {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            connection.ask(Method::POST, "/api/v1/namespaces", body.to_string()).await?;
        }
        let path = config_maps(&bench.listed);
        for at in 0..LISTED {
            connection.ask(Method::POST, &path, config_map(&format!("listed-{at}"))).await?;
        }
        Ok(bench)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub async fn clean_up(&self, target: &Target) -> Result<(), Error> {
        let mut connection = target.connect().await?;
        for name in [&self.namespace, &self.listed] {
            // A server without controllers never empties a namespace by itself.
            connection.ask(Method::DELETE, &config_maps(name), "").await?;
            connection.ask(Method::DELETE, &format!("/api/v1/namespaces/{name}"), "").await?;
        }
        Ok(())
    }

    pub async fn creates(
        &self,
        target: &Target,
        clients: usize,
        span: Duration,
        meter: &Meter,
    ) -> Result<Rate, Error> {
        let path: Arc<str> = config_maps(&self.namespace).into();
        let next = Arc::new(AtomicU64::new(0));
        run(target, (clients, span), meter, move |_| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (Method::POST, path.to_string(), config_map(&format!("made-{number}")))
        })
        .await
    }

    pub async fn gets(
        &self,
        target: &Target,
        clients: usize,
        span: Duration,
        meter: &Meter,
    ) -> Result<Rate, Error> {
        let path = config_maps(&self.listed);
        run(target, (clients, span), meter, move |turn| {
            let name = turn as usize % LISTED;
            (Method::GET, format!("{path}/listed-{name}"), Bytes::new())
        })
        .await
    }

    pub async fn lists(
        &self,
        target: &Target,
        clients: usize,
        span: Duration,
        meter: &Meter,
    ) -> Result<Rate, Error> {
        let path = config_maps(&self.listed);
        run(target, (clients, span), meter, move |_| (Method::GET, path.clone(), Bytes::new()))
            .await
    }
}

/// Has every client ask again and again until the time is up. `request` is given its turn.
async fn run(
    target: &Target,
    (clients, span): (usize, Duration),
    meter: &Meter,
    request: impl Fn(u64) -> (Method, String, Bytes) + Clone + Send + 'static,
) -> Result<Rate, Error> {
    let mut connections = Vec::with_capacity(clients);
    for _ in 0..clients {
        connections.push(target.connect().await?);
    }
    let meter = meter.start();
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        let request = request.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut turn = client as u64 * 7919;
            while began.elapsed() < span {
                let (method, path, body) = request(turn);
                let asked = Instant::now();
                connection.ask(method, &path, body).await?;
                latencies.push(asked.elapsed());
                turn += 1;
            }
            Ok::<_, Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done.expect("no client panics")?);
    }
    let (took, cpu) = (began.elapsed(), meter.spent());
    Ok(Rate { done: latencies.len() as u64, took, latencies, cpu })
}

fn config_maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// Written as text, since building a tree for each would be charged to the server's rate.
fn config_map(name: &str) -> Bytes {
    static FILLER: LazyLock<String> = LazyLock::new(|| "x".repeat(VALUE_SIZE));
    let filler = &*FILLER;
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"value":"{filler}"}}}}"#
    )
    .into()
}
