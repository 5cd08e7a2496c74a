//! From the create of a Pod to the watch event that shows it Running.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use super::connection::Target;
use super::watch::Events;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One pod after the other, so that each start is measured on an idle node.
pub async fn starts(
    target: &Target,
    namespace: &str,
    image: &str,
    times: usize,
) -> Result<Vec<Duration>> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut events = Events::open(target, &format!("{path}?watch=1&resourceVersion=0")).await?;
    let mut client = target.connect().await?;
    let mut took = Vec::with_capacity(times);
    for at in 0..times {
        let name = format!("started-{at}");
        let sent = Instant::now();
        client.ask(Method::POST, &path, pod(&name, image).to_string()).await?;
        let running = events.until(|event| is_running(event, &name)).await?;
        took.push(running - sent);
        let delete = json!({"gracePeriodSeconds": 0}).to_string();
        client.ask(Method::DELETE, &format!("{path}/{name}"), delete).await?;
    }
    Ok(took)
}

fn is_running(event: &Value, name: &str) -> bool {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    text("/object/metadata/name") == name && text("/object/status/phase") == "Running"
}

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": image, "imagePullPolicy": "IfNotPresent" }],
        },
    })
}
