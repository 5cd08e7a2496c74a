//! One scenario file: its requests in order, each answer compared with the recorded one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Map, Value, json};
use skiff_api::codec::{Node, parse_json};
use skiff_apiserver::{ApiServerConfig, UserInfo};
use tokio::time::Instant;
use tower::Service;

use crate::common::{self, Cluster, Messages, frame_length, line_length};
use crate::scrub::Scrubber;
use crate::{compare, protobuf};

/// What became of one step; no differences means it passed.
pub struct Outcome {
    pub step: String,
    pub differences: Vec<String>,
}

struct Run {
    cluster: Cluster,
    vars: BTreeMap<String, Value>,
    scrub: Scrubber,
    ignore: Vec<String>,
    outcomes: Vec<Outcome>,
}

const HEADERS: &[&str] = &["content-type", "warning", "retry-after", "www-authenticate", "allow"];

pub async fn play(path: PathBuf) -> Vec<Outcome> {
    let text = std::fs::read_to_string(&path).expect("a scenario is readable");
    let mut scenario: Value = serde_json::from_str(&text).expect("a scenario is JSON");
    let ordered = parse_json(text.as_bytes()).expect("a scenario is JSON");
    keep_order(&mut scenario, &ordered);
    let mut run = Run::new(&scenario).await;
    for step in list(&scenario, "steps") {
        run.step(&step).await;
    }
    run.outcomes
}

// === impl Run ===

impl Run {
    async fn new(scenario: &Value) -> Run {
        // The recorded server did not allow privileged pods.
        let cluster =
            common::cluster_with(|config| ApiServerConfig { allow_privileged: false, ..config })
                .await;
        let namespace = format!("t-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let admin = cluster.admin();
        admin.delete("/api/v1/namespaces/default/serviceaccounts/default").await;
        if scenario["namespace"] != false {
            let labels = scenario.get("namespaceLabels").cloned().unwrap_or(json!({}));
            let object = json!({ "metadata": { "name": namespace, "labels": labels } });
            // By the same program as every step, which therefore owns the labels.
            let request = http::Request::post("/api/v1/namespaces")
                .header("user-agent", "replay/1")
                .header("content-type", "application/json")
                .body(http_body_util::Full::new(object.to_string().into()))
                .expect("a well-formed request");
            admin.request(request).await.created();
            let account = json!({ "metadata": { "name": "default" } });
            admin
                .post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account)
                .await
                .created();
        }
        Run {
            cluster,
            scrub: Scrubber::new(&namespace),
            vars: BTreeMap::from([("ns".to_owned(), namespace.into())]),
            ignore: texts(scenario, "ignore"),
            outcomes: Vec::new(),
        }
    }

    async fn step(&mut self, step: &Value) {
        tokio::time::sleep(Duration::from_secs_f64(step["delay"].as_f64().unwrap_or(0.0))).await;
        let answer = match (step.get("stream"), step.get("until")) {
            (Some(stream), _) => Box::pin(self.stream(step, stream)).await,
            (None, Some(until)) => self.until(step, until).await,
            (None, None) => self.once(step).await,
        };
        self.save(step, &answer);
        let ignore: Vec<String> =
            texts(step, "ignore").into_iter().chain(self.ignore.clone()).collect();
        let want = self.comparable(&step["expect"], &ignore);
        let got = self.comparable(&answer, &ignore);
        let name = step["name"].as_str().unwrap_or("").to_owned();
        self.outcomes.push(Outcome { step: name, differences: compare::differences(&want, &got) });
    }

    fn comparable(&mut self, answer: &Value, ignore: &[String]) -> Value {
        let fields = answer.as_object().into_iter().flatten().filter(|(key, _)| *key != "base64");
        let fields: Vec<(String, Value)> =
            fields.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut out: Map<String, Value> = Map::new();
        for (key, value) in fields {
            out.insert(key, self.scrub.value(&value, ""));
        }
        let part = if out.contains_key("events") { "/events/*/object" } else { "/body" };
        let mut out = Value::Object(out);
        ignore.iter().for_each(|pointer| compare::drop_at(&mut out, &format!("{part}{pointer}")));
        out
    }

