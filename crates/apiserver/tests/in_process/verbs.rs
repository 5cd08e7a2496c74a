//! Every verb, in process: no socket, the whole path from authorisation to the store.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;

use crate::common::cluster;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": name } })
}

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let created = admin.post(MAPS, &map("a")).await.created();
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let read = admin.get(&format!("{MAPS}/a")).await.ok();
    assert_eq!(read, created);
    let mut changed = read.clone();
    changed["data"]["k"] = "b".into();
    let updated = admin.put(&format!("{MAPS}/a"), &changed).await.ok();
    assert_ne!(updated["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    assert_eq!(updated["metadata"]["uid"], read["metadata"]["uid"]);
    let (code, reason, _) = admin.put(&format!("{MAPS}/a"), &changed).await.refused();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    admin.delete(&format!("{MAPS}/a")).await.ok();
    let (code, _, message) = admin.get(&format!("{MAPS}/a")).await.refused();
    assert_eq!((code, message.as_str()), (404, r#"configmaps "a" not found"#));
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_revision() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let created = admin.post(MAPS, &map("a")).await.created();
    let path = format!("{MAPS}/a");
    let same = admin.patch(&path, "merge-patch+json", &json!({ "data": { "k": "a" } })).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.created();
    assert_eq!(admin.get(&format!("{MAPS}/a")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn patches_speak_four_languages() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.created();
    let path = format!("{PODS}/p");
    let json_patch = json!([{ "op": "add", "path": "/metadata/labels", "value": { "a": "1" } }]);
    admin.patch(&path, "json-patch+json", &json_patch).await.ok();
    admin
        .patch(&path, "merge-patch+json", &json!({ "metadata": { "labels": { "b": "2" } } }))
        .await
        .ok();
    let image = json!({ "spec": { "containers": [{ "name": "c", "image": "j" }] } });
    let merged = admin.patch(&path, "strategic-merge-patch+json", &image).await.ok();
    assert_eq!(merged["metadata"]["labels"], json!({ "a": "1", "b": "2" }));
    assert_eq!(merged["spec"]["containers"][0]["image"], "j");
    let config = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "labels": { "a": "3" } } });
    let applied = format!("{path}?fieldManager=other");
    let (code, _, message) = admin.patch(&applied, "apply-patch+yaml", &config).await.refused();
    assert_eq!(code, 409);
    assert!(
        message.starts_with("Apply failed with 1 conflict: conflict with \"test\""),
        "{message}"
    );
    let forced =
        admin.patch(&format!("{applied}&force=true"), "apply-patch+yaml", &config).await.ok();
    assert_eq!(forced["metadata"]["labels"]["a"], "3");
    assert_eq!(
        admin.patch(&path, "unknown+json", &config).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
}

#[tokio::test]
async fn lists_come_in_pages_of_one_revision() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c", "d", "e"] {
        admin.post(MAPS, &map(name)).await.created();
    }
    let first = admin.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert_eq!(first["items"][0].get("kind"), None, "items of a typed list leave it out");
    admin.delete(&format!("{MAPS}/e")).await.ok();
    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let rest = admin.get(&format!("{MAPS}?limit=9&continue={token}")).await.ok();
    let names: Vec<&str> = rest["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["c", "d", "e"], "e was there at that revision");
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn selectors_choose_and_unknown_fields_are_refused() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    for (name, tier) in [("a", "web"), ("b", "db"), ("c", "web")] {
        let object = json!({ "metadata": { "name": name, "labels": { "tier": tier } } });
        admin.post(MAPS, &object).await.created();
    }
    let chosen = admin.get(&format!("{MAPS}?labelSelector=tier%3Dweb&limit=1")).await.ok();
    assert_eq!(chosen["items"].as_array().map(Vec::len), Some(1));
    assert!(chosen["metadata"]["continue"].is_string());
    let one = admin.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.ok();
    assert_eq!(one["items"][0]["metadata"]["name"], "b");
    let (code, ..) = admin.get(&format!("{MAPS}?fieldSelector=data.k%3Db")).await.refused();
    assert_eq!(code, 400);
}

#[tokio::test]
async fn a_watch_shows_objects_enter_and_leave_its_selector() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let list = admin.get(MAPS).await.ok();
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let mut events =
        admin.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}&labelSelector=on")).await;
    admin.post(MAPS, &map("a")).await.created();
    let path = format!("{MAPS}/a");
    admin
        .patch(&path, "merge-patch+json", &json!({ "metadata": { "labels": { "on": "1" } } }))
        .await
        .ok();
    assert_eq!(events.next().await.0, "ADDED");
    admin
        .patch(&path, "merge-patch+json", &json!({ "metadata": { "labels": { "on": "2" } } }))
        .await
        .ok();
    assert_eq!(events.next().await.0, "MODIFIED");
    let left = admin
        .patch(&path, "merge-patch+json", &json!({ "metadata": { "labels": { "on": null } } }))
        .await
        .ok();
    let (kind, object) = events.next().await;
    assert_eq!(kind, "DELETED");
    assert_eq!(object["metadata"]["labels"]["on"], "2", "the state the watcher knew");
    assert_eq!(object["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
}

/// What a thousand watchers cost depends on it.
#[tokio::test]
async fn watches_that_are_shown_the_same_share_its_bytes() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let made = admin.post(MAPS, &map("a")).await.created();
    let revision = made["metadata"]["resourceVersion"].as_str().expect("a revision");
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}");
    let mut one = admin.stream(&path).await;
    let mut other = admin.stream(&path).await;
    let mut picky = admin.watch(&format!("{path}&labelSelector=on")).await;
    let label = json!({ "metadata": { "labels": { "on": "1" } } });
    admin.patch(&format!("{MAPS}/a"), "merge-patch+json", &label).await.ok();
    let added = admin.post(MAPS, &map("b")).await.created();
    // Until it is asked for the first events, a watch reads history, which is shared with nobody.
    let _history = (crate::common::frame(&mut one).await, crate::common::frame(&mut other).await);
    assert_eq!(picky.next().await.0, "ADDED", "a selector makes its own events");
    admin.delete(&format!("{MAPS}/b")).await.ok();
    let (first, second) =
        (crate::common::frame(&mut one).await, crate::common::frame(&mut other).await);
    assert_eq!(first.as_ptr(), second.as_ptr(), "the bytes were made twice");
    let event: Value = serde_json::from_slice(&first).expect("one line of JSON");
    assert_eq!((&event["type"], &event["object"]["data"]["k"]), (&json!("DELETED"), &json!("b")));
    let revision = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_ne!(
        revision(&event["object"]),
        revision(&added),
        "a deletion is told at its own revision"
    );
}

