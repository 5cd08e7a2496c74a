//! Admission policies where they meet the rest of the request path.

use serde_json::{Value, json};
use skiff_apiserver::UserInfo;

use crate::common::{Client, cluster};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": name } })
}

/// A policy about ConfigMaps and a binding of the same name.
async fn policy(admin: &Client, kind: &str, name: &str, spec: Value, binding: Value) {
    let mut policy = json!({ "metadata": { "name": name }, "spec": { "matchConstraints": { "resourceRules": [
        { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"] },
    ] } } });
    merge(&mut policy["spec"], spec);
    admin.post(&format!("{GROUP}/{kind}admissionpolicies"), &policy).await.created();
    let mut bound = json!({ "metadata": { "name": name }, "spec": { "policyName": name } });
    merge(&mut bound["spec"], binding);
    admin.post(&format!("{GROUP}/{kind}admissionpolicybindings"), &bound).await.created();
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

async fn refusal(admin: &Client, object: &Value) -> String {
    admin.post(MAPS, object).await.refused().2
}

#[tokio::test]
async fn expressions_ask_what_the_user_may_do() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let rules = json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"] }]);
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({ "metadata": { "name": "r" }, "rules": rules });
    admin.post(&format!("{group}/roles"), &role).await.created();
    let binding = json!({
        "metadata": { "name": "r" }, "subjects": [{ "kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io" }],
        "roleRef": { "kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io" },
    });
    admin.post(&format!("{group}/rolebindings"), &binding).await.created();
    let expression =
        "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()";
    let spec = json!({ "validations": [{ "expression": expression, "message": "needs secrets" }] });
    policy(&admin, "validating", "p", spec, json!({ "validationActions": ["Deny"] })).await;
    admin.post(MAPS, &map("a")).await.created();
    let joe = cluster.user(UserInfo::new("joe", &["system:authenticated"]));
    let message = refusal(&joe, &map("b")).await;
    assert!(message.ends_with("with binding 'p' denied request: needs secrets"), "{message}");
}

#[tokio::test]
async fn a_policy_bites_with_the_answer_that_acknowledges_it_and_no_longer() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let spec = json!({ "validations": [{ "expression": "false" }] });
    policy(&admin, "validating", "p", spec, json!({ "validationActions": ["Deny"] })).await;
    assert_eq!(
        refusal(&admin, &map("a")).await,
        r#"configmaps "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: failed expression: false"#
    );
    admin.delete(&format!("{GROUP}/validatingadmissionpolicybindings/p")).await.ok();
    admin.post(MAPS, &map("a")).await.created();
}

#[tokio::test]
async fn parameters_come_from_the_kind_and_place_the_binding_names() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    for (name, limit) in [("p1", "3"), ("p2", "1")] {
        let labels = json!({ "limits": "yes" });
        let params =
            json!({ "metadata": { "name": name, "labels": labels }, "data": { "max": limit } });
        admin.post(MAPS, &params).await.created();
    }
    let spec = json!({
        "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
        "validations": [{ "expression": "size(object.data) <= int(params.data.max)", "messageExpression": "'at most ' + params.data.max" }],
    });
    let selector = json!({ "matchLabels": { "limits": "yes" } });
    let reference = json!({ "selector": selector, "parameterNotFoundAction": "Deny" });
    let binding = json!({ "validationActions": ["Deny"], "paramRef": reference });
    policy(&admin, "validating", "p", spec, binding).await;
    admin.post(MAPS, &map("one")).await.created();
    let mut two = map("two");
    two["data"]["more"] = "x".into();
    assert!(refusal(&admin, &two).await.ends_with("denied request: at most 1"));
    let unknown = json!({
        "paramKind": { "apiVersion": "example.com/v1", "kind": "Nothing" },
        "validations": [{ "expression": "params == null" }],
    });
    let reference = json!({ "name": "x", "parameterNotFoundAction": "Allow" });
    let binding = json!({ "validationActions": ["Deny"], "paramRef": reference });
    policy(&admin, "validating", "a", unknown, binding).await;
    assert_eq!(
        refusal(&admin, &map("x")).await,
        r#"configmaps "x" is forbidden: ValidatingAdmissionPolicy 'a' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Nothing'"#
    );
}

