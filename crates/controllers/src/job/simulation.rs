//! A Job in a world without a server: passes of the controller, pods that end at random, requests that get lost.
//!
//! From any state that can be reached, passes alone come to rest; and however often the controller is struck down between
//! two writes, no pod is counted twice and none is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::account::account;
use super::back_off::BackOff;
use super::picture::{Picture, is_tracked};
use super::plan::{Op, plan};
use super::{TRACKING, end};
use crate::pod;
use crate::testing::{Dice, yaml};

pub struct World {
    pub job: Job,
    pods: BTreeMap<String, Pod>,
    back_off: Option<BackOff>,
    pub now: Timestamp,
    made: usize,
    /// How each pod that was tracked until its end must have been counted.
    pub ended: BTreeMap<&'static str, i32>,
}

/// Writes until the controller is struck down; none if it is not.
type Strike = Option<usize>;

// === impl World ===

impl World {
    pub fn new(spec: &str) -> World {
        let job = yaml(&format!(
            "{{metadata: {{name: j, namespace: ns, uid: u}}, spec: {spec}, status: {{}}}}"
        ));
        World {
            job,
            pods: BTreeMap::new(),
            back_off: None,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            made: 0,
            ended: BTreeMap::new(),
        }
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.values().cloned().map(Arc::new).collect()
    }

    pub fn pod(&self, name: &str) -> Pod {
        self.pods[name].clone()
    }

    pub fn running(&self) -> Vec<String> {
        let active = self.pods.iter().filter(|(_, pod)| pod::is_active(pod));
        active.map(|(name, _)| name.clone()).collect()
    }

    /// One pass of the controller. Gives how many writes it made, and how long it would wait.
    pub fn pass(&mut self, strike: Strike) -> (usize, Option<Duration>) {
        let mut budget = strike.unwrap_or(usize::MAX);
        let mut writes = 0;
        if end(&self.job).is_some() {
            return (0, None);
        }
        let mut spend = || {
            let left = budget > 0;
            budget = budget.saturating_sub(1);
            writes += usize::from(left);
            left
        };
        let (pods, job) = (self.pods(), self.job.clone());
        let picture = Picture::new(&job, &pods, self.now).unwrap();
        let known = self.back_off.clone().unwrap_or_else(|| picture.past_back_off());
        let back_off = known.after(&picture.newly_succeeded(), &picture.newly_failed());
        let decided = plan(&picture, &back_off);
        match decided.op {
            Some(Op::Create(pods)) => {
                pods.into_iter().filter(|_| spend()).for_each(|pod| self.create(pod))
            }
            Some(Op::Drop(pods)) => pods.iter().filter(|_| spend()).for_each(|pod| {
                self.untrack(pod);
                self.delete(pod);
            }),
            Some(Op::End(pods)) => pods.iter().filter(|_| spend()).for_each(|pod| self.delete(pod)),
            None => {}
        }
        let pods = self.pods();
        let picture = Picture::new(&job, &pods, self.now).unwrap();
        let books = account(&picture, decided.verdict.as_ref());
        if self.job.status.as_ref() != Some(&books.status) {
            if !spend() {
                self.back_off = None;
                return (writes, None);
            }
            self.job.status = Some(books.status);
        }
        self.back_off = strike.is_none().then_some(back_off);
        for pod in books.untrack.iter().filter(|_| spend()) {
            self.count(pod);
            self.untrack(pod);
        }
        (writes, decided.wait)
    }

    fn create(&mut self, mut pod: Pod) {
        self.made += 1;
        let name = format!("{}{:03}", pod.metadata.generate_name.take().unwrap(), self.made);
        pod.metadata.uid = Some(name.clone());
        pod.metadata.name = Some(name.clone());
        pod.metadata.creation_timestamp = Some(Time(self.now));
        self.pods.insert(name, pod);
    }

    fn delete(&mut self, pod: &Pod) {
        let Some(pod) = self.pods.get_mut(pod.metadata.name.as_ref().unwrap()) else { return };
        pod.metadata.deletion_timestamp.get_or_insert(Time(self.now));
    }

    fn untrack(&mut self, pod: &Pod) {
        let name = pod.metadata.name.as_ref().unwrap();
        let Some(pod) = self.pods.get_mut(name) else { return };
        pod.metadata.finalizers.iter_mut().for_each(|all| all.retain(|one| one != TRACKING));
    }

    /// Every pod that loses its finalizer for having ended must turn up in the status.
    fn count(&mut self, pod: &Pod) {
        let as_what = if pod::phase(pod) == "Succeeded" { "succeeded" } else { "failed" };
        *self.ended.entry(as_what).or_default() += 1;
    }