#[tokio::test]
async fn a_streaming_list_ends_with_a_bookmark() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post(MAPS, &map("a")).await.created();
    let query =
        "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut events = admin.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.next().await.0, "ADDED");
    let (kind, bookmark) = events.next().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn finalizers_hold_an_object_back() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let held = json!({ "metadata": { "name": "a", "finalizers": ["example.com/f"] } });
    admin.post(MAPS, &held).await.created();
    let path = format!("{MAPS}/a");
    let marked = admin.delete(&path).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    admin
        .patch(&path, "merge-patch+json", &json!({ "metadata": { "finalizers": null } }))
        .await
        .ok();
    assert_eq!(admin.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_bound_pod_is_given_its_grace() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.created();
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n" } });
    admin.post(&format!("{PODS}/p/binding"), &binding).await.created();
    let (code, ..) = admin.post(&format!("{PODS}/p/binding"), &binding).await.refused();
    assert_eq!(code, 409, "a pod is bound once");
    let marked = admin.delete(&format!("{PODS}/p")).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    admin.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.ok();
    assert_eq!(admin.get(&format!("{PODS}/p")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_another_finished_is_no_failure() {
    let cluster = cluster().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut events = cluster.admin().watch(&format!("{pods}?watch=1&resourceVersion=0")).await;
    let collector = cluster.admin();
    tokio::spawn(async move {
        loop {
            let (_, pod) = events.next().await;
            if pod["metadata"]["deletionTimestamp"].is_string() {
                let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
                collector.delete(&format!("{pods}/{name}?gracePeriodSeconds=0")).await;
            }
        }
    });
    for at in 0..200 {
        let pod = json!({ "metadata": { "name": format!("p{at}") },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } });
        cluster.admin().post(pods, &pod).await.created();
        cluster.admin().delete(&format!("{pods}/p{at}?gracePeriodSeconds=0")).await.ok();
    }
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    for (name, label) in [("a", "x"), ("b", "y")] {
        let object = json!({ "metadata": { "name": name, "labels": { "l": label } } });
        admin.post(MAPS, &object).await.created();
    }
    admin.delete(&format!("{MAPS}?labelSelector=l%3Dx")).await.ok();
    assert_eq!(admin.get(&format!("{MAPS}/a")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(admin.get(&format!("{MAPS}/b")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn scale_changes_replicas_and_counts_a_generation() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({ "app": "web" });
    let object = json!({
        "metadata": { "name": "web" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod("x")["spec"] },
        },
    });
    admin.post(deployments, &object).await.created();
    let scale = admin.get(&format!("{deployments}/web/scale")).await.ok();
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(1), &json!("app=web"))
    );
    let patch = json!({ "spec": { "replicas": 3 } });
    admin.patch(&format!("{deployments}/web/scale"), "merge-patch+json", &patch).await.ok();
    let scaled = admin.get(&format!("{deployments}/web")).await.ok();
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]),
        (&json!(3), &json!(2))
    );
    let status = json!({ "status": { "replicas": 3 }, "spec": { "replicas": 9 } });
    let counted =
        admin.patch(&format!("{deployments}/web/status"), "merge-patch+json", &status).await.ok();
    assert_eq!(
        (&counted["spec"]["replicas"], &counted["status"]["replicas"]),
        (&json!(3), &json!(3))
    );
}

