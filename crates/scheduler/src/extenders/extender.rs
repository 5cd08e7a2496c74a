//! One extender: what it is asked, verb by verb, and what its answers mean.
//!
//! What the scheduler knows in, verdicts, scores, victims or a binding out. Counterpart: `HTTPExtender` of
//! `pkg/scheduler/extender.go`. Invariant: nodes and victims that were not put to it never come back.

use std::collections::{BTreeMap, HashMap};

use kube::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::{self, Objects};
use super::wire::{
    Args, BindingArgs, BindingResult, FilterResult, HostPriority, MetaVictims, PreemptionResult,
};
use super::{ExtenderConfig, ExtenderError, Result};
use crate::framework::MAX_SCORE;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;

/// The best score an extender can give.
const MAX_EXTENDER_SCORE: i64 = 10;

/// What it may be asked, and the way to it.
pub struct Extender {
    pub config: ExtenderConfig,
    client: Client,
}

// === impl Extender ===

impl Extender {
    pub fn new(config: ExtenderConfig, client: Client) -> Extender {
        Extender { config, client }
    }

    pub fn judges_nodes(&self) -> bool {
        !self.config.filter_verb.is_empty() || !self.config.prioritize_verb.is_empty()
    }

    pub fn judges_victims(&self) -> bool {
        !self.config.preempt_verb.is_empty()
    }

    pub fn binds(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    pub fn concerns(&self, pod: &PodInfo) -> bool {
        let managed = &self.config.managed_resources;
        let asked = &pod.requests.declared.scalars;
        managed.is_empty()
            || asked.iter().any(|(name, _)| managed.iter().any(|resource| resource.name == **name))
    }

    pub async fn filter(
        &self,
        objects: &Objects,
        nodes: &[String],
    ) -> Result<Option<FilterResult>> {
        if self.config.filter_verb.is_empty() {
            return Ok(None);
        }
        let answer: FilterResult =
            self.ask(&self.config.filter_verb, &self.about(objects, nodes)).await?;
        match answer.error.is_empty() {
            true => Ok(Some(answer)),
            false => Err(ExtenderError::Said(answer.error)),
        }
    }

    /// What each node is worth to it, on the scale of the plugins. One that cannot be asked has no opinion.
    pub async fn scores(&self, objects: &Objects, nodes: &[String]) -> HashMap<String, i64> {
        if self.config.prioritize_verb.is_empty() || nodes.is_empty() {
            return HashMap::new();
        }
        let asked = self.ask(&self.config.prioritize_verb, &self.about(objects, nodes)).await;
        let given: Vec<HostPriority> = asked.unwrap_or_else(|error| {
            tracing::warn!(%error, "extender gave no scores");
            Vec::new()
        });
        let scale = self.config.weight.saturating_mul(MAX_SCORE / MAX_EXTENDER_SCORE);
        given.into_iter().map(|given| (given.host, given.score.saturating_mul(scale))).collect()
    }

    pub async fn preempt(
        &self,
        api: &Client,
        objects: &Objects,
        candidates: &[Candidate],
    ) -> Result<BTreeMap<String, MetaVictims>> {
        let verb = &self.config.preempt_verb;
        let answer: PreemptionResult = if self.config.node_cache_capable {
            self.ask(verb, &messages::victims_by_uid(&objects.pod, candidates)).await?
        } else {
            let pods = messages::victims(api, candidates).await?;
            self.ask(verb, &messages::whole_victims(&objects.pod, candidates, &pods)).await?
        };
        Ok(answer.victims.unwrap_or_default())
    }

    /// The answer's uids as pods again.
    pub fn agreed(
        &self,
        candidates: &[Candidate],
        answer: BTreeMap<String, MetaVictims>,
    ) -> Result<Vec<Candidate>> {
        let url = || self.config.url_prefix.clone();
        let mut agreed = Vec::with_capacity(answer.len());
        for (node, given) in answer {
            let proposed = candidates.iter().find(|candidate| candidate.node == node);
            let proposed = proposed
                .ok_or_else(|| ExtenderError::UnknownNode { url: url(), node: node.clone() })?;
            let mut victims = Vec::new();
            for meta in given.pods.unwrap_or_default() {
                let victim = proposed.victims.iter().find(|pod| pod.uid == meta.uid);
                victims.push(victim.cloned().ok_or_else(|| ExtenderError::UnknownVictim {
                    url: url(),
                    uid: meta.uid,
                    node: node.clone(),
                })?);
            }
            if !victims.is_empty() {
                agreed.push(Candidate { node, victims, violations: given.violations });
            }
        }
        Ok(agreed)
    }

    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<()> {
        let args = BindingArgs {
            pod_name: &pod.name,
            pod_namespace: &pod.namespace,
            pod_uid: &pod.uid,
            node,
        };
        let result: BindingResult = self.ask(&self.config.bind_verb, &args).await?;
        match result.error.is_empty() {
            true => Ok(()),
            false => Err(ExtenderError::Said(result.error)),
        }
    }

    fn about<'a>(&self, objects: &'a Objects, nodes: &'a [String]) -> Args<'a> {
        match self.config.node_cache_capable {
            true => Args { pod: &objects.pod, nodes: None, node_names: Some(nodes) },
            false => {
                Args { pod: &objects.pod, nodes: Some(objects.nodes(nodes)), node_names: None }
            }
        }
    }

    /// Whether pods are placed all the same when it fails.
    pub fn excuse(&self, error: ExtenderError) -> Result<()> {
        match self.config.ignorable {
            true => {
                tracing::info!(extender = self.config.url_prefix, %error, "extender is passed over");
                Ok(())
            }
            false => Err(error),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, verb: &str, args: &impl Serialize) -> Result<T> {
        let url = self.config.url_prefix.trim_end_matches('/').to_owned();
        let body = serde_json::to_vec(args).expect("texts, numbers and JSON make JSON");
        let request = http::Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .expect("a verb is part of an address");
        let verb = verb.to_owned();
        let answer = tokio::time::timeout(self.config.timeout, self.client.request_text(request));
        let text = match answer.await {
            Err(_) => return Err(ExtenderError::TimedOut { verb, url }),
            Ok(Err(kube::Error::Api(status))) => {
                return Err(ExtenderError::Refused { verb, url, code: status.code });
            }
            Ok(Err(source)) => {
                let source = Box::new(source);
                return Err(ExtenderError::Unreachable { verb, url, source });
            }
            Ok(Ok(text)) => text,
        };
        serde_json::from_str(&text).map_err(|source| ExtenderError::Unreadable {
            verb,
            url,
            source,
        })
    }
}
