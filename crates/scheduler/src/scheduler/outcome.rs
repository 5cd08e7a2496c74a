//! What follows when a pod was tried: it is bound, others go for it, or it is said why it waits.
//!
//! Placements and refusals -> writes beside the task, each of which reports back. Counterpart: the binding cycle and
//! `handleSchedulingFailure` of `schedule_one.go`. Invariant: writes about one pod keep their order.

use std::sync::Arc;

use tokio::time::Instant;

use super::{BindError, Event, Scheduler};
use crate::devices::Reservation;
use crate::extenders::Concerned;
use crate::framework::ClusterEvent;
use crate::plugins::dynamic_resources;
use crate::plugins::volume_binding::{self, ClaimStep};
use crate::pod_info::{Condition, PodInfo};
use crate::preemption::Nomination;
use crate::recorder::Note;

impl Scheduler {
    /// Counts the pod on its node at once; what must be written for that is written beside the task.
    pub(super) fn place(&mut self, pod: &Arc<PodInfo>, node: String) {
        let on = self.cache.node(&node).expect("the cycle chose a node of the cache");
        let steps = volume_binding::claim_steps(pod, &self.listers, on);
        let reservations = dynamic_resources::reservations(pod, &self.listers, on);
        let mut assumed = PodInfo::clone(pod);
        assumed.node_name = Some(node.clone());
        let pod = Arc::new(assumed);
        self.nominations.remove(&pod.uid);
        self.cache.assume(pod.clone());
        match steps.is_empty() && reservations.is_empty() {
            true => self.bind(pod, node),
            false => self.settle_claims(pod, node, steps, reservations),
        }
    }

    /// Promises the pod its node and has the victims evicted beside the task. Answers what the API must be told: the
    /// node's name, an empty one when the promise is withdrawn.
    pub(super) fn nominate(
        &mut self,
        pod: &Arc<PodInfo>,
        nomination: Nomination,
    ) -> Option<String> {
        match nomination {
            // A proposal is decided on when the extenders have answered.
            Nomination::Keep | Nomination::Propose(_) => None,
            Nomination::Clear => {
                self.nominations.remove(&pod.uid);
                pod.nominated.is_some().then(String::new)
            }
            Nomination::Set { node, victims } => {
                let lesser = self.nominations.below(&node, pod.priority);
                for other in &lesser {
                    self.nominations.remove(&other.uid);
                    self.queue.activate(&other.uid);
                }
                self.nominations.set(pod.clone(), &node);
                self.evict(pod.clone(), node.clone(), victims, lesser);
                Some(node)
            }
        }
    }

