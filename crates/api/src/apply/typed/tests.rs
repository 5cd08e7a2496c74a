//! The walks over typed objects, each by what it is for.

use serde_json::json;

use super::*;
use crate::schema::struct_named;

fn pod() -> &'static StructSchema {
    struct_named("core.v1.Pod").expect("known")
}

#[test]
fn new_places_are_added_with_everything_below() {
    let old = json!({"metadata": {}, "spec": {}});
    let new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
        {"name": "c", "ports": [{"containerPort": 80}], "resources": {}, "args": ["x"]}],
        "nodeSelector": {"x": "y"}}});
    let wanted = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {
            "f:containers": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:name": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                "f:resources": {}}},
            "f:nodeSelector": {}}});
    let found = compare(&old, &new, pod());
    assert!(found.modified.is_empty() && found.removed.is_empty());
    assert_eq!(found.added.encode(), wanted);
    let back = compare(&new, &old, pod());
    assert_eq!(back.removed.encode(), wanted);
    assert_eq!(compare(&new, &new, pod()), Comparison::default());
}

#[test]
fn configurations_merge_by_key_and_keep_order() {
    let live = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}, {"name": "c"}]}});
    let config = json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "image": "2"}, {"name": "d"}]}});
    let merged = merge(&live, &config, pod());
    let names: Vec<&str> = merged["spec"]["containers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    assert_eq!(names, ["b", "c", "a", "d"]);
    assert_eq!(merged["spec"]["containers"][2]["image"], "2");
}

#[test]
fn null_takes_nothing_from_a_struct_or_list_that_is_owned_in_parts() {
    let live = json!({"spec": {"containers": [{"name": "a"}], "securityContext": {"runAsUser": 1},
        "nodeSelector": {"a": "b"}}});
    let config =
        json!({"spec": {"containers": null, "securityContext": null, "nodeSelector": null}});
    let merged = merge(&live, &config, pod());
    assert_eq!(merged["spec"]["containers"], live["spec"]["containers"]);
    assert_eq!(merged["spec"]["securityContext"], live["spec"]["securityContext"]);
    assert_eq!(merged["spec"]["nodeSelector"], Value::Null);
}

#[test]
fn configurations_are_checked() {
    let config = json!({"nope": 1, "metadata": {"labels": {"a": 1}}, "spec": {"containers": [
        {"image": "x"}, {"name": "a"}, {"name": "a"}]}});
    assert_eq!(
        check(&config, pod()),
        [
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}",
            ".nope: field not declared in schema",
            // An entry without a name has an empty one.
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        ]
    );
}

#[test]
fn entries_that_no_step_leads_to_end_the_check_of_their_list() {
    for (spec, wanted) in [
        (
            json!({"containers": [null, {"name": 1}]}),
            ".spec.containers: element 0: associative list with keys may not have a null element",
        ),
        (
            json!({"containers": ["x"]}),
            ".spec.containers: element 0: associative list with keys may not have non-map elements",
        ),
        (json!({"containers": {"x": 1}}), ".spec.containers: expected list, got &{map[x:1]}"),
        (json!({"hostNetwork": "true"}), ".spec.hostNetwork: expected boolean, got &{true}"),
        (json!({"priority": "1"}), ".spec.priority: expected numeric (int or float), got string"),
    ] {
        assert_eq!(check(&json!({"spec": spec}), pod()), [wanted]);
    }
    let node = struct_named("core.v1.Node").expect("known");
    let faults = |cidrs: Value| check(&json!({"spec": {"podCIDRs": cidrs}}), node);
    let of_set = |why: &str| [format!(".spec.podCIDRs: element 0: {why}")];
    assert_eq!(
        faults(json!([null, null])),
        of_set("associative list without keys has an element that's an explicit null")
    );
    assert_eq!(
        faults(json!([{}])),
        of_set("associative list without keys has an element that's a map type")
    );
    assert_eq!(
        faults(json!([[]])),
        of_set("not supported: associative list with lists as elements")
    );
}
