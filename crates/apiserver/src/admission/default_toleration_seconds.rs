//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or out of reach.
//!
//! Counterpart: `plugin/pkg/admission/defaulttolerationseconds`.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{Operation, Plugin, Request};

pub struct DefaultTolerationSeconds;

const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.is("", "pods") && request.operation != Operation::Delete
    }

    async fn mutate(&self, _: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        add(pod);
        Ok(())
    }
}

fn add(pod: &mut Value) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let have: Vec<Value> =
        spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let tolerated = |taint: &str| {
        have.iter().any(|toleration| {
            let key = toleration["key"].as_str().unwrap_or("");
            let effect = toleration["effect"].as_str().unwrap_or("");
            (key == taint || key.is_empty()) && matches!(effect, "" | "NoExecute")
        })
    };
    let missing: Vec<Value> = TAINTS
        .iter()
        .filter(|taint| !tolerated(taint))
        .map(|taint| json!({ "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS }))
        .collect();
    if !missing.is_empty() {
        spec.insert("tolerations".to_owned(), have.into_iter().chain(missing).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let mut pod =
            json!({ "spec": { "tolerations": [{ "key": TAINTS[1], "operator": "Exists" }] } });
        add(&mut pod);
        assert_eq!(pod["spec"]["tolerations"][1]["key"], TAINTS[0]);
        let once = pod.clone();
        add(&mut pod);
        assert_eq!(pod, once);
    }
}