    /// `lesser` are the pods to which the node was promised and who are pushed aside.
    fn evict(
        &mut self,
        pod: Arc<PodInfo>,
        node: String,
        victims: Vec<Arc<PodInfo>>,
        lesser: Vec<Arc<PodInfo>>,
    ) {
        let (mut waiting, mut running) = (Vec::new(), Vec::new());
        for victim in victims.into_iter().filter(|victim| !victim.terminating) {
            let in_memory = self.awaiting_claims.iter().any(|other| other.pod.uid == victim.uid);
            if in_memory { waiting.push(victim) } else { running.push(victim) }
        }
        for victim in &waiting {
            self.give_up_binding(victim);
            self.tell_preempted(
                &pod,
                victim,
                format!("{} (in kube-scheduler memory).", by(&pod, &node)),
            );
        }
        self.queue.preempting(&pod.uid);
        let (writer, reports, recorder) =
            (self.writer.clone(), self.reports.clone(), self.recorder.clone());
        let now = (self.clock)();
        tokio::spawn(async move {
            for other in lesser.iter().filter(|other| other.nominated.is_some()) {
                if let Err(error) = writer.withdraw_nomination(other).await {
                    tracing::debug!(pod = other.name, %error, "nomination was not withdrawn");
                }
            }
            let evictions = running.iter().map(async |victim| {
                writer.evict(victim, &pod.scheduler_name, now).await?;
                recorder.tell(preempted_note(&pod, victim, by(&pod, &node)));
                Ok::<(), kube::Error>(())
            });
            let outcome = futures::future::try_join_all(evictions).await;
            if let Err(error) = &outcome {
                tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "preemption failed");
            }
            let _ = reports.send(Event::Preempted { pod, asked: outcome.is_ok() });
        });
    }

    /// Takes back the node of a pod that only waits for its volumes: it is not bound, so nothing need be deleted.
    fn give_up_binding(&mut self, pod: &Arc<PodInfo>) {
        self.awaiting_claims.retain(|waiting| waiting.pod.uid != pod.uid);
        self.cache.forget(&pod.uid);
        self.give_back_devices(pod);
        self.queue.failed(&pod.uid, Instant::now());
    }

    fn tell_preempted(&self, pod: &PodInfo, victim: &PodInfo, note: String) {
        self.recorder.tell(preempted_note(pod, victim, note));
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let (writer, reports) = (self.writer.clone(), self.reports.clone());
        let told = self.telling.remove(&pod.uid);
        let binder = self.extenders.concerning(&pod).filter(Concerned::binds);
        tokio::spawn(async move {
            // A condition that is still on its way must not arrive after the binding and deny it.
            if let Some(told) = told {
                let _ = told.await;
            }
            let outcome = match binder {
                Some(binder) => binder.bind(&node).await.map_err(BindError::Extender),
                None => writer.bind(&pod, &node).await.map_err(BindError::Api),
            };
            // Nobody listens any more only when the scheduler has stopped.
            let _ = reports.send(Event::Bound { pod, node, outcome });
        });
    }

    fn settle_claims(
        &mut self,
        pod: Arc<PodInfo>,
        node: String,
        steps: Vec<ClaimStep>,
        reservations: Vec<Reservation>,
    ) {
        self.take_devices(&reservations);
        for step in &steps {
            if let ClaimStep::Promise { volume, .. } = step
                && let Some(volume) = self.listers.volumes.get_mut("", volume)
            {
                volume.available = false;
            }
        }
        let (writer, reports) = (self.writer.clone(), self.reports.clone());
        let now = (self.clock)();
        tokio::spawn(async move {
            let settled = async {
                writer.settle_claims(&pod, &node, &steps).await?;
                for reservation in &reservations {
                    writer.reserve(&pod, reservation, now).await?;
                }
                Ok(())
            };
            let report = match settled.await {
                Ok(()) => Event::ClaimsSettled { pod, node },
                Err(error) => Event::Bound { pod, node, outcome: Err(error) },
            };
            let _ = reports.send(report);
        });
    }

    /// Binds the pods whose claims have their volumes now, and gives up on those that waited too long.
    pub(super) fn bind_settled(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.awaiting_claims) {
            if !self.cache.is_assumed(&waiting.pod.uid) {
                continue;
            }
            if volume_binding::all_bound(&waiting.pod, &self.listers) {
                self.bind(waiting.pod, waiting.node);
            } else if waiting.until <= now {
                self.bound(&waiting.pod, &waiting.node, Err(BindError::ClaimsTimedOut));
            } else {
                self.awaiting_claims.push(waiting);
            }
        }
    }

    pub(super) fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, outcome: Result<(), BindError>) {
        let Err(error) = outcome else {
            return self.recorder.tell(Note {
                reporter: pod.scheduler_name.clone(),
                regarding: pod.reference(),
                related: None,
                type_: "Normal",
                reason: "Scheduled",
                action: "Binding",
                note: format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name),
            });
        };
        self.cache.forget(&pod.uid);
        let now = Instant::now();
        self.give_back_devices(pod);
        self.queue.happened(&ClusterEvent::PodLeft(pod), now);
        // Deleted meanwhile, or bound by somebody else: not a failure of ours.
        let Some(current) = self.queue.get(&pod.uid).cloned() else { return };
        tracing::warn!(namespace = pod.namespace, pod = pod.name, node, %error, "binding failed");
        self.queue.failed(&pod.uid, now);
        self.tell_failed(&current, "SchedulerError", format!("binding rejected: {error}"), None);
    }

    pub(super) fn tell_failed(
        &mut self,
        pod: &Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominated: Option<String>,
    ) {
        self.tell_unscheduled(pod, reason, &message, nominated);
        self.recorder.tell(Note {
            reporter: pod.scheduler_name.clone(),
            regarding: pod.reference(),
            related: None,
            type_: "Warning",
            reason: "FailedScheduling",
            action: "Scheduling",
            note: message,
        });
    }

    /// Sets PodScheduled to false, unless the pod says exactly that already. Writes about one pod keep their order.
    pub(super) fn tell_unscheduled(
        &mut self,
        pod: &Arc<PodInfo>,
        reason: &str,
        message: &str,
        nominated: Option<String>,
    ) {
        let condition = Condition::unscheduled(reason, message);
        let known = nominated.is_none() || nominated == pod.nominated;
        if pod.scheduled.as_ref() == Some(&condition) && known {
            return;
        }
        let (writer, now) = (self.writer.clone(), (self.clock)());
        let (pod, before) = (pod.clone(), self.telling.remove(&pod.uid));
        let uid = pod.uid.clone();
        let telling = tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let written = writer.set_condition(&pod, &condition, nominated.as_deref(), now).await;
            if let Err(error) = written {
                tracing::debug!(namespace = pod.namespace, pod = pod.name, %error, "condition was not written");
            }
        });
        self.telling.insert(uid, telling);
    }
}

/// Who preempted, as the event about a victim says it.
fn by(pod: &PodInfo, node: &str) -> String {
    format!("Preempted by pod {} on node {node}", pod.uid)
}

fn preempted_note(pod: &PodInfo, victim: &PodInfo, note: String) -> Note {
    Note {
        reporter: pod.scheduler_name.clone(),
        regarding: victim.reference(),
        related: Some(pod.reference()),
        type_: "Normal",
        reason: "Preempted",
        action: "Preempting",
        note,
    }
}