    /// A pod reaches its end.
    pub fn finish(&mut self, name: &str, phase: &str, code: i32) {
        let pod = self.pods.get_mut(name).unwrap();
        pod.status = Some(
            serde_json::from_value(json!({"phase": phase, "containerStatuses": [
            {"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": code, "finishedAt": Time(self.now)}}}]}))
            .unwrap(),
        );
    }

    /// The node ends what is being deleted and no longer tracked.
    fn reap(&mut self) {
        for pod in self.pods.values_mut().filter(|pod| pod::is_terminating(pod)) {
            if !pod::is_terminal(pod) {
                pod.status.get_or_insert_default().phase = Some("Failed".into());
            }
        }
        self.pods.retain(|_, pod| !pod::is_terminating(pod) || is_tracked(pod));
    }

    /// Passes until nothing is left to do but to wait. Panics if that never comes.
    pub fn settle(&mut self) -> Option<Duration> {
        for _ in 0..100 {
            self.reap();
            if let (0, wait) = self.pass(None) {
                return wait;
            }
        }
        panic!("still writing after 100 passes: {:#?}", self.job.status)
    }

    pub fn condition(&self, type_: &str) -> Option<&str> {
        let status = self.job.status.as_ref()?;
        let found =
            status.conditions.iter().flatten().find(|condition| condition.type_ == type_)?;
        found.reason.as_deref().filter(|_| found.status == "True")
    }
}

const SPECS: &[&str] = &[
    "{parallelism: 2, completions: 5, backoffLimit: 3, template: {spec: {containers: []}}}",
    "{parallelism: 3, backoffLimit: 4, template: {spec: {containers: []}}}",
    "{parallelism: 3, completions: 4, completionMode: Indexed, backoffLimit: 6, template: {spec: {containers: []}}}",
    "{parallelism: 3, completions: 6, completionMode: Indexed, backoffLimitPerIndex: 1, maxFailedIndexes: 2,
      backoffLimit: 2147483647, template: {spec: {containers: []}}}",
    "{parallelism: 4, completions: 4, completionMode: Indexed, successPolicy: {rules: [{succeededCount: 2}]},
      backoffLimit: 6, template: {spec: {containers: []}}}",
    "{parallelism: 2, completions: 3, backoffLimit: 9, podReplacementPolicy: Failed, activeDeadlineSeconds: 200,
      template: {spec: {containers: []}}}",
];

/// What may happen to a Job between two passes.
fn disturb(world: &mut World, dice: &mut Dice) {
    let running = world.running();
    match (dice.below(8), running.get(dice.below(running.len().max(1)))) {
        (0 | 1, Some(name)) => world.finish(name, "Succeeded", 0),
        (2, Some(name)) => world.finish(name, "Failed", 1),
        (3, Some(name)) => {
            let pod = world.pods[name].clone();
            world.delete(&pod);
        }
        (4, _) => world.now += Duration::from_secs(15),
        (5, _) => {
            let spec = world.job.spec.as_mut().unwrap();
            spec.suspend = Some(dice.below(4) == 0);
        }
        (6, _) => world.job.spec.as_mut().unwrap().parallelism = Some(1 + dice.below(4) as i32),
        _ => world.reap(),
    }
}

#[test]
fn passes_come_to_rest_from_any_state_and_no_pod_is_counted_twice() {
    for seed in 0..600 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(SPECS[dice.below(SPECS.len())]);
        for _ in 0..30 {
            disturb(&mut world, &mut dice);
            let strike = (dice.below(3) == 0).then(|| dice.below(4));
            world.pass(strike);
        }
        world.settle();
        let status = world.job.status.clone().unwrap();
        let indexed = world.job.spec.as_ref().unwrap().completion_mode.is_some();
        // Of an indexed Job the indexes count, which several pods may complete.
        if !indexed {
            let counted = world.ended.get("succeeded").copied().unwrap_or(0);
            assert_eq!(status.succeeded.unwrap_or(0), counted, "seed {seed}");
        }
        let failed = world.ended.get("failed").copied().unwrap_or(0);
        let succeeded_early = world.condition("SuccessCriteriaMet").is_some();
        if !succeeded_early {
            assert_eq!(status.failed.unwrap_or(0), failed, "seed {seed}");
        }
        assert!(status.failed.unwrap_or(0) <= failed, "seed {seed}");
        assert_eq!(world.pass(None).0, 0, "seed {seed}: a second look writes nothing");
    }
}

#[test]
fn a_job_left_alone_ends() {
    for (position, spec) in SPECS.iter().enumerate() {
        let mut world = World::new(spec);
        for _ in 0..40 {
            let wait = world.settle();
            if end(&world.job).is_some() {
                break;
            }
            match world.running().first().cloned() {
                Some(name) => world.finish(&name, "Succeeded", 0),
                None => world.now += wait.unwrap_or_default(),
            }
        }
        assert_eq!(end(&world.job).map(|end| end.type_.as_str()), Some("Complete"), "{position}");
    }
}
