//! What server-side apply decides, by small cases.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{default, kinds};

fn kind(group: &str, resource: &str) -> Arc<KindDef> {
    kinds::builtin().get(group, "v1", resource).expect("served").clone()
}

fn manager(name: &str, kind: &KindDef, time: u32) -> Manager {
    Manager {
        name: name.to_owned(),
        api_version: kind.api_version(),
        subresource: String::new(),
        time: format!("2026-01-01T00:00:{time:02}Z"),
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

/// The owners of an object: manager, operation and fields.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries(object)
        .iter()
        .map(|entry| (text(entry, "manager"), text(entry, "operation"), entry["fieldsV1"].clone()))
        .collect()
}

fn owner(manager: &str, operation: &str, fields: Value) -> (String, String, Value) {
    (manager.to_owned(), operation.to_owned(), fields)
}

fn apply(
    kind: &KindDef,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, Status> {
    super::apply(kind, live, config, manager, force).map(|decoded| decoded.object)
}

#[test]
fn no_owners_are_told_of_an_object_with_an_entry_without_a_key() {
    let kind = kind("", "serviceaccounts");
    let account = |secrets: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, "secrets": secrets});
    let mut keyed = account(json!([{"name": "s"}]));
    track(&kind, None, &mut keyed, &manager("m", &kind, 1));
    assert_eq!(owners(&keyed).len(), 1);
    let mut unkeyed = account(json!([{"name": "s"}, {"namespace": "n"}]));
    track(&kind, Some(&keyed), &mut unkeyed, &manager("m", &kind, 2));
    assert_eq!(owners(&unkeyed), []);
}

#[test]
fn metadata_has_no_owner_by_a_status_update_that_leaves_it_alone() {
    let levels = kind("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations");
    let of_status = Manager { subresource: "status".to_owned(), ..manager("m", &levels, 1) };
    let mut old =
        json!({"apiVersion": levels.api_version(), "kind": levels.kind, "metadata": {"name": "l"}});
    old["spec"] = json!({"type": "Exempt"});
    track(&levels, None, &mut old, &manager("m", &levels, 1));
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    new["status"] = json!({"conditions": [{"type": "A", "status": "True"}]});
    track(&levels, Some(&old), &mut new, &of_status);
    assert!(owners(&new).iter().all(|(.., fields)| fields.get("f:metadata").is_none()));
    assert_eq!(owners(&new).len(), 2);
}

#[test]
fn appliers_share_take_and_give_up_fields() {
    let kind = kind("", "configmaps");
    let run = |live: Option<&Value>, who: &str, data: Value, force: bool| {
        apply(&kind, live, &config_map(data), &manager(who, &kind, 1), force)
    };
    let live = run(None, "alice", json!({"a": "1", "b": "2"}), false).expect("creates");
    let live = run(Some(&live), "bob", json!({"a": "1", "c": "3"}), false).expect("shares");
    assert_eq!(
        owners(&live),
        [
            owner("bob", "Apply", json!({"f:data": {"f:a": {}, "f:c": {}}})),
            owner("alice", "Apply", json!({"f:data": {"f:a": {}, "f:b": {}}})),
        ]
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
    let conflict = run(Some(&live), "carol", json!({"a": "x", "b": "y"}), false).unwrap_err();
    assert_eq!(
        conflict.message,
        "Apply failed with 3 conflicts: conflicts with \"alice\":\n- .data.a\n- .data.b\nconflicts with \"bob\":\n- .data.a"
    );
    let live = run(Some(&live), "bob", json!({"a": "x", "c": "3"}), true).expect("forced");
    assert_eq!(owners(&live)[0], owner("alice", "Apply", json!({"f:data": {"f:b": {}}})));
    let live = run(Some(&live), "alice", json!({}), false).expect("gives up");
    assert_eq!(live["data"], json!({"a": "x", "c": "3"}));
    assert_eq!(owners(&live)[0], owner("alice", "Apply", json!({"f:data": {}})));
}

#[test]
fn an_update_takes_fields_and_apply_conflicts_with_it() {
    let kind = kind("", "configmaps");
    let bob = manager("bob", &kind, 1);
    let live = apply(&kind, None, &config_map(json!({"c": "3"})), &bob, false).expect("creates");
    let mut new = live.clone();
    new["data"]["c"] = "9".into();
    track(&kind, Some(&live), &mut new, &manager("editor", &kind, 2));
    assert_eq!(owners(&new), [owner("editor", "Update", json!({"f:data": {"f:c": {}}}))]);
    let conflict =
        apply(&kind, Some(&new), &config_map(json!({"c": "3"})), &bob, false).unwrap_err();
    let wanted = "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.c";
    assert_eq!((conflict.code, conflict.message.as_str()), (409, wanted));
    let mut reset = new.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track(&kind, Some(&new), &mut reset, &manager("editor", &kind, 3));
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let first =
        apply(&kind, Some(&reset), &config_map(json!({"c": "7"})), &bob, false).unwrap_err();
    let wanted =
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.c";
    assert_eq!(first.message, wanted);
}

#[test]
fn values_that_do_not_fit_are_told_as_of_a_conversion() {
    let pods = kind("", "pods");
    let refused = |meta: Value, spec: Value| {
        let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec});
        apply(&pods, None, &config, &manager("a", &pods, 1), false).unwrap_err().message
    };
    let start = "failed to convert new object (/p; /v1, Kind=Pod) to proper version: unable to convert unstructured object to /v1, Kind=Pod: ";
    assert_eq!(
        refused(json!({"name": "p"}), json!({"priority": 1.5})),
        format!("{start}cannot convert float64 to int32")
    );
    assert_eq!(
        refused(json!({"name": "p", "creationTimestamp": "nope"}), json!({})),
        format!(
            "{start}parsing time \"nope\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"nope\" as \"2006\""
        )
    );
}