#[tokio::test]
async fn a_custom_kind_is_served_from_the_next_request_until_its_definition_goes() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "properties": { "n": { "type": "integer" } } } } });
    let definition = json!({
        "metadata": { "name": "things.x.test" },
        "spec": {
            "group": "x.test",
            "scope": "Namespaced",
            "names": { "plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    });
    admin.post(definitions, &definition).await.created();
    let things = "/apis/x.test/v1/namespaces/default/things";
    let thing = json!({ "apiVersion": "x.test/v1", "kind": "Thing", "metadata": { "name": "t" }, "spec": { "n": 1, "unknown": 2 } });
    let stored = admin.post(things, &thing).await.created();
    assert_eq!(stored["spec"], json!({ "n": 1 }), "what the schema does not know is pruned");
    let list = admin.get("/apis/x.test/v1").await.ok();
    assert_eq!(list["resources"][0]["name"], "things");
    admin.delete(&format!("{definitions}/things.x.test")).await.ok();
    assert_eq!(admin.get(things).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        admin.get(&format!("{definitions}/things.x.test")).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let services = "/api/v1/namespaces/default/services";
    let fixed = |name: &str| json!({ "metadata": { "name": name }, "spec": { "clusterIP": "10.96.7.7", "ports": [{ "port": 80 }] } });
    admin.post(services, &fixed("a")).await.created();
    let (code, _, message) = admin.post(services, &fixed("b")).await.refused();
    assert_eq!(code, 422);
    assert!(
        message.ends_with("failed to allocate IP 10.96.7.7: provided IP is already allocated"),
        "{message}"
    );
    admin.get("/apis/networking.k8s.io/v1/ipaddresses/10.96.7.7").await.ok();
    admin.delete(&format!("{services}/a")).await.ok();
    admin.post(services, &fixed("b")).await.created();
    let node_port = json!({ "metadata": { "name": "n" }, "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } });
    let created = admin.post(services, &node_port).await.created();
    assert!(
        created["spec"]["ports"][0]["nodePort"]
            .as_u64()
            .is_some_and(|port| (30000..=32767).contains(&port))
    );
}

#[tokio::test]
async fn a_changed_service_asks_for_one_node_port_once_per_protocol() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let services = "/api/v1/namespaces/default/services";
    let port = |name: &str, number: u16, node_port: u16, protocol: &str| json!({ "name": name, "port": number, "nodePort": node_port, "protocol": protocol });
    let service = json!({ "metadata": { "name": "s" }, "spec": { "type": "NodePort", "ports": [port("a", 1, 31000, "TCP")] } });
    let mut twice = service.clone();
    twice["spec"]["ports"] = json!([port("a", 1, 31000, "TCP"), port("b", 2, 31000, "TCP")]);
    let dry = format!("{services}?dryRun=All");
    let (code, _, message) = admin.post(&dry, &twice).await.refused();
    assert_eq!(code, 422);
    assert!(message.ends_with("31000: provided port is already allocated"), "{message}");
    admin.post(services, &service).await.created();
    let change =
        |second: Value| json!({ "spec": { "ports": [port("a", 1, 31001, "TCP"), second] } });
    let path = format!("{services}/s");
    let twice = change(port("b", 2, 31001, "TCP"));
    let (code, _, message) = admin.patch(&path, "merge-patch+json", &twice).await.refused();
    assert_eq!((code, message.as_str()), (500, "duplicate nodePort: {TCP 31001}"));
    let apart = change(port("b", 2, 31001, "UDP"));
    admin.patch(&path, "merge-patch+json", &apart).await.ok();
}

#[tokio::test]
async fn a_balanced_service_that_wants_no_node_ports_was_given_its_old_ones_again() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let services = "/api/v1/namespaces/default/services";
    let mut service = json!({ "metadata": { "name": "s" },
        "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } });
    let created = admin.post(services, &service).await.created();
    assert!(created["spec"]["ports"][0]["nodePort"].is_u64());
    service["spec"]["allocateLoadBalancerNodePorts"] = false.into();
    let changed = admin.put(&format!("{services}/s"), &service).await.ok();
    assert!(changed["spec"]["ports"][0].get("nodePort").is_none(), "{changed}");
}

#[tokio::test]
async fn preconditions_of_a_deletion_may_stand_in_its_query() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let created = admin.post(MAPS, &map("a")).await.created();
    for wrong in [format!("{MAPS}/a?uid=other"), format!("{MAPS}?resourceVersion=0")] {
        assert_eq!(admin.delete(&wrong).await.refused().0, 409, "{wrong}");
    }
    let uid = created["metadata"]["uid"].as_str().expect("it has one");
    admin.delete(&format!("{MAPS}/a?uid={uid}")).await.ok();
}

#[tokio::test]
async fn a_dry_run_names_the_key_as_it_is_above_the_store() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let mut object = admin.post(MAPS, &map("a")).await.created();
    object["metadata"]["uid"] = "other".into();
    for (query, key) in
        [("", "/registry/configmaps/default/a"), ("?dryRun=All", "/configmaps/default/a")]
    {
        let (_, _, message) = admin.put(&format!("{MAPS}/a{query}"), &object).await.refused();
        assert!(message.contains(&format!("Key: {key},")), "{message}");
    }
}

#[tokio::test]
async fn a_new_object_is_held_to_what_it_gave_empty() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let autoscaler = json!({ "metadata": { "name": "h" }, "spec": {
        "maxReplicas": 3,
        "scaleTargetRef": { "kind": "Deployment", "name": "d", "apiVersion": "apps/v1" },
        "behavior": { "scaleDown": { "policies": [] } },
    } });
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let (_, _, message) = admin.post(path, &autoscaler).await.refused();
    assert!(
        message.ends_with("policies: Required value: must specify at least one Policy"),
        "{message}"
    );
    let budget = json!({
        "metadata": { "name": "b", "finalizers": ["/x"] },
        "spec": { "minAvailable": 1, "maxUnavailable": 1 },
    });
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let (_, _, message) = admin.post(path, &budget).await.refused();
    assert!(!message.contains("finalizers") && message.contains("cannot be both set"), "{message}");
}

#[tokio::test]
async fn a_change_is_held_to_what_it_gives_empty() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let class =
        json!({ "metadata": { "name": "s" }, "provisioner": "p", "parameters": { "a": "b" } });
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    admin.post(classes, &class).await.created();
    let emptied = json!({ "metadata": { "name": "s" }, "provisioner": "p", "parameters": {} });
    let path = format!("{classes}/s");
    let (_, _, put) = admin.put(&path, &emptied).await.refused();
    assert!(put.ends_with("parameters: Invalid value: {}: field is immutable"), "{put}");
    let patch = json!([{ "op": "replace", "path": "/parameters", "value": {} }]);
    let (_, _, patched) = admin.patch(&path, "json-patch+json", &patch).await.refused();
    assert_eq!(patched, put);
}

#[tokio::test]
async fn a_generation_counts_an_emptied_list_where_upstream_compares_bytes() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let policy = |ingress: Value| json!({ "metadata": { "name": "n" }, "spec": { "podSelector": {}, "ingress": ingress } });
    let slice = |endpoints: Value| json!({ "metadata": { "name": "n" }, "addressType": "IPv4", "endpoints": endpoints });
    for (resource, object, counted) in [
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            &policy as &dyn Fn(Value) -> Value,
            2,
        ),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice, 1),
    ] {
        admin.post(resource, &object(Value::Null)).await.created();
        let changed = admin.put(&format!("{resource}/n"), &object(json!([]))).await.ok();
        assert_eq!(changed["metadata"]["generation"], counted, "{resource}");
    }
}

