//! What all requests share, and which request goes where.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use crate::http::{Answer, Call};
use crate::memory::Memory;
use crate::memq::Queues;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::probe::Probe;
use crate::{dns, files, keygen, page};

pub struct App {
    /// The tag of the image, which is also the colour of the page.
    pub version: String,
    pub liveness: Probe,
    pub readiness: Probe,
    pub queues: Queues,
    pub memory: Memory,
    pub metrics: Metrics,
    pub keygen: watch::Sender<keygen::Config>,
    pub keys: keygen::History,
}

impl App {
    pub fn new(options: &Options) -> App {
        App {
            version: env::var("KUARD_VERSION").unwrap_or_else(|_| "unversioned".into()),
            liveness: Probe::new("/healthy", options.liveness_fail_next),
            readiness: Probe::new("/ready", options.readiness_fail_next),
            queues: Queues::default(),
            memory: Memory::default(),
            metrics: Metrics::default(),
            keygen: watch::Sender::new(options.keygen()),
            keys: keygen::History::default(),
        }
    }

    /// Answers a request, logs it and counts it.
    pub async fn answer(self: Arc<App>, call: Call, peer: SocketAddr) -> Answer {
        println!("{} {peer} {} {}", now(), call.method, call.target);
        let began = std::time::Instant::now();
        let (route, answer) = self.route(&call).await;
        self.metrics.count(&call.method, route, answer.status, began.elapsed());
        answer
    }

    /// The route's name, for metrics, and the answer.
    async fn route(&self, call: &Call) -> (&'static str, Answer) {
        let path = without_prefix(&call.path);
        let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&call.method, steps.as_slice()) {
            (&Method::GET, [""]) => ("/", page::home(self, call)),
            (&Method::GET, ["-", page]) => ("/-", page::section(self, call, page)),
            (&Method::GET, ["healthy"]) => ("/healthy", self.liveness.answer()),
            (&Method::GET, ["ready"]) => ("/ready", self.readiness.answer()),
            (_, ["healthy", "api"]) => ("/healthy/api", self.liveness.api(call)),
            (_, ["ready", "api"]) => ("/ready/api", self.readiness.api(call)),
            (&Method::GET, ["version"]) => ("/version", Answer::text(self.version.clone())),
            (&Method::GET, ["env", "api"]) => ("/env/api", environment(self)),
            (&Method::GET, ["metrics"]) => ("/metrics", Answer::text(self.metrics.text())),
            (_, ["keygen"]) => ("/keygen", keygen::api(self, call)),
            (&Method::POST, ["dns", "api"]) => ("/dns/api", dns::api(call).await),
            (_, ["mem", "api", rest @ ..]) => ("/mem/api", self.memory.api(call, rest)),
            (_, ["memq", "server", rest @ ..]) => ("/memq/server", self.queues.api(call, rest)),
            (&Method::GET, ["fs", ..]) => ("/fs", files::browse(&call.path, path)),
            _ => ("", Answer::error(StatusCode::NOT_FOUND, "there is no such page")),
        }
    }
}

/// `/a`, `/b` and `/c` show the same pages, so that path routing can be seen to work.
fn without_prefix(path: &str) -> &str {
    for prefix in ["/a", "/b", "/c"] {
        if let Some(rest) = path.strip_prefix(prefix)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return rest;
        }
    }
    path
}

fn environment(app: &App) -> Answer {
    let variables: serde_json::Map<_, _> = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into()))
        .collect();
    let command: Vec<_> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    Answer::json(&json!({ "commandLine": command, "env": variables, "version": app.version }))
}

/// The time, for log lines.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_steps_are_prefixes() {
        assert_eq!(without_prefix("/a/healthy"), "/healthy");
        assert_eq!(without_prefix("/a"), "");
        assert_eq!(without_prefix("/about"), "/about");
    }
}