#[test]
fn fields_at_a_version_that_a_kind_does_not_have_belong_to_nobody() {
    let kind = kind("", "configmaps");
    let live = config_map(json!({"a": "1"}));
    for version in ["v9", "", "apps/v1"] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply", "apiVersion": version,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]);
        track(&kind, Some(&live), &mut new, &manager("editor", &kind, 2));
        assert_eq!(new["metadata"].get("managedFields"), None, "{version}");
    }
}

#[test]
fn a_created_object_is_owned_as_upstream_records_it() {
    let kind = kind("apps", "deployments");
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mini"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "img:1"}]}}}});
    default::apply(&mut object, &kind);
    track(&kind, None, &mut object, &manager("replay", &kind, 1));
    let wanted = json!({"f:spec": {"f:progressDeadlineSeconds": {}, "f:replicas": {},
        "f:revisionHistoryLimit": {}, "f:selector": {}, "f:strategy": {"f:rollingUpdate": {".": {},
        "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}}, "f:template": {"f:metadata": {
        "f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {},
        "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
        "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}}, "f:dnsPolicy": {},
        "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
        "f:terminationGracePeriodSeconds": {}}}}});
    assert_eq!(owners(&object), [owner("replay", "Update", wanted)]);
}

#[test]
fn a_second_applier_adds_to_keyed_lists() {
    let kind = kind("apps", "deployments");
    let deployment = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let alice =
        deployment(json!([{"name": "one", "image": "i:1", "ports": [{"containerPort": 80}]}]));
    let mut live = apply(&kind, None, &alice, &manager("alice", &kind, 1), false).expect("creates");
    default::apply(&mut live, &kind);
    let bob = deployment(json!([{"name": "two", "image": "i:2"},
        {"name": "one", "ports": [{"containerPort": 80, "protocol": "UDP"}]}]));
    let live = apply(&kind, Some(&live), &bob, &manager("bob", &kind, 2), false).expect("adds");
    let wanted = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {
        "k:{\"name\":\"one\"}": {".": {}, "f:name": {}, "f:ports": {
            "k:{\"containerPort\":80,\"protocol\":\"UDP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}},
        "k:{\"name\":\"two\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}});
    assert_eq!(owners(&live)[1], owner("bob", "Apply", wanted));
    let other = deployment(json!([{"name": "one", "image": "other"}]));
    let conflict = apply(&kind, Some(&live), &other, &manager("eve", &kind, 3), false).unwrap_err();
    assert_eq!(
        conflict.details.expect("details").causes[0].field,
        ".spec.template.spec.containers[name=\"one\"].image"
    );
    let gone = apply(
        &kind,
        Some(&live),
        &deployment(json!([{"name": "two", "image": "i:2"}])),
        &manager("bob", &kind, 3),
        false,
    )
    .expect("removes its port");
    let ports = &gone["spec"]["template"]["spec"]["containers"];
    let one = ports.as_array().expect("a list").iter().find(|c| c["name"] == "one").expect("stays");
    assert_eq!(one["ports"].as_array().map(Vec::len), Some(1));
}

#[test]
fn kubectl_takes_over_what_it_applied_before() {
    let kind = kind("", "configmaps");
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut object = config_map(json!({"a": "1", "b": "2"}));
    object["metadata"]["annotations"] =
        json!({annotation: config_map(json!({"a": "1", "b": "2"})).to_string()});
    track(&kind, None, &mut object, &manager("kubectl-client-side-apply", &kind, 1));
    let kubectl = manager("kubectl", &kind, 2);
    let live = apply(&kind, Some(&object), &config_map(json!({"a": "5"})), &kubectl, false)
        .expect("its own");
    assert_eq!(live["data"], json!({"a": "5", "b": "2"}));
    let followed = live["metadata"]["annotations"][annotation].as_str().expect("still there");
    assert!(followed.contains(r#""data":{"a":"5"}"#), "{followed}");
}

#[test]
fn configurations_are_refused_as_upstream_does() {
    let kind = kind("", "configmaps");
    let refused = |config: Value| {
        apply(&kind, None, &config, &manager("alice", &kind, 1), false).unwrap_err()
    };
    let mut config = config_map(json!({}));
    config["nope"] = 1.into();
    let status = refused(config);
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            500,
            "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .nope: field not declared in schema"
        )
    );
    let mut config = config_map(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    assert_eq!(refused(config).message, "metadata.managedFields must be nil");
    let decode = |body: &str| decode_config(body.as_bytes(), &kind).unwrap_err().message;
    assert_eq!(decode("kind: Secret\napiVersion: v1"), "invalid object type: /v1, Kind=Secret");
    assert_eq!(decode("null"), "invalid object type: /, Kind=");
    assert!(
        decode("[]")
            .ends_with("cannot unmarshal array into Go value of type map[string]interface {}")
    );
}

#[test]
fn a_write_that_changes_only_times_is_no_change() {
    let kind = kind("", "configmaps");
    let mut old = config_map(json!({"a": "1"}));
    track(&kind, None, &mut old, &manager("m", &kind, 1));
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    keep_times_if_unchanged(&mut new, &old);
    assert_eq!(new, old);
    new["data"]["a"] = "2".into();
    new["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    keep_times_if_unchanged(&mut new, &old);
    assert_ne!(new["metadata"]["managedFields"], old["metadata"]["managedFields"]);
}

#[test]
fn an_empty_keyed_list_where_null_was_is_owned() {
    let kind = kind("storage.k8s.io", "csinodes");
    let mut object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": "n"}, "spec": {"drivers": []}});
    track(&kind, None, &mut object, &manager("m", &kind, 1));
    let owned = object.pointer("/metadata/managedFields/0/fieldsV1");
    assert_eq!(owned, Some(&json!({"f:spec": {"f:drivers": {}}})));
}

#[test]
fn an_empty_list_of_managers_resets_them() {
    let kind = kind("", "configmaps");
    let mut old = config_map(json!({"k": "v"}));
    track(&kind, None, &mut old, &manager("m", &kind, 1));
    for reset in [json!([]), json!([{}])] {
        let mut new = old.clone();
        new["metadata"]["managedFields"] = reset;
        track(&kind, Some(&old), &mut new, &manager("m", &kind, 2));
        assert_eq!(owners(&new), []);
    }
}

#[test]
fn who_drops_all_of_the_metadata_leaves_the_name() {
    let kind = kind("", "configmaps");
    let mut config = config_map(json!({"k": "v"}));
    config["metadata"]["labels"] = json!({"q": "1"});
    let bob = manager("bob", &kind, 1);
    let live = apply(&kind, None, &config, &bob, false).expect("creates");
    let without = config_map(json!({"k": "v"}));
    let live = apply(&kind, Some(&live), &without, &bob, false).expect("applies");
    assert_eq!(live["metadata"]["name"], "c");
    assert_eq!(live["metadata"].get("labels"), None);
}

#[test]
fn a_map_that_is_applied_empty_keeps_all_of_its_owners() {
    let kind = kind("", "configmaps");
    let (alice, bob) = (manager("alice", &kind, 1), manager("bob", &kind, 2));
    let (full, empty) = (config_map(json!({"k": "v"})), config_map(json!({})));
    let live = apply(&kind, None, &full, &alice, false).expect("creates");
    let live = apply(&kind, Some(&live), &empty, &bob, false).expect("applies");
    let live = apply(&kind, Some(&live), &empty, &alice, false).expect("applies");
    let empty = json!({"f:data": {}});
    assert_eq!(
        owners(&live),
        [owner("bob", "Apply", empty.clone()), owner("alice", "Apply", empty)]
    );
}