#[tokio::test]
async fn a_list_owned_whole_has_a_new_owner_when_one_of_its_lists_is_given_empty() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let role = |empty: Value| json!({ "metadata": { "name": "r" }, "rules": [{ "nonResourceURLs": ["/x"], "verbs": ["get"], "apiGroups": empty }] });
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    admin.post(&format!("{roles}?fieldManager=one"), &role(Value::Null)).await.created();
    let path = format!("{roles}/r?fieldManager=two");
    let taken = admin.put(&path, &role(json!([]))).await.ok();
    let owners = &taken["metadata"]["managedFields"];
    assert_eq!(owners[0]["manager"], "two", "{owners}");
    assert_eq!(owners[0]["fieldsV1"], json!({ "f:rules": {} }));
    assert!(taken["rules"][0].get("apiGroups").is_none());
}

#[tokio::test]
async fn an_overhead_is_refused_without_a_class_that_has_one_even_if_it_is_empty() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let mut given = pod("p");
    given["spec"]["overhead"] = json!({});
    let (code, _, message) = admin.post(PODS, &given).await.refused();
    assert_eq!(code, 403);
    assert!(
        message.ends_with("set without corresponding RuntimeClass defined Overhead"),
        "{message}"
    );
}

#[tokio::test]
async fn a_status_update_may_not_say_when_an_object_goes() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post("/api/v1/nodes", &json!({ "metadata": { "name": "n" } })).await.created();
    let change = json!({ "metadata": { "deletionTimestamp": "2020-01-01T00:00:00Z" } });
    let path = "/api/v1/nodes/n/status";
    let (code, _, message) = admin.patch(path, "merge-patch+json", &change).await.refused();
    assert_eq!(code, 422);
    assert!(message.contains("metadata.deletionTimestamp"), "{message}");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_the_order_it_is_found() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let said = admin.get("/api/v1/componentstatuses?watch=true").await.refused();
    let why = r#"watch is not supported on resources of kind "componentstatuses""#;
    assert_eq!(said, (405, "MethodNotAllowed".to_owned(), why.to_owned()));
    let nameless = json!({ "target": { "name": "n" } });
    let (code, _, message) =
        admin.post("/api/v1/namespaces/default/bindings", &nameless).await.refused();
    assert_eq!((code, message.as_str()), (400, "Name parameter required."));
    let wrong = json!({ "apiVersion": "v1", "kind": "X" });
    let scale = "/apis/apps/v1/namespaces/default/deployments/none/scale";
    assert_eq!(admin.put(scale, &wrong).await.refused().0, 400);
}

