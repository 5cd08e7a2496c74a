//! The scheduler as a whole, over a fake API: what a user does in, bindings, conditions and events out.

mod fake_api;

use std::time::{Duration, Instant};

use fake_api::FakeApi;
use serde_json::{Value, json};
use skiff_scheduler::SchedulerConfig;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs a scheduler until the guard is dropped.
fn start(api: &FakeApi) -> DropGuard {
    let shutdown = CancellationToken::new();
    tokio::spawn(skiff_scheduler::run(api.client(), SchedulerConfig::default(), shutdown.clone()));
    shutdown.drop_guard()
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "generation": 1},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]}})
}

#[tokio::test]
async fn a_pod_is_bound_and_an_event_says_so() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    let _running = start(&api);
    api.put("pods", pod("web", "1"));
    let node = api.until("the binding", |state| state.node_of("web")).await;
    assert_eq!(node, "one");
    let event = api.until("the event", |state| state.event("Scheduled").cloned()).await;
    assert_eq!(event["note"], "Successfully assigned default/web to one");
    assert_eq!(event["type"], "Normal");
    assert_eq!(event["regarding"]["name"], "web");
    assert_eq!(event["reportingController"], "default-scheduler");
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_once_there_is_room() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    let _running = start(&api);
    api.put("pods", pod("first", "1500m"));
    api.until("the first binding", |state| state.node_of("first")).await;
    api.put("pods", pod("second", "1500m"));
    let condition = api.until("a condition", |state| state.condition_of("second").cloned()).await;
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(condition["observedGeneration"], 1);
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
        0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(condition["message"], expected);
    let event = api.until("the event", |state| state.event("FailedScheduling").cloned()).await;
    assert_eq!(event["note"], expected);
    assert_eq!(event["type"], "Warning");

    let freed = Instant::now();
    api.delete("pods/default/first");
    api.until("the second binding", |state| state.node_of("second")).await;
    assert!(
        freed.elapsed() < Duration::from_millis(900),
        "waited out a back-off with nothing else to do"
    );
}

#[tokio::test]
async fn a_lesser_pod_makes_room_for_a_more_important_one() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    let _running = start(&api);
    api.put("pods", pod("lesser", "2"));
    api.until("the first binding", |state| state.node_of("lesser")).await;
    let mut important = pod("important", "2");
    important["spec"]["priority"] = 1000.into();
    api.put("pods", important);
    let promised = |state: &fake_api::State| {
        let pod = state.objects.get("pods/default/important")?;
        pod["status"]["nominatedNodeName"].as_str().map(str::to_owned)
    };
    assert_eq!(api.until("the promise", promised).await, "one");
    let leaving = |state: &fake_api::State| {
        let pod = state.objects.get("pods/default/lesser")?;
        pod["metadata"]["deletionTimestamp"].is_string().then(|| pod.clone())
    };
    let leaving = api.until("the eviction", leaving).await;
    let condition = &leaving["status"]["conditions"][0];
    assert_eq!(condition["type"], "DisruptionTarget");
    assert_eq!(condition["reason"], "PreemptionByScheduler");
    let expected = "default-scheduler: preempting to accommodate a higher priority pod";
    assert_eq!(condition["message"], expected);
    let event = api.until("the event", |state| state.event("Preempted").cloned()).await;
    let uid = &event["related"]["uid"];
    let expected = format!("Preempted by pod {} on node one", uid.as_str().unwrap());
    assert_eq!(event["note"], expected);
    // What it leaves is not for others.
    api.put("pods", pod("late", "1"));
    api.until("a condition", |state| state.condition_of("late").cloned()).await;
    api.delete("pods/default/lesser");
    api.until("the binding", |state| state.node_of("important")).await;
    api.change(|state| assert_eq!(state.node_of("late"), None));
}

#[tokio::test]
async fn a_pod_waits_for_its_gates() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    let _running = start(&api);
    let mut gated = pod("gated", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    api.put("pods", gated);
    let condition = api.until("a condition", |state| state.condition_of("gated").cloned()).await;
    assert_eq!(condition["reason"], "SchedulingGated");
    api.put("pods", pod("other", "1"));
    api.until("the other binding", |state| state.node_of("other")).await;
    api.change(|state| {
        assert_eq!(state.node_of("gated"), None);
        let mut pod = state.objects["pods/default/gated"].clone();
        pod["spec"]["schedulingGates"] = json!([]);
        state.put("pods", pod);
    });
    api.until("the binding", |state| state.node_of("gated")).await;
}

#[tokio::test]
async fn a_failed_binding_is_tried_again() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    api.change(|state| state.refuse_bindings = 1);
    let _running = start(&api);
    api.put("pods", pod("web", "1500m"));
    let condition = api.until("a condition", |state| state.condition_of("web").cloned()).await;
    assert_eq!(condition["reason"], "SchedulerError");
    // Its own assumed request must not stand in its way.
    api.until("the binding", |state| state.node_of("web")).await;
}

