//! What the task has extenders decide: nodes that fit a pod, and victims that would make room for it.
//!
//! The question goes out beside the task and the answer comes back as an event. Until then the pod is in flight, or waits as
//! one that pods are evicted for. Counterpart: `findNodesThatPassExtenders` and `callExtenders`.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Event, Scheduler};
use crate::extenders::{Concerned, ExtenderError, Verdicts};
use crate::pod_info::PodInfo;
use crate::preemption::{self, Candidate, Nomination};

impl Scheduler {
    pub(super) fn put_to_extenders(
        &mut self,
        pod: &Arc<PodInfo>,
        concerned: Option<Concerned>,
        nodes: Vec<String>,
    ) {
        let Some(concerned) = concerned else { return };
        let (pod, reports) = (pod.clone(), self.reports.clone());
        tokio::spawn(async move {
            let outcome = concerned.judge(nodes).await;
            let _ = reports.send(Event::NodesJudged { pod, outcome });
        });
    }

    pub(super) fn nodes_judged(
        &mut self,
        pod: &Arc<PodInfo>,
        outcome: Result<Verdicts, ExtenderError>,
    ) {
        // Deleted meanwhile, or placed by somebody else.
        let Some(current) = self.queue.get(&pod.uid).cloned() else { return };
        match outcome {
            Ok(verdicts) => self.attempt(&current, Some(&verdicts)),
            Err(error) => {
                self.queue.failed(&current.uid, Instant::now());
                self.tell_failed(&current, "SchedulerError", error.to_string(), None);
            }
        }
    }

    pub(super) fn propose(
        &mut self,
        pod: &Arc<PodInfo>,
        concerned: Option<Concerned>,
        candidates: Vec<Candidate>,
        message: String,
    ) {
        let Some(concerned) = concerned else { return };
        self.queue.preempting(&pod.uid);
        let (pod, reports) = (pod.clone(), self.reports.clone());
        tokio::spawn(async move {
            let outcome = concerned.judge_victims(candidates).await;
            let _ = reports.send(Event::VictimsJudged { pod, message, outcome });
        });
    }

    pub(super) fn victims_judged(
        &mut self,
        pod: &Arc<PodInfo>,
        message: String,
        outcome: Result<Vec<Candidate>, ExtenderError>,
    ) {
        let Some(current) = self.queue.get(&pod.uid).cloned() else { return };
        let (nomination, why) = match outcome.map(preemption::choose) {
            Ok(Nomination::Clear) => (Nomination::Clear, "no candidate node for preemption".into()),
            Ok(nomination) => (nomination, String::new()),
            Err(error) => (Nomination::Keep, error.to_string()),
        };
        if !matches!(nomination, Nomination::Set { .. }) {
            self.queue.preempted(&current.uid, true, Instant::now());
        }
        let message = if why.is_empty() { message } else { format!("{message} {why}") };
        let nominated = self.nominate(&current, nomination);
        self.tell_failed(&current, "Unschedulable", message, nominated);
    }
}
