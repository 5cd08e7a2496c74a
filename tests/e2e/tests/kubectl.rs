//! The verbs people type every day, each at least once.

use e2e::{Cluster, Host, deployment, eventually, kuard_pod};

#[test]
fn everyday_verbs_work() {
    let host = Host::new("kubectl");
    let cluster = Cluster::start(&host);
    let k = |args: &str| cluster.kubectl(args).ok();
    assert!(k("version").contains("Server Version: v1.36"));
    assert!(k("cluster-info").contains("Kubernetes control plane"));
    assert!(k("api-resources").contains("deployments"));
    assert!(k("api-versions").contains("apps/v1"));
    assert!(k("explain pod.spec.containers").contains("FIELDS"));
    assert!(k("get nodes -o wide").contains("Ready"));
    assert_eq!(k("auth can-i create pods"), "yes\n");
    let denied = cluster.kubectl("auth can-i create pods --as=nobody");
    assert_eq!((denied.stdout.as_str(), denied.code), ("no\n", Some(1)));

    k("create deployment web --image=kuard:blue --replicas=2 --port=8080");
    k("rollout status deployment/web --timeout=60s");
    k("expose deployment web --port=80 --target-port=8080");
    k("create configmap conf --from-literal=a=b");
    k("create secret generic key --from-literal=a=b");
    k("create namespace other");
    k("label deployment web tier=front");
    k("annotate deployment web note=seen");
    assert_eq!(cluster.field("deployment web", "{.metadata.labels.tier}"), "front");
    assert_eq!(cluster.field("deployment web", "{.metadata.annotations.note}"), "seen");
    assert!(k("get all").contains("deployment.apps/web"));
    assert!(k("get pods -o wide -l app=web").contains("10.244."));
    assert!(k("describe deployment web").contains("ScalingReplicaSet"));
    assert!(k("describe node").contains("Allocated resources"));
    eventually("events tell of the pods", || k("get events").contains("Scheduled"));

    let edited = e2e::Outcome::of(
        cluster.kubectl_command().env("EDITOR", "sed -i s/a:\\ b/a:\\ edited/").args([
            "edit",
            "configmap",
            "conf",
        ]),
        "",
    );
    edited.ok();
    assert_eq!(cluster.field("configmap conf", "{.data.a}"), "edited");
    let changed = deployment("web2", 1).to_string();
    let differs = cluster.kubectl_with("diff -f -", &changed);
    assert_eq!(differs.code, Some(1), "{}", differs.stderr);
    cluster.kubectl_with("apply --server-side -f -", &changed).ok();
    cluster
        .kubectl_with(
            "apply --server-side --field-manager=other -f -",
            &changed.replace("\"replicas\":1", "\"replicas\":2"),
        )
        .fails();
    k("delete deployment web2");
    cluster.kubectl_with("apply -f -", &kuard_pod("one").to_string()).ok();
    k("wait --for=condition=Ready pod/one --timeout=60s");
    assert!(
        cluster
            .kubectl_with("apply -f -", &kuard_pod("one").to_string())
            .ok()
            .contains("unchanged")
    );
    k("run quick --image=kuard:blue --restart=Never --command -- true");
    eventually("it has completed", || cluster.field("pod quick", "{.status.phase}") == "Succeeded");
    k("delete pod one quick --wait=true");
}

#[test]
fn links_of_a_page_behind_a_proxy_lead_through_it() {
    let host = Host::new("proxied-page");
    let cluster = Cluster::start(&host);
    cluster.kubectl_with("apply -f -", &kuard_pod("one").to_string()).ok();
    cluster.kubectl("wait --for=condition=Ready pod/one --timeout=60s").ok();
    let proxy = "/api/v1/namespaces/default/pods/one:8080/proxy";
    let page = cluster.kubectl(&format!("get --raw {proxy}/")).ok();
    assert!(page.contains(&format!(r#"href="{proxy}/-/env""#)), "{page}");
    cluster.kubectl(&format!("get --raw {proxy}/-/env")).ok();
}

#[test]
fn custom_resources_are_resources() {
    let host = Host::new("crd");
    let cluster = Cluster::start(&host);
    let crd = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.example.com"},
      "spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"boats","singular":"boat","kind":"Boat","shortNames":["bt"]},
      "versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},
        "additionalPrinterColumns":[{"name":"Length","type":"integer","jsonPath":".spec.length"}],
        "schema":{"openAPIV3Schema":{"type":"object","properties":{
          "spec":{"type":"object","required":["length"],"properties":{"length":{"type":"integer","minimum":1},"sails":{"type":"integer","default":1}}},
          "status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}]}}"#;
    cluster.kubectl_with("apply -f -", crd).ok();
    cluster.kubectl("wait --for=condition=Established crd/boats.example.com --timeout=30s").ok();
    let boat = |length: i32| {
        format!(
            r#"{{"apiVersion":"example.com/v1","kind":"Boat","metadata":{{"name":"skiff"}},"spec":{{"length":{length}}}}}"#
        )
    };
    let said = cluster.kubectl_with("apply -f -", &boat(0)).fails();
    assert!(said.contains("spec.length") && said.contains("greater than or equal to 1"), "{said}");
    cluster.kubectl_with("apply -f -", &boat(4)).ok();
    assert_eq!(cluster.field("boat skiff", "{.spec.sails}"), "1");
    let table = cluster.kubectl("get bt").ok();
    assert!(table.contains("LENGTH") && table.contains('4'), "{table}");
    assert!(cluster.kubectl("explain boat.spec").ok().contains("length"));
    cluster.kubectl("delete crd boats.example.com --timeout=30s").ok();
    cluster.kubectl("get boats").fails();
}