#[tokio::test]
async fn rbac_decides_at_once_and_says_what_it_refused() {
    let cluster = cluster().await;
    let (admin, jane) =
        (cluster.admin(), cluster.user(UserInfo::new("jane", &["system:authenticated"])));
    let (code, _, message) = jane.get(MAPS).await.refused();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        r#"configmaps is forbidden: User "jane" cannot list resource "configmaps" in API group "" in the namespace "default""#
    );
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({ "metadata": { "name": "r" }, "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] }] });
    let binding = json!({
        "metadata": { "name": "b" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r" },
        "subjects": [{ "kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io" }],
    });
    admin.post(&format!("{rbac}/roles"), &role).await.created();
    admin.post(&format!("{rbac}/rolebindings"), &binding).await.created();
    jane.get(MAPS).await.ok();
    assert_eq!(jane.post(MAPS, &map("x")).await.status, StatusCode::FORBIDDEN);
    let review = json!({ "spec": { "resourceAttributes": { "verb": "list", "resource": "configmaps", "namespace": "default" } } });
    let answer = jane
        .post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)
        .await
        .created();
    assert_eq!(answer["status"]["allowed"], true);
}

#[tokio::test]
async fn a_token_dies_with_its_account() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let token =
        admin.post(&format!("{accounts}/default/token"), &json!({ "spec": {} })).await.created();
    let review = json!({ "spec": { "token": token["status"]["token"] } });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let known = admin.post(reviews, &review).await.created();
    assert_eq!(known["status"]["user"]["username"], "system:serviceaccount:default:default");
    admin.delete(&format!("{accounts}/default")).await.ok();
    let gone = admin.post(reviews, &review).await.created();
    assert_eq!(gone["status"].get("authenticated"), None);
}

