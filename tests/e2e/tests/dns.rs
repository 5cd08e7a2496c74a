//! Names of Services and Pods, asked for from inside of a pod.

use e2e::{Cluster, Host, deployment, eventually, kuard_pod, service};
use serde_json::json;

#[test]
fn services_and_headless_pods_have_names() {
    let host = Host::new("dns");
    let cluster = Cluster::start(&host);
    cluster.apply(&deployment("web", 2));
    cluster.apply(&service("web", 30081));
    let mut headless = service("bare", 0);
    headless["spec"] = json!({
        "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "port": 8080 }],
    });
    cluster.apply(&headless);
    cluster.apply(&kuard_pod("client"));
    cluster.wait_until_ready("client");
    cluster.wait_for_rollout("deployment/web");

    let ask = |name: &str| cluster.kubectl(&format!("exec client -- nslookup {name}")).stdout;
    let address = cluster.field("service web", "{.spec.clusterIP}");
    eventually("the Service has a name", || {
        ask("web.default.svc.cluster.local").contains(&address)
    });
    let pods = cluster.field("pods -l app=web", "{.items[*].status.podIP}");
    eventually("every pod of a headless Service is listed", || {
        let answer = ask("bare.default.svc.cluster.local");
        pods.split(' ').all(|pod| answer.contains(pod))
    });
    let got = cluster.kubectl("exec client -- wget -qO- http://web/healthy").ok();
    assert_eq!(got, "ok");
    assert!(ask("nobody.default.svc.cluster.local").contains("NXDOMAIN"));
    let told = cluster.kubectl("exec client -- wget -qO- http://10.96.0.10:9153/metrics").ok();
    assert!(told.contains(r#"coredns_dns_responses_total{rcode="NXDOMAIN""#), "{told}");
}
