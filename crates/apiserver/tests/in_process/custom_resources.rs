//! Custom resources over their life: conversion by a webhook called for real over TLS, changes of schema, the end of a definition.

use serde_json::{Value, json};

use crate::common::webhook::Webhook;
use crate::common::{Client, cluster};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/g.example.com/v1/namespaces/default/things";
const V2: &str = "/apis/g.example.com/v2/namespaces/default/things";

fn version(name: &str, storage: bool, spec: Value) -> Value {
    let spec = json!({ "type": "object", "properties": spec });
    json!({ "name": name, "served": true, "storage": storage,
        "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } } })
}

fn definition(versions: Vec<Value>) -> Value {
    json!({ "metadata": { "name": "things.g.example.com" }, "spec": { "group": "g.example.com", "scope": "Namespaced",
        "names": { "plural": "things", "kind": "Thing" }, "versions": versions } })
}

fn thing(version: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": format!("g.example.com/{version}"), "kind": "Thing", "metadata": { "name": name }, "spec": spec })
}

/// v1 says `{size: 3}` where v2 says `{dimensions: {size: 3}}`.
async fn converter() -> Webhook {
    Webhook::start(|review| {
        let to = review["request"]["desiredAPIVersion"].clone();
        let convert = |object: &Value| {
            let mut object = object.clone();
            let spec = &object["spec"];
            object["spec"] = match to == "g.example.com/v2" {
                true => json!({ "dimensions": { "size": spec["size"] } }),
                false => json!({ "size": spec["dimensions"]["size"] }),
            };
            object["apiVersion"] = to.clone();
            object["metadata"]["labels"] = json!({ "converted": "yes" });
            object
        };
        let objects: Vec<Value> =
            review["request"]["objects"].as_array().into_iter().flatten().map(convert).collect();
        let response = json!({ "uid": review["request"]["uid"], "result": { "status": "Success" }, "convertedObjects": objects });
        (200, json!({ "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response }))
    })
    .await
}

async fn define_converted(admin: &Client, client: Value) {
    let dimensions = json!({ "dimensions": { "type": "object", "properties": { "size": { "type": "integer" } } } });
    let mut definition = definition(vec![
        version("v1", true, json!({ "size": { "type": "integer" } })),
        version("v2", false, dimensions),
    ]);
    definition["spec"]["conversion"] = json!({ "strategy": "Webhook",
        "webhook": { "clientConfig": client, "conversionReviewVersions": ["v1"] } });
    admin.post(DEFINITIONS, &definition).await.created();
}

#[tokio::test]
async fn every_verb_converts_by_the_webhook_and_a_list_asks_once() {
    let (cluster, webhook) = (cluster().await, converter().await);
    let admin = cluster.admin();
    define_converted(&admin, webhook.client_config()).await;
    for name in ["a", "b"] {
        admin.post(V1, &thing("v1", name, json!({ "size": 3 }))).await.created();
    }
    admin.get(&format!("{V1}/a")).await.ok();
    assert_eq!(webhook.asked().len(), 0, "the stored version needs no webhook");

    let got = admin.get(&format!("{V2}/a")).await.ok();
    assert_eq!(got["spec"], json!({ "dimensions": { "size": 3 } }));
    assert_eq!(got["metadata"]["labels"], json!({ "converted": "yes" }));
    let before = webhook.asked().len();
    let list = admin.get(V2).await.ok();
    assert_eq!(list["items"][1]["spec"]["dimensions"]["size"], 3);
    assert_eq!(webhook.asked().len(), before + 1);
    assert_eq!(webhook.asked()[before]["request"]["objects"].as_array().map(Vec::len), Some(2));

    let selected = admin.get(&format!("{V2}?labelSelector=converted%3Dyes")).await.ok();
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(2));
    let patch = json!({ "spec": { "dimensions": { "size": 4 } } });
    admin.patch(&format!("{V2}/a"), "merge-patch+json", &patch).await.ok();
    assert_eq!(admin.get(&format!("{V1}/a")).await.ok()["spec"], json!({ "size": 4 }));
    let applied = thing("v2", "c", json!({ "dimensions": { "size": 7 } }));
    let path = format!("{V2}/c?fieldManager=me");
    admin.patch(&path, "apply-patch+yaml", &applied).await.created();
    assert_eq!(admin.get(&format!("{V1}/c")).await.ok()["spec"], json!({ "size": 7 }));

    let mut watch = admin.watch(&format!("{V2}?watch=true")).await;
    let (kind, object) = watch.next().await;
    assert_eq!(
        (kind.as_str(), &object["spec"]),
        ("ADDED", &json!({ "dimensions": { "size": 4 } }))
    );
    admin.delete(&format!("{V2}/b")).await.ok();
}

#[tokio::test]
async fn a_conversion_that_fails_says_why() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let silent = Webhook::start(|review| {
        let response = json!({ "uid": review["request"]["uid"], "result": { "status": "Failed", "message": "cannot" } });
        (200, json!({ "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response }))
    })
    .await;
    define_converted(&admin, silent.client_config()).await;
    admin.post(V1, &thing("v1", "a", json!({ "size": 3 }))).await.created();
    let (code, _, message) = admin.get(&format!("{V2}/a")).await.refused();
    assert_eq!(code, 500);
    assert_eq!(message, "conversion webhook for g.example.com/v1, Kind=Thing failed: cannot");
}

#[tokio::test]
async fn a_new_default_shows_on_old_objects_and_a_field_that_went_does_not() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let fields = json!({ "old": { "type": "string" } });
    admin.post(DEFINITIONS, &definition(vec![version("v1", true, fields)])).await.created();
    admin.post(V1, &thing("v1", "a", json!({ "old": "x" }))).await.created();
    let fields = json!({ "new": { "type": "string", "default": "y" } });
    let changed = json!({ "spec": { "versions": [version("v1", true, fields)] } });
    let path = format!("{DEFINITIONS}/things.g.example.com");
    admin.patch(&path, "merge-patch+json", &changed).await.ok();
    assert_eq!(admin.get(&format!("{V1}/a")).await.ok()["spec"], json!({ "new": "y" }));
    assert_eq!(admin.get(V1).await.ok()["items"][0]["spec"], json!({ "new": "y" }));
}

#[tokio::test]
async fn objects_stay_when_their_version_is_no_longer_served() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let fields = json!({ "a": { "type": "string" } });
    let versions = vec![version("v1", true, fields.clone()), version("v2", false, fields.clone())];
    admin.post(DEFINITIONS, &definition(versions)).await.created();
    admin.post(V1, &thing("v1", "a", json!({ "a": "x" }))).await.created();
    let mut hidden = version("v1", true, fields.clone());
    hidden["served"] = false.into();
    let changed = json!({ "spec": { "versions": [hidden, version("v2", false, fields)] } });
    let path = format!("{DEFINITIONS}/things.g.example.com");
    admin.patch(&path, "merge-patch+json", &changed).await.ok();
    assert_eq!(admin.get(V1).await.status, 404);
    let got = admin.get(&format!("{V2}/a")).await.ok();
    assert_eq!(
        (&got["apiVersion"], &got["spec"]),
        (&json!("g.example.com/v2"), &json!({ "a": "x" }))
    );
    admin.post(V2, &thing("v2", "b", json!({ "a": "y" }))).await.created();
    let cluster = cluster.restart().await;
    assert_eq!(cluster.admin().get(V2).await.ok()["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_definition_waits_for_its_last_object_and_lets_in_no_new_one() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let fields = json!({ "a": { "type": "string" } });
    admin.post(DEFINITIONS, &definition(vec![version("v1", true, fields)])).await.created();
    let mut held = thing("v1", "held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(V1, &held).await.created();
    let path = format!("{DEFINITIONS}/things.g.example.com");
    let marked = admin.delete(&path).await.ok();
    assert_eq!(marked["status"]["conditions"][2]["reason"], "InstanceDeletionPending");
    let (code, _, message) = admin.post(V1, &thing("v1", "new", json!({}))).await.refused();
    assert_eq!(code, 403);
    assert!(
        message.ends_with("create not allowed while custom resource definition is terminating"),
        "{message}"
    );
    let release = json!({ "metadata": { "finalizers": null } });
    admin.patch(&format!("{V1}/held"), "merge-patch+json", &release).await.ok();
    assert_eq!(admin.get(&path).await.status, 404);
    assert_eq!(admin.get(V1).await.status, 404);
}

#[tokio::test]
async fn a_name_that_is_given_up_goes_to_the_definition_that_waited_for_it() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let fields = json!({ "a": { "type": "string" } });
    admin.post(DEFINITIONS, &definition(vec![version("v1", true, fields.clone())])).await.created();
    let mut rival = definition(vec![version("v1", true, fields)]);
    rival["metadata"]["name"] = "others.g.example.com".into();
    rival["spec"]["names"] = json!({ "plural": "others", "kind": "Thing" });
    admin.post(DEFINITIONS, &rival).await.created();
    let path = format!("{DEFINITIONS}/others.g.example.com");
    let waiting = admin.get(&path).await.ok();
    assert_eq!(waiting["status"]["conditions"][0]["reason"], "ListKindConflict");
    admin.delete(&format!("{DEFINITIONS}/things.g.example.com")).await.ok();
    let accepted = admin.get(&path).await.ok();
    assert_eq!(accepted["status"]["conditions"][0]["reason"], "NoConflicts");
    assert_eq!(admin.get("/apis/g.example.com/v1/others").await.status, 200);
}

#[tokio::test]
async fn embedded_metadata_that_is_no_object_is_a_fault_and_not_a_panic() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let embedded = json!({ "e": { "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true } });
    admin.post(DEFINITIONS, &definition(vec![version("v1", true, embedded)])).await.created();
    let spec = json!({ "e": { "apiVersion": "v1", "kind": "X", "metadata": 5 } });
    let (code, _, message) = admin.post(V1, &thing("v1", "a", spec)).await.refused();
    assert!((400..500).contains(&code), "{message}");
}

#[tokio::test]
async fn what_an_open_place_lets_in_was_refused_further_down_by_apply() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let open = json!({ "e": { "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": { "list": { "type": "array", "items": { "type": "object", "properties": {} } } } } });
    admin.post(DEFINITIONS, &definition(vec![version("v1", true, open)])).await.created();
    let config = thing("v1", "a", json!({ "e": { "list": [{ "odd": 1 }], "any": 2 } }));
    let path = format!("{V1}/a?fieldManager=m");
    let applied = admin.patch(&path, "apply-patch+yaml", &config).await.created();
    assert_eq!(applied["spec"]["e"], json!({ "list": [{}], "any": 2 }));
}

#[tokio::test]
async fn a_watch_went_on_when_the_definition_changed() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let define = |kind: &str| {
        let fields = json!({ "a": { "type": kind } });
        definition(vec![version("v1", true, fields)])
    };
    let path = format!("{DEFINITIONS}/things.g.example.com");
    admin.post(DEFINITIONS, &define("string")).await.created();
    let mut watch = admin.watch(&format!("{V1}?watch=true")).await;
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    admin.patch(&path, "merge-patch+json", &label).await.ok();
    admin.post(V1, &thing("v1", "a", json!({ "a": "x" }))).await.created();
    assert_eq!(watch.next().await.0, "ADDED", "a label changes nothing about the kind");
    let changed = json!({ "spec": define("integer")["spec"].clone() });
    admin.patch(&path, "merge-patch+json", &changed).await.ok();
    assert_eq!(watch.rest().await, Vec::<String>::new());
}