#[tokio::test]
async fn bad_input_is_answered_with_a_status() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let send = |body: Vec<u8>| admin.send(Method::POST, MAPS, "application/json", body.into());
    assert_eq!(send(b"{\"metadata\":".to_vec()).await.refused().0, 400);
    assert_eq!(send(b"[]".to_vec()).await.refused().0, 400);
    assert_eq!(send(vec![b' '; 3 * 1024 * 1024 + 1]).await.refused().0, 413);
    let (code, _, message) = admin.post(MAPS, &map("Not_A_Name")).await.refused();
    assert_eq!(code, 422);
    assert!(message.contains("metadata.name"), "{message}");
    let strict = json!({ "metadata": { "name": "a" }, "nonsense": 1 });
    let (code, _, message) =
        admin.post(&format!("{MAPS}?fieldValidation=Strict"), &strict).await.refused();
    assert_eq!(code, 400);
    assert!(message.contains(r#"unknown field "nonsense""#), "{message}");
    let missing = admin.post("/api/v1/namespaces/nowhere/configmaps", &map("a")).await.refused();
    assert_eq!((missing.0, missing.2.as_str()), (404, r#"namespaces "nowhere" not found"#));
    assert_eq!(admin.get(&format!("{MAPS}/Not_A_Name")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let cluster = cluster().await;
    let written = cluster.admin().post(MAPS, &map("a")).await.created();
    let ca = cluster.server.pki().ca_pem().to_owned();
    let cluster = cluster.restart().await;
    assert_eq!(cluster.admin().get(&format!("{MAPS}/a")).await.ok(), written);
    assert_eq!(cluster.server.pki().ca_pem(), ca);
}

#[tokio::test]
async fn keys_an_applied_text_repeats_were_lost_without_a_word() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n  a: c\n";
    let apply = async |validation: &str| {
        let path = format!("{MAPS}/x?fieldManager=m&fieldValidation={validation}");
        admin.send(Method::PATCH, &path, "application/apply-patch+yaml", text.into()).await
    };
    let (code, _, message) = apply("Strict").await.refused();
    let told = "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 7: key \"a\" already set in map";
    assert_eq!((code, message.as_str()), (400, told));
    let warned = apply("Warn").await;
    let warning = warned.headers["warning"].to_str().expect("text").to_owned();
    assert_eq!(warning, r#"299 - "line 7: key \"a\" already set in map""#);
    assert_eq!(warned.created()["data"]["a"], "c");
    assert!(!apply("Ignore").await.headers.contains_key("warning"));
}
