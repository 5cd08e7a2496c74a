//! Extenders: programs outside of the scheduler that have a say in where pods go.
//!
//! A pod and the nodes that fit it go out as JSON over HTTP, verdicts about these nodes come back; the same for the victims of
//! a preemption, and for bindings. Counterpart: `pkg/scheduler/extender.go`. Differs from upstream: extenders are asked beside
//! the scheduling task, and the pod is then tried again with what they said, so that a slow one holds up only its own pods.
//! Invariant: a node that an extender refused is not taken, and one that was not put to them neither.

mod config;
mod extender;
mod messages;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use kube::Client;

use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
pub use config::{ExtenderConfig, check};
use extender::Extender;
use messages::Objects;
use wire::FilterResult;

#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    #[error("failed {verb} with extender at URL {url}/{verb}, code {code}")]
    Refused { verb: String, url: String, code: u16 },
    #[error("Post \"{url}/{verb}\": {source}")]
    Unreachable { verb: String, url: String, source: Box<kube::Error> },
    #[error(
        "Post \"{url}/{verb}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    )]
    TimedOut { verb: String, url: String },
    #[error("extender {url:?} answered {verb} with something else: {source}")]
    Unreadable { verb: String, url: String, source: serde_json::Error },
    #[error(
        "extender {url:?} claims a filtered node {node:?} which is not found in the input node list"
    )]
    UnknownNode { url: String, node: String },
    #[error(
        "extender: {url} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node"
    )]
    UnknownVictim { url: String, uid: String, node: String },
    #[error("{0}")]
    Said(String),
    #[error("reading what extenders are told: {0}")]
    Objects(#[source] Box<kube::Error>),
}

type Result<T> = std::result::Result<T, ExtenderError>;

/// What the extenders said of the nodes that were put to them.
#[derive(Debug, Default, PartialEq)]
pub struct Verdicts(HashMap<String, Verdict>);

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It will do, and counts so much more than what the plugins make of it.
    Kept {
        score: i64,
    },
    Refused {
        reason: String,
    },
}

/// Those that have a say in one pod.
#[derive(Clone)]
pub struct Concerned {
    pod: Arc<PodInfo>,
    extenders: Vec<Arc<Extender>>,
    api: Client,
}

/// All extenders, in the order they are asked.
#[derive(Clone)]
pub struct Extenders {
    all: Vec<Arc<Extender>>,
    api: Client,
}

// === impl Verdicts ===

impl Verdicts {
    pub fn of(&self, node: &str) -> Option<&Verdict> {
        self.0.get(node)
    }

    /// Notes whom the answer refuses, and answers who is left. Without an answer all are.
    fn refuse(
        &mut self,
        by: &Extender,
        nodes: Vec<String>,
        answer: Option<FilterResult>,
    ) -> Result<Vec<String>> {
        let Some(answer) = answer else { return Ok(nodes) };
        let left = match (answer.node_names, answer.nodes) {
            (Some(names), _) if by.config.node_cache_capable => names,
            (_, Some(list)) => {
                list.items.unwrap_or_default().into_iter().map(|node| node.metadata.name).collect()
            }
            _ => Vec::new(),
        };
        if let Some(node) = left.iter().find(|node| !nodes.contains(node)) {
            let (url, node) = (by.config.url_prefix.clone(), node.clone());
            return Err(ExtenderError::UnknownNode { url, node });
        }
        // Upstream asks whether an eviction would help only for those that are not unresolvable; but no plugin refused these
        // nodes, so there would be no victims.
        let mut reasons = answer.failed.unwrap_or_default();
        reasons.extend(answer.unresolvable.unwrap_or_default());
        for node in nodes.into_iter().filter(|node| !left.contains(node)) {
            // One may be left out without a word.
            let reason = reasons.remove(&node).unwrap_or_default();
            self.0.insert(node, Verdict::Refused { reason });
        }
        Ok(left)
    }
}

// === impl Extenders ===

impl Extenders {
    /// Makes the ways to all of them. One whose certificates cannot be read is told and answers nothing.
    pub async fn connect(configs: &[ExtenderConfig], api: Client) -> Extenders {
        let mut all = Vec::with_capacity(configs.len());
        for config in configs {
            let connection = config.connection().await.map_err(|error| error.to_string());
            let client = connection
                .and_then(|config| Client::try_from(config).map_err(|error| error.to_string()));
            match client {
                Ok(client) => all.push(Arc::new(Extender::new(config.clone(), client))),
                Err(error) => {
                    tracing::error!(extender = config.url_prefix, error, "extender is not asked");
                }
            }
        }
        Extenders { all, api }
    }

    /// Those that have a say in the pod; `None` when nobody has.
    pub fn concerning(&self, pod: &Arc<PodInfo>) -> Option<Concerned> {
        let extenders: Vec<_> =
            self.all.iter().filter(|extender| extender.concerns(pod)).cloned().collect();
        if extenders.is_empty() {
            return None;
        }
        Some(Concerned { pod: pod.clone(), extenders, api: self.api.clone() })
    }
}

// === impl Concerned ===

impl Concerned {
    pub fn judges_nodes(&self) -> bool {
        self.extenders.iter().any(|extender| extender.judges_nodes())
    }

    pub fn judges_preemption(&self) -> bool {
        self.extenders.iter().any(|extender| extender.judges_victims())
    }

    pub fn binds(&self) -> bool {
        self.binder().is_some()
    }

    fn binder(&self) -> Option<&Extender> {
        self.extenders.iter().find(|extender| extender.binds()).map(Arc::as_ref)
    }

    /// Has the nodes filtered by one after the other, then those that are left scored by all.
    pub async fn judge(&self, nodes: Vec<String>) -> Result<Verdicts> {
        let objects = Objects::read(&self.api, &self.pod, self.whole_nodes()).await?;
        let mut verdicts = Verdicts::default();
        let mut left = nodes;
        for extender in &self.extenders {
            if left.is_empty() {
                break;
            }
            match extender.filter(&objects, &left).await {
                Ok(answer) => left = verdicts.refuse(extender, left, answer)?,
                Err(error) => extender.excuse(error)?,
            }
        }
        let scores = self.extenders.iter().map(|extender| extender.scores(&objects, &left));
        let scores = futures::future::join_all(scores).await;
        for node in left {
            let score = scores.iter().filter_map(|of| of.get(&node)).sum();
            verdicts.0.insert(node, Verdict::Kept { score });
        }
        Ok(verdicts)
    }

    /// Has those candidates taken out, or given other victims, that the extenders do not agree with.
    pub async fn judge_victims(&self, mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>> {
        let judges = self.extenders.iter().filter(|extender| extender.judges_victims());
        let objects = Objects::read(&self.api, &self.pod, false).await?;
        for extender in judges {
            if candidates.is_empty() {
                break;
            }
            match extender.preempt(&self.api, &objects, &candidates).await {
                Ok(answer) => candidates = extender.agreed(&candidates, answer)?,
                Err(error) => extender.excuse(error)?,
            }
        }
        Ok(candidates)
    }

    pub async fn bind(&self, node: &str) -> Result<()> {
        let Some(extender) = self.binder() else { return Ok(()) };
        extender.bind(&self.pod, node).await
    }

    fn whole_nodes(&self) -> bool {
        let mut asked = self.extenders.iter().filter(|extender| extender.judges_nodes());
        asked.any(|extender| !extender.config.node_cache_capable)
    }
}
