//! How many pods a second the whole scheduler places, watches and bindings included, over an API in memory.
//!
//!     cargo run --release --example throughput -p skiff-scheduler -- [NODES] [PODS] [demanding]
//!
//! Half of the pods belong to a Service, so they are spread as well; demanding ones ask to be spread over zones and to be
//! alone of their kind on a node, fifty of each kind. The API plays on the same cores.

#[path = "../tests/fake_api/mod.rs"]
mod fake_api;

use std::time::{Duration, Instant};

use fake_api::FakeApi;
use serde_json::{Value, json};
use skiff_scheduler::SchedulerConfig;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |usual| args.next().map_or(usual, |number| number.parse().expect("a number"));
    let (nodes, pods) = (number(1_000), number(10_000));
    let pod = match args.next().as_deref() {
        Some("demanding") => demanding_pod,
        _ => simple_pod,
    };
    let api = FakeApi::new();
    (0..nodes).for_each(|n| api.put("nodes", node(n)));
    api.put("services", json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"selector": {"app": "web"}}}));

    let shutdown = CancellationToken::new();
    let config = SchedulerConfig::default();
    let running = tokio::spawn(skiff_scheduler::run(api.client(), config, shutdown.clone()));
    api.put("pods", simple_pod(0, "warm-up".into()));
    bound(&api, 1).await;

    let alone = Instant::now();
    api.put("pods", simple_pod(0, "alone".into()));
    bound(&api, 2).await;
    println!("one pod, idle cluster: seen to bound in {:?}", alone.elapsed());

    let began = Instant::now();
    (0..pods).for_each(|n| api.put("pods", pod(n, format!("pod-{n}"))));
    println!("{pods} pods created in {:?}", began.elapsed());
    bound(&api, pods + 2).await;
    let took = began.elapsed();
    let rate = pods as f64 / took.as_secs_f64();
    println!("{pods} pods on {nodes} nodes: {took:?}, {rate:.0} pods/s");
    shutdown.cancel();
    running.await.expect("the scheduler ends in order");
}

async fn bound(api: &FakeApi, pods: usize) {
    while api.change(|state| state.bindings) < pods {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn node(n: usize) -> Value {
    let (name, zone) = (format!("node-{n}"), format!("zone-{}", n % 3));
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}},
    })
}

fn simple_pod(number: usize, name: String) -> Value {
    let app = if number.is_multiple_of(2) { "web" } else { "batch" };
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {
            "schedulerName": "default-scheduler",
            "containers": [{"name": "main", "image": "app:1", "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}],
        },
    })
}

fn demanding_pod(number: usize, name: String) -> Value {
    let mut pod = simple_pod(number, name);
    let app = format!("app-{}", number / 50);
    pod["metadata"]["labels"]["app"] = app.as_str().into();
    let siblings = json!({"matchLabels": {"app": app}});
    pod["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": siblings,
    }]);
    pod["spec"]["affinity"] = json!({"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": siblings,
        }],
    }});
    pod
}