    fn save(&mut self, step: &Value, answer: &Value) {
        let source =
            answer.get("events").or_else(|| answer.get("body")).unwrap_or(&Value::Null).clone();
        for (name, pointer) in step["save"].as_object().into_iter().flatten() {
            let Some(value) = pointer.as_str().and_then(|pointer| source.pointer(pointer)) else {
                continue;
            };
            self.vars.insert(name.clone(), value.clone());
            if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
                self.scrub.alias.entry(text.to_owned()).or_insert_with(|| format!("${{{name}}}"));
            }
        }
    }

    // --- requests ---

    async fn until(&mut self, step: &Value, rule: &Value) -> Value {
        let end = Instant::now()
            + Duration::from_secs_f64(rule["seconds"].as_f64().unwrap_or(3.0).min(3.0));
        loop {
            let answer = self.once(step).await;
            let status = rule.get("status").is_none_or(|status| *status == answer["status"]);
            let value = rule["pointer"].as_str().is_none_or(|pointer| {
                answer["body"].pointer(pointer) == Some(&self.fill(&rule["equals"]))
            });
            if (status && value) || Instant::now() > end {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn once(&mut self, step: &Value) -> Value {
        let response = self.send(step).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut answer = recorded(parts.status.as_u16(), &parts.headers, &bytes);
        if let (Some(wanted), Some(body)) = (step.get("select"), answer.get("body").cloned()) {
            answer["body"] = select(&body, wanted);
        }
        answer
    }

    async fn stream(&mut self, step: &Value, stream: &Value) -> Value {
        let response = self.send(step).await;
        let (parts, body) = response.into_parts();
        if parts.status != 200 {
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return recorded(parts.status.as_u16(), &parts.headers, &bytes);
        }
        for during in list(stream, "during") {
            self.step(&during).await;
        }
        let end = Instant::now()
            + Duration::from_secs_f64(stream["seconds"].as_f64().unwrap_or(5.0).min(3.0));
        let most = stream["maxEvents"]
            .as_u64()
            .map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let proto = parts
            .headers
            .get("content-type")
            .is_some_and(|value| value.to_str().is_ok_and(|text| text.contains("protobuf")));
        let mut messages = Messages::new(body, if proto { frame_length } else { line_length });
        let mut events: Vec<Vec<u8>> = Vec::new();
        while events.len() < most {
            match tokio::time::timeout_at(end, messages.next()).await {
                Ok(Some(message)) => events.push(message),
                _ => break,
            }
        }
        let mut answer = recorded(parts.status.as_u16(), &parts.headers, &[]);
        match proto {
            true => {
                answer["decoded"] = events
                    .iter()
                    .map(|event| protobuf::decode(event.get(4..).unwrap_or(&[])))
                    .collect()
            }
            false => {
                answer["events"] = events
                    .iter()
                    .map(|event| serde_json::from_slice(event).unwrap_or(Value::Null))
                    .collect()
            }
        }
        answer
    }

    async fn send(&mut self, step: &Value) -> http::Response<skiff_apiserver::Body> {
        let request = self.request(step);
        let admin = recorded_admin();
        let mut service = match step["auth"].as_str() {
            Some("none") => self.cluster.server.local_unauthenticated(),
            _ => self.cluster.server.local(admin),
        };
        service.call(request).await.expect("infallible")
    }

    fn request(&mut self, step: &Value) -> Request<Full<Bytes>> {
        let body = self.body(step);
        let mut path = self.text(step["path"].as_str().unwrap_or(""));
        let query = self.query(step);
        if !path.contains('?') && !query.is_empty() {
            path = format!("{path}?{query}");
        }
        let mut request =
            Request::builder().method(step["method"].as_str().unwrap_or("GET")).uri(path);
        let mut headers: BTreeMap<String, String> = BTreeMap::from([
            ("user-agent".to_owned(), "replay/1".to_owned()),
            ("accept".to_owned(), step["accept"].as_str().unwrap_or("application/json").to_owned()),
        ]);
        if body.is_some() {
            headers.insert(
                "content-type".to_owned(),
                step["contentType"].as_str().unwrap_or("application/json").to_owned(),
            );
        }
        for (name, value) in step["headers"].as_object().into_iter().flatten() {
            headers.insert(name.to_lowercase(), self.text(value.as_str().unwrap_or("")));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(body.unwrap_or_default()))
            .expect("a recorded request is well formed")
    }

    fn body(&mut self, step: &Value) -> Option<Bytes> {
        if let Some(encoded) = step["bodyBase64"].as_str() {
            return Some(BASE64_STANDARD.decode(encoded).expect("recorded bytes").into());
        }
        let filled = self.fill(step.get("body")?);
        self.scrub.ask(&filled);
        if let Some(stem) =
            filled["metadata"]["generateName"].as_str().filter(|stem| !stem.is_empty())
        {
            self.scrub.stem(stem);
        }
        Some(match step[ORDERED].as_str() {
            Some(text) => self.json_text(text).into(),
            None => filled.as_str().map_or_else(|| filled.to_string(), str::to_owned).into(),
        })
    }

    fn query(&self, step: &Value) -> String {
        match self.fill(step.get("query").unwrap_or(&Value::Null)) {
            Value::String(text) => text.replace(' ', "%20"),
            Value::Object(map) => {
                let pairs = map.iter().flat_map(|(key, value)| {
                    let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                    values.into_iter().map(move |value| {
                        format!(
                            "{}={}",
                            escaped(key),
                            escaped(value.as_str().unwrap_or(&value.to_string()))
                        )
                    })
                });
                pairs.collect::<Vec<_>>().join("&")
            }
            _ => String::new(),
        }
    }

    // --- variables ---

    fn fill(&self, value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                map.iter().map(|(key, value)| (self.text(key), self.fill(value))).collect()
            }
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::String(text) => {
                let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
                match whole.and_then(|name| self.vars.get(name)) {
                    Some(value) => value.clone(),
                    None => self.text(text).into(),
                }
            }
            other => other.clone(),
        }
    }

    /// Like [`Run::fill`], in the text of a JSON document.
    fn json_text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.vars {
            text = text.replace(&format!("\"${{{name}}}\""), &value.to_string());
        }
        self.text(&text)
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.vars {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&format!("${{{name}}}"), &shown);
        }
        text
    }
}