#[tokio::test]
async fn messages_may_speak_of_the_request() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let told = "request.operation + ' ' + request.namespace + '/' + request.name";
    let spec = json!({ "validations": [{ "expression": "false", "messageExpression": told }] });
    policy(&admin, "validating", "p", spec, json!({ "validationActions": ["Deny"] })).await;
    assert!(refusal(&admin, &map("a")).await.ends_with("denied request: CREATE default/a"));
}

#[tokio::test]
async fn a_mutation_may_not_make_up_fields() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let mutation = |kind: &str, holder: &str, expression: &str| {
        let mut mutation = json!({ "patchType": kind });
        mutation[holder] = json!({ "expression": expression });
        json!({ "reinvocationPolicy": "Never", "mutations": [mutation] })
    };
    let spec = mutation("ApplyConfiguration", "applyConfiguration", "Object{nope: 'x'}");
    policy(&admin, "mutating", "m", spec, json!({})).await;
    assert_eq!(
        refusal(&admin, &map("a")).await,
        "policy 'm' with binding 'm' denied request: error applying patch: failed to convert patch object to typed object: .nope: field not declared in schema"
    );
    admin.delete(&format!("{GROUP}/mutatingadmissionpolicybindings/m")).await.ok();
    let patch = "[JSONPatch{op: 'add', path: '/nope', value: 'x'}]";
    let spec = mutation("JSONPatch", "jsonPatch", patch);
    policy(&admin, "mutating", "n", spec, json!({})).await;
    assert_eq!(
        refusal(&admin, &map("a")).await,
        "Internal error occurred: strict decoding error: unknown field \"nope\""
    );
}

#[tokio::test]
async fn failures_pass_where_the_policy_ignores_them() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let spec = json!({ "failurePolicy": "Ignore", "validations": [{ "expression": "object.none == 'x'" }] });
    policy(&admin, "validating", "p", spec, json!({ "validationActions": ["Deny"] })).await;
    admin.post(MAPS, &map("a")).await.created();
}

#[tokio::test]
async fn a_mutation_is_not_undone_by_the_object_it_changes() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let add = |key: &str, again: &str| {
        json!({ "reinvocationPolicy": again, "mutations": [{
        "patchType": "ApplyConfiguration",
        "applyConfiguration": { "expression": format!("Object{{data: {{'{key}': string(size(object.data))}}}}") },
    }] })
    };
    policy(&admin, "mutating", "1", add("first", "IfNeeded"), json!({})).await;
    policy(&admin, "mutating", "2", add("second", "Never"), json!({})).await;
    let created = admin.post(MAPS, &map("a")).await.created();
    assert_eq!(created["data"], json!({ "k": "a", "first": "3", "second": "2" }));
}

#[tokio::test]
async fn what_is_atomic_is_not_merged_into() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let spec = json!({ "reinvocationPolicy": "Never", "mutations": [{
        "patchType": "ApplyConfiguration",
        "applyConfiguration": { "expression": "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', command: ['x']}]}}" },
    }], "matchConstraints": { "resourceRules": [
        { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
    ] } });
    policy(&admin, "mutating", "m", spec, json!({})).await;
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let (code, reason, message) =
        admin.post("/api/v1/namespaces/default/pods", &pod).await.refused();
    assert_eq!((code, reason.as_str()), (403, "Invalid"));
    assert_eq!(
        message,
        "policy 'm' with binding 'm' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].command"
    );
}

#[tokio::test]
async fn expressions_are_checked_when_they_are_written() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let policy = json!({ "metadata": { "name": "p" }, "spec": {
        "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"] }] },
        "variables": [{ "name": "v", "expression": "1 + 1" }],
        "validations": [{ "expression": "variables.v" }, { "expression": "nonsense" }],
    } });
    let status = admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &policy).await.json();
    let causes = status["details"]["causes"].as_array().expect("causes");
    let told: Vec<(&str, &str)> = causes
        .iter()
        .filter_map(|cause| Some((cause["field"].as_str()?, cause["message"].as_str()?)))
        .collect();
    assert_eq!(
        told[0],
        (
            "spec.validations[0].expression",
            r#"Invalid value: "variables.v": must evaluate to bool but got int"#
        )
    );
    assert_eq!(told[1].0, "spec.validations[1].expression");
    assert!(
        told[1].1.contains("undeclared reference to 'nonsense' (in container '')"),
        "{}",
        told[1].1
    );
}
