//! Objects that many tests need.

use serde_json::{Value, json};

/// A Pod of the sample app.
pub fn kuard_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "run": name } },
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{ "name": "kuard", "image": "kuard:blue", "ports": [{ "containerPort": 8080 }] }],
        },
    })
}

/// A Deployment of the sample app that is ready as soon as it answers.
pub fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "kuard",
                        "image": "kuard:blue",
                        "ports": [{ "name": "http", "containerPort": 8080 }],
                        "readinessProbe": {
                            "httpGet": { "path": "/ready", "port": "http" },
                            "periodSeconds": 1,
                        },
                    }],
                },
            },
        },
    })
}

/// A NodePort Service in front of a Deployment.
pub fn service(name: &str, node_port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "type": "NodePort",
            "selector": { "app": name },
            "ports": [{ "port": 80, "targetPort": "http", "nodePort": node_port }],
        },
    })
}
