//! The scheduling task: watch events in, placements out.
//!
//! One task owns the cache and the queue and does one thing at a time: apply what was heard, then place one pod. What
//! takes time (binding, conditions, events) runs beside it and reports back as one more event.
//! Counterpart: `scheduler.go` and the loop of `schedule_one.go`.
//! Invariant: no pod is tried before everything that was there at the start is known; nothing here waits for the API.

mod devices;
mod extended;
mod heard;
mod outcome;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use heard::Event;

use crate::SchedulerConfig;
use crate::api_writes::Writer;
use crate::cache::Cache;
use crate::claim_writes::ClaimError;
use crate::cycle::{Chance, Outcome, Scheduling};
use crate::extenders::{Concerned, ExtenderError, Extenders, Verdicts};
use crate::framework::{Cycle, Extension, Judgement};
use crate::listers::Listers;
use crate::nominations::Nominations;
use crate::pod_info::PodInfo;
use crate::preemption::Nomination;
use crate::profile::Profile;
use crate::queue::SchedulingQueue;
use crate::recorder::Recorder;

/// A pod with a node whose claims do not have their volumes yet.
struct AwaitingClaims {
    pod: Arc<PodInfo>,
    node: String,
    until: Instant,
}

/// Why a pod that was given a node is not bound to it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("running PreBind plugin \"DynamicResources\": {0}")]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Extender(#[from] ExtenderError),
    #[error("timed out waiting for the pod's claims to be bound")]
    ClaimsTimedOut,
}

pub struct Scheduler {
    clock: fn() -> jiff::Timestamp,
    cache: Cache,
    listers: Listers,
    queue: SchedulingQueue,
    nominations: Nominations,
    profiles: Vec<Profile>,
    extenders: Extenders,
    scheduling: Scheduling,
    writer: Writer,
    recorder: Recorder,
    /// For what runs beside the task to report back.
    reports: mpsc::UnboundedSender<Event>,
    /// The kinds of which a complete list has come.
    complete: HashSet<Cow<'static, str>>,
    /// How many kinds are watched: as many complete lists must have come before the first pod is tried.
    watched: usize,
    awaiting_claims: Vec<AwaitingClaims>,
    /// The last write of a condition, by pod.
    telling: HashMap<String, JoinHandle<()>>,
}

// === impl Scheduler ===

impl Scheduler {
    pub fn new(
        config: SchedulerConfig,
        extenders: Extenders,
        writer: Writer,
        recorder: Recorder,
        reports: mpsc::UnboundedSender<Event>,
        watched: usize,
    ) -> Scheduler {
        let seed = u64::try_from((config.clock)().as_nanosecond()).unwrap_or(1) | 1;
        let scheduling = Scheduling { start: 0, chance: Chance(seed) };
        Scheduler {
            clock: config.clock,
            cache: Cache::default(),
            listers: Listers::default(),
            queue: SchedulingQueue::new(config.initial_backoff, config.max_backoff),
            nominations: Nominations::default(),
            profiles: config.profiles,
            extenders,
            scheduling,
            writer,
            recorder,
            reports,
            complete: HashSet::new(),
            watched,
            awaiting_claims: Vec::new(),
            telling: HashMap::new(),
        }
    }

    /// Runs until both channels are closed or the future is dropped.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut reports: mpsc::UnboundedReceiver<Event>,
    ) {
        loop {
            while let Ok(event) = reports.try_recv() {
                self.apply(event);
            }
            while let Ok(event) = events.try_recv() {
                self.apply(event);
            }
            if self.schedule_one() {
                // Lets bindings and watches run when there is but one thread.
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.next_due();
            tokio::select! {
                Some(event) = reports.recv() => self.apply(event),
                event = events.recv() => match event {
                    Some(event) => self.apply(event),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.bind_settled();
                }
            }
        }
    }

    /// When there may be something to do without any event.
    fn next_due(&self) -> Option<Instant> {
        let claims = self.awaiting_claims.iter().map(|waiting| waiting.until).min();
        self.queue.next_due().into_iter().chain(claims).min()
    }

    /// Tries one pod, if one is waiting. Answers whether there was one.
    fn schedule_one(&mut self) -> bool {
        if self.complete.len() < self.watched {
            return false;
        }
        let Some(queued) = self.queue.pop(Instant::now()) else { return false };
        self.attempt(&queued.info, None);
        true
    }

    /// Looks for a node; with `verdicts` once extenders have said what they make of those that fit.
    fn attempt(&mut self, pod: &Arc<PodInfo>, verdicts: Option<&Verdicts>) {
        let Some(profile) = self.profile(pod) else { return };
        let concerned = self.extenders.concerning(pod);
        self.cache.settle();
        let cycle = Cycle {
            pod,
            cache: &self.cache,
            listers: &self.listers,
            nominations: &self.nominations,
            profile: &self.profiles[profile],
            extension: extension(concerned.as_ref(), verdicts),
        };
        match self.scheduling.schedule(cycle) {
            Outcome::Placed { node } => self.place(pod, node),
            Outcome::ToBeJudged { nodes } => self.put_to_extenders(pod, concerned, nodes),
            Outcome::Unschedulable { message, rejected_by, nomination, deallocate } => {
                if let Some(claim) = deallocate {
                    self.deallocate(pod, claim);
                }
                self.queue.unschedulable(&pod.uid, rejected_by, Instant::now());
                match nomination {
                    Nomination::Propose(candidates) => {
                        self.propose(pod, concerned, candidates, message);
                    }
                    nomination => {
                        let nominated = self.nominate(pod, nomination);
                        self.tell_failed(pod, "Unschedulable", message, nominated);
                    }
                }
            }
        }
    }

    fn profile(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == pod.scheduler_name)
    }
}

fn extension<'a>(concerned: Option<&Concerned>, verdicts: Option<&'a Verdicts>) -> Extension<'a> {
    let Some(concerned) = concerned else { return Extension::default() };
    let nodes = match verdicts {
        Some(verdicts) => Judgement::Given(verdicts),
        None if concerned.judges_nodes() => Judgement::Wanted,
        None => Judgement::Unneeded,
    };
    Extension { nodes, victims: concerned.judges_preemption() }
}