#[tokio::test]
async fn pods_of_another_scheduler_are_left_alone() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    let _running = start(&api);
    let mut foreign = pod("foreign", "1");
    foreign["spec"]["schedulerName"] = "somebody-else".into();
    api.put("pods", foreign);
    api.put("pods", pod("ours", "1"));
    api.until("the binding", |state| state.node_of("ours")).await;
    api.change(|state| assert_eq!(state.node_of("foreign"), None));
}

#[tokio::test]
async fn many_pods_never_overcommit_a_node() {
    let api = FakeApi::new();
    (0..4).for_each(|n| api.put("nodes", node(&format!("n{n}"), "1")));
    let _running = start(&api);
    (0..60).for_each(|n| api.put("pods", pod(&format!("p{n}"), "100m")));
    api.until("forty bindings", |state| (state.bindings == 40).then_some(())).await;
    api.until("twenty left over", |state| {
        let waiting = (0..60).filter(|n| state.condition_of(&format!("p{n}")).is_some());
        (waiting.count() == 20).then_some(())
    })
    .await;
    api.change(|state| {
        for n in 0..4 {
            let name = format!("n{n}");
            let on_node =
                (0..60).filter(|p| state.node_of(&format!("p{p}")).as_ref() == Some(&name));
            assert_eq!(on_node.count(), 10, "{name}");
        }
    });
}

/// The cores that the pods of a node ask for, by what the API says; each asks for a tenth of what a node has.
fn crowd(state: &fake_api::State, node: &str) -> usize {
    let pods = state.objects.iter().filter(|(key, _)| key.starts_with("pods/"));
    pods.filter(|(_, pod)| pod["spec"]["nodeName"] == node).count()
}

#[tokio::test]
async fn late_repeated_and_lost_news_never_overcommit_a_node() {
    for seed in [7, 99] {
        let api = FakeApi::new();
        api.change(|state| state.chaos = seed);
        (0..3).for_each(|n| api.put("nodes", node(&format!("n{n}"), "1")));
        let _running = start(&api);
        for p in 0..60 {
            api.put("pods", pod(&format!("p{p}"), "100m"));
            tokio::task::yield_now().await;
            if p % 4 == 3 {
                api.delete(&format!("pods/default/p{}", p - 3));
            }
            api.change(|state| (0..3).for_each(|n| assert!(crowd(state, &format!("n{n}")) <= 10)));
        }
        api.change(|state| {
            state.chaos = 0;
            state.send_held_back();
        });
        // Forty-five are left for thirty places.
        api.until("every place taken", |state| {
            let placed: usize = (0..3).map(|n| crowd(state, &format!("n{n}"))).sum();
            assert!((0..3).all(|n| crowd(state, &format!("n{n}")) <= 10));
            (placed == 30).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_claim_that_waits_for_its_consumer_is_provisioned_at_the_chosen_node() {
    let api = FakeApi::new();
    api.put("nodes", node("one", "2"));
    api.put(
        "storageclasses",
        json!({"metadata": {"name": "late"}, "provisioner": "example.com/disk", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let claim = json!({"metadata": {"name": "data", "namespace": "default"}, "spec": {"storageClassName": "late"}});
    api.put("persistentvolumeclaims", claim);
    let _running = start(&api);
    let mut db = pod("db", "1");
    db["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    api.put("pods", db);

    let key = "persistentvolumeclaims/default/data";
    let selected = "volume.kubernetes.io/selected-node";
    let mut claim = api
        .until("the node on the claim", |state| {
            let claim = &state.objects[key];
            (claim["metadata"]["annotations"][selected] == "one").then(|| claim.clone())
        })
        .await;
    api.change(|state| assert_eq!(state.node_of("db"), None, "bound before its volume"));

    // What a provisioner and the volume controller do.
    api.put(
        "persistentvolumes",
        json!({"metadata": {"name": "pv"}, "spec": {"storageClassName": "late"}}),
    );
    claim["spec"]["volumeName"] = "pv".into();
    claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
    api.put("persistentvolumeclaims", claim);
    api.until("the binding", |state| state.node_of("db")).await;
}

#[tokio::test]
async fn a_pod_is_bound_at_once_when_a_node_comes() {
    let api = FakeApi::new();
    let _running = start(&api);
    api.put("pods", pod("web", "1"));
    let condition = api.until("a condition", |state| state.condition_of("web").cloned()).await;
    assert_eq!(condition["message"], "no nodes available to schedule pods");
    api.put("nodes", node("one", "2"));
    api.until("the binding", |state| state.node_of("web")).await;
}
