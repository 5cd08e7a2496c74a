//! What a Job does step by step, told in the terms of its specification.

use std::time::Duration;

use super::picture::{failures_before, index};
use super::simulation::World;

const TEMPLATE: &str = "template: {spec: {containers: [{name: c, image: i}]}}";

fn world(spec: &str) -> World {
    let mut world = World::new(&format!("{{{spec}, {TEMPLATE}}}"));
    world.settle();
    world
}

fn succeed(world: &mut World, count: usize) {
    for name in world.running().into_iter().take(count) {
        world.finish(&name, "Succeeded", 0);
    }
    world.settle();
}

fn fail(world: &mut World, code: i32) -> Option<Duration> {
    let name = world.running().first().cloned().expect("a pod runs");
    world.finish(&name, "Failed", code);
    world.settle()
}

#[test]
fn pods_never_outnumber_what_is_left_to_complete() {
    let mut job = world("parallelism: 3, completions: 4, backoffLimit: 6");
    assert_eq!(job.running().len(), 3);
    succeed(&mut job, 2);
    assert_eq!(job.running().len(), 2);
    succeed(&mut job, 2);
    assert_eq!(job.condition("SuccessCriteriaMet"), Some("CompletionsReached"));
    assert_eq!(job.condition("Complete"), Some("CompletionsReached"));
    let status = job.job.status.as_ref().unwrap();
    assert_eq!((status.succeeded, status.active, status.ready), (Some(4), None, Some(0)));
    assert!(status.completion_time.is_some() && status.start_time.is_some());
}

#[test]
fn without_completions_one_success_lets_the_others_finish() {
    let mut job = world("parallelism: 3, backoffLimit: 6");
    succeed(&mut job, 1);
    assert_eq!((job.running().len(), job.condition("Complete")), (2, None));
    fail(&mut job, 1);
    succeed(&mut job, 1);
    assert_eq!(job.condition("Complete"), Some("CompletionsReached"));
}

#[test]
fn failures_wait_longer_each_time_until_there_are_too_many() {
    let mut job = world("parallelism: 1, completions: 1, backoffLimit: 2");
    assert_eq!(fail(&mut job, 1), Some(Duration::from_secs(10)));
    assert!(job.running().is_empty());
    job.now += Duration::from_secs(10);
    job.settle();
    assert_eq!(fail(&mut job, 1), Some(Duration::from_secs(20)));
    job.now += Duration::from_secs(20);
    job.settle();
    assert_eq!(fail(&mut job, 1), None);
    assert_eq!(job.condition("FailureTarget"), Some("BackoffLimitExceeded"));
    assert_eq!(job.condition("Failed"), Some("BackoffLimitExceeded"));
    assert_eq!(job.job.status.as_ref().unwrap().failed, Some(3));
}

#[test]
fn indexes_are_completed_and_named_in_the_status() {
    let mut job = world("parallelism: 2, completions: 5, completionMode: Indexed, backoffLimit: 6");
    assert_eq!(job.running(), ["j-0-001", "j-1-002"]);
    job.finish("j-1-002", "Succeeded", 0);
    job.settle();
    assert_eq!(job.running(), ["j-0-001", "j-2-003"]);
    let status = job.job.status.as_ref().unwrap();
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("1"), Some(1)));
    for _ in 0..4 {
        succeed(&mut job, 1);
    }
    let status = job.job.status.as_ref().unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0-4"));
    assert_eq!(job.condition("Complete"), Some("CompletionsReached"));
}

#[test]
fn each_index_fails_for_itself() {
    let mut job = world(
        "parallelism: 2, completions: 2, completionMode: Indexed, backoffLimitPerIndex: 1, backoffLimit: 2147483647",
    );
    assert_eq!(fail(&mut job, 1), Some(Duration::from_secs(10)));
    job.now += Duration::from_secs(10);
    job.settle();
    let again = job.pod("j-0-003");
    assert_eq!((index(&again), failures_before(&again)), (Some(0), 1));
    job.finish("j-0-003", "Failed", 1);
    job.settle();
    let status = job.job.status.as_ref().unwrap();
    assert_eq!((status.failed_indexes.as_deref(), status.failed), (Some("0"), Some(2)));
    succeed(&mut job, 1);
    assert_eq!(job.condition("Failed"), Some("FailedIndexes"));
}

#[test]
fn a_rule_can_end_the_job_ignore_a_failure_or_end_an_index() {
    let policy = |action: &str| {
        format!(
            "podFailurePolicy: {{rules: [{{action: {action}, onExitCodes: {{operator: In, values: [42]}}}}]}}"
        )
    };
    let mut job =
        world(&format!("parallelism: 2, completions: 2, backoffLimit: 0, {}", policy("FailJob")));
    fail(&mut job, 42);
    assert_eq!(job.condition("Failed"), Some("PodFailurePolicy"));
    assert!(job.running().is_empty());

    let mut job =
        world(&format!("parallelism: 1, completions: 1, backoffLimit: 0, {}", policy("Ignore")));
    assert_eq!(fail(&mut job, 42), Some(Duration::from_secs(10)));
    assert_eq!((job.condition("Failed"), job.job.status.as_ref().unwrap().failed), (None, None));

    let mut job = world(&format!(
        "parallelism: 1, completions: 2, completionMode: Indexed, backoffLimitPerIndex: 5, backoffLimit: 9, {}",
        policy("FailIndex")
    ));
    fail(&mut job, 42);
    assert_eq!(job.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
}

#[test]
fn enough_successes_end_the_rest_which_did_not_fail() {
    let mut job = world(
        "parallelism: 3, completions: 3, completionMode: Indexed, backoffLimit: 6,
         successPolicy: {rules: [{succeededIndexes: '1'}]}",
    );
    job.finish("j-1-002", "Succeeded", 0);
    job.settle();
    assert_eq!(job.condition("SuccessCriteriaMet"), Some("SuccessPolicy"));
    assert_eq!(job.condition("Complete"), Some("SuccessPolicy"));
    let status = job.job.status.as_ref().unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(1), None));
}

#[test]
fn a_suspended_job_has_no_pods_and_its_time_stands_still() {
    let mut job =
        world("parallelism: 2, completions: 2, backoffLimit: 6, activeDeadlineSeconds: 60");
    job.now += Duration::from_secs(59);
    job.job.spec.as_mut().unwrap().suspend = Some(true);
    job.settle();
    assert_eq!((job.running().len(), job.condition("Suspended")), (0, Some("JobSuspended")));
    let status = job.job.status.as_ref().unwrap();
    assert_eq!((status.failed, status.start_time.as_ref()), (None, None));
    job.now += Duration::from_secs(600);
    job.job.spec.as_mut().unwrap().suspend = Some(false);
    assert_eq!(job.settle(), Some(Duration::from_secs(60)));
    assert_eq!((job.running().len(), job.condition("Suspended")), (2, None));
    job.now += Duration::from_secs(60);
    job.settle();
    assert_eq!(job.condition("Failed"), Some("DeadlineExceeded"));
    assert_eq!(job.job.status.as_ref().unwrap().failed, Some(2));
}

#[test]
fn fewer_in_parallel_drops_pods_without_counting_them() {
    let mut job = world("parallelism: 3, completions: 9, backoffLimit: 0");
    job.job.spec.as_mut().unwrap().parallelism = Some(1);
    job.settle();
    let status = job.job.status.as_ref().unwrap();
    assert_eq!((job.running().len(), status.failed, status.terminating), (1, None, Some(0)));
}
