//! Metrics as Tables, for `kubectl get pods.metrics.k8s.io`.
//!
//! Counterpart: `pkg/api/table.go` of metrics-server. Invariant: columns are the resources that were measured, by name.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_api::quantity::Quantity;

/// The Table of one object or of a list.
pub fn of(value: &Value) -> Value {
    let items = match value["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![value.clone()],
    };
    let usages: Vec<BTreeMap<String, Quantity>> = items.iter().map(usage).collect();
    let resources: Vec<String> =
        usages.first().into_iter().flat_map(|one| one.keys().cloned()).collect();
    let column = |name: &str, format: &str| json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    let mut columns = vec![column("Name", "name")];
    columns.extend(resources.iter().map(|resource| column(resource, "quantity")));
    columns.push(column("Window", "duration"));
    let rows = items.iter().zip(&usages).map(|(item, usage)| {
        let mut cells = vec![item["metadata"]["name"].clone()];
        let amount = |resource: &String| usage.get(resource).map(ToString::to_string);
        cells.extend(resources.iter().map(|resource| json!(amount(resource))));
        cells.push(item["window"].clone());
        json!({"cells": cells, "object": item})
    });
    let rows: Vec<Value> = rows.collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": columns, "rows": rows})
}

/// Of a node as it is, of a pod over its containers.
fn usage(item: &Value) -> BTreeMap<String, Quantity> {
    let containers = item["containers"].as_array().into_iter().flatten();
    let mut sum = BTreeMap::new();
    for one in containers.map(|container| &container["usage"]).chain([&item["usage"]]) {
        for (resource, amount) in one.as_object().into_iter().flatten() {
            let amount = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
            *sum.entry(resource.clone()).or_default() += amount.unwrap_or_default();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_containers_are_added_up() {
        let container = json!({"name": "c", "usage": {"cpu": "250m", "memory": "1Mi"}});
        let pod = json!({"metadata": {"name": "p"}, "window": "10s", "containers": [container, container]});
        let table = of(&json!({"items": [pod]}));
        assert_eq!(table["rows"][0]["cells"], json!(["p", "500m", "2Mi", "10s"]));
        assert_eq!(table["columnDefinitions"][1]["name"], "cpu");
    }
}