/// Where a step keeps the text of its body.
const ORDERED: &str = "orderedBody";

/// Notes the body of each request as text beside itself: the order of its keys shows in answers, and a `Value` has none.
fn keep_order(value: &mut Value, ordered: &Node) {
    match (value, ordered) {
        (Value::Object(map), Node::Map(entries)) => {
            for (name, node) in entries.iter().filter(|(name, _)| name != "expect") {
                let Some(below) = map.get_mut(name) else { continue };
                if name != "body" {
                    keep_order(below, node);
                } else if matches!(node, Node::Map(_) | Node::List(_)) {
                    map.insert(ORDERED.to_owned(), json_of(node).into());
                }
            }
        }
        (Value::Array(items), Node::List(nodes)) => {
            items.iter_mut().zip(nodes).for_each(|(item, node)| keep_order(item, node));
        }
        _ => {}
    }
}

fn json_of(node: &Node) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    match node {
        Node::Map(entries) => {
            let entry =
                |(name, node): &(String, Node)| format!("{}:{}", json!(name), json_of(node));
            format!("{{{}}}", joined(entries.iter().map(entry).collect()))
        }
        Node::List(items) => format!("[{}]", joined(items.iter().map(json_of).collect())),
        Node::Number(text) => text.clone(),
        scalar => scalar.clone().into_value().to_string(),
    }
}

/// Who the recorded requests came from: an administrator with a certificate.
fn recorded_admin() -> UserInfo {
    let credential = format!("X509SHA256={}", "0".repeat(64));
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])];
    UserInfo {
        extra: extra.into(),
        ..UserInfo::new("admin", &["system:masters", "system:authenticated"])
    }
}

/// An answer as the recordings hold it.
fn recorded(status: u16, headers: &http::HeaderMap, bytes: &[u8]) -> Value {
    let mut answer = json!({ "status": status });
    let mut kept = Map::new();
    for name in HEADERS {
        let values: Vec<Value> = headers
            .get_all(*name)
            .iter()
            .filter_map(|value| Some(value.to_str().ok()?.into()))
            .collect();
        if !values.is_empty() {
            kept.insert((*name).to_owned(), values.into());
        }
    }
    let kind = kept.get("content-type").and_then(|list| list[0].as_str()).unwrap_or("").to_owned();
    if !kept.is_empty() {
        answer["headers"] = Value::Object(kept);
    }
    if bytes.is_empty() {
        return answer;
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(body) if kind.contains("json") => answer["body"] = body,
        _ if kind.contains("protobuf") => answer["decoded"] = protobuf::decode(bytes),
        _ => answer["text"] = String::from_utf8_lossy(bytes).into_owned().into(),
    }
    answer
}

/// Only what the pointers name; a trailing `/*` stands for the sorted keys there.
fn select(body: &Value, pointers: &Value) -> Value {
    let pointers = pointers.as_array().into_iter().flatten().filter_map(Value::as_str);
    pointers
        .map(|pointer| {
            let found = body.pointer(pointer.strip_suffix("/*").unwrap_or(pointer));
            let value = match (found, pointer.ends_with("/*")) {
                (None, _) => "<absent>".into(),
                (Some(value), false) => value.clone(),
                (Some(value), true) => {
                    value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
                }
            };
            (pointer.to_owned(), value)
        })
        .collect()
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn list(value: &Value, field: &str) -> Vec<Value> {
    value[field].as_array().cloned().unwrap_or_default()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    list(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
