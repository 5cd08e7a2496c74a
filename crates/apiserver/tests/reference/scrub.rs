//! Replaces what differs from run to run by placeholders, on both sides of a comparison.
//!
//! FORMAT.md lists them under "What is normalised". One [`Scrubber`] knows the names and saved values of one scenario.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

pub struct Scrubber {
    /// Saved values and the placeholder each stands for.
    pub alias: BTreeMap<String, String>,
    /// Every text the scenario sent.
    pub asked: HashSet<String>,
    stems: BTreeMap<String, Regex>,
    now: i64,
}

const MONTH: i64 = 30 * 86400;
/// The recorded build mounts one source more into every pod than Kubernetes does: its distribution's own CA.
const FOREIGN_SOURCE: &str = "openshift-service-ca.crt";

static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uid>"),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "<jwt>"),
        (r"\bkube-api-access-[a-z0-9]{5}\b", "kube-api-access-<gen>"),
        (r"X509SHA256=[0-9a-f]{64}", "X509SHA256=<hash>"),
        (r"(resource version: \d+ )\(\d+\)", "$1(<rv>)"),
        (r"(Too large resource version: \d+, current: )\d+", "$1<rv>"),
        (r#"((?:resourceVersion: |\\?"resourceVersion\\?": ?)\\?")[1-9]\d*"#, "$1<rv>"),
        (r"(requested rv: |ResourceVersion in precondition: |ResourceVersion in object meta: )\d+", "$1<rv>"),
        (r"(ResourceVersion in (?:the precondition|record) \()\d+", "$1<rv>"),
    ]
    .into_iter()
    .map(|(rule, token)| (Regex::new(rule).expect("a valid rule"), token))
    .collect()
});
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
        .expect("a valid rule")
});
static IPV4: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\d+\.\d+\.\d+\.\d+$").expect("a valid rule"));
static AGE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(<invalid>|(\d+[smhdy])+)$").expect("a valid rule"));
static HIGH_PORT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r":(\d{5})/").expect("a valid rule"));

// === impl Scrubber ===

impl Scrubber {
    pub fn new(namespace: &str) -> Scrubber {
        Scrubber {
            alias: BTreeMap::from([(namespace.to_owned(), "${ns}".to_owned())]),
            asked: HashSet::new(),
            stems: BTreeMap::new(),
            now: skiff_api::time::now(),
        }
    }

    /// Names made from a generateName: the stem stays, the random rest goes.
    pub fn stem(&mut self, stem: &str) {
        let stem: String = stem.chars().take(58).collect();
        let rule = format!(r"{}[bcdfghjklmnpqrstvwxz2456789]{{5}}\b", regex::escape(&stem));
        self.stems
            .entry(stem)
            .or_insert_with(|| Regex::new(&rule).expect("an escaped stem is valid"));
    }

    /// Everything a request body says counts as asked for.
    pub fn ask(&mut self, value: &Value) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                self.asked.insert(key.clone());
                self.ask(value);
            }),
            Value::Array(items) => items.iter().for_each(|item| self.ask(item)),
            Value::String(text) => drop(self.asked.insert(text.clone())),
            other => drop(self.asked.insert(other.to_string())),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (stem, rule) in
            self.stems.iter().filter(|(stem, _)| text.contains(stem.as_str())).collect::<Vec<_>>()
        {
            text =
                rule.replace_all(&text, format!("{}<gen>", stem.replace('$', "$$"))).into_owned();
        }
        if let Some(alias) = self.alias.get(&text) {
            return alias.clone();
        }
        let mut known: Vec<&String> = self.alias.keys().collect();
        known.sort_by_key(|actual| std::cmp::Reverse(actual.len()));
        for actual in known {
            if actual.len() > 5
                && !actual.bytes().all(|byte| byte.is_ascii_digit())
                && text.contains(actual.as_str())
            {
                text = text.replace(actual.as_str(), &self.alias[actual]);
            }
        }
        for (rule, token) in RULES.iter() {
            text = rule.replace_all(&text, *token).into_owned();
        }
        TIME.replace_all(&text, |found: &regex::Captures<'_>| self.time(found)).into_owned()
    }

    fn time(&self, found: &regex::Captures<'_>) -> String {
        let recent = skiff_api::time::parse(&format!("{}Z", &found[1]))
            .is_ok_and(|at| (at - self.now).abs() < MONTH);
        match (recent, found.get(2)) {
            (true, Some(_)) => "<microtime>".to_owned(),
            (true, None) => "<time>".to_owned(),
            (false, _) => found[0].to_owned(),
        }
    }

    pub fn value(&mut self, value: &Value, key: &str) -> Value {
        match value {
            Value::Array(items) => items
                .iter()
                .filter(|item| item["configMap"]["name"] != FOREIGN_SOURCE)
                .map(|item| self.value(item, key))
                .collect(),
            Value::Object(map) => self.map(map),
            Value::String(text) => self.string(text, key).into(),
            Value::Number(number) => self.number(value, number.as_i64(), key),
            other => other.clone(),
        }
    }

    fn string(&self, text: &str, key: &str) -> String {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let fresh = !self.asked.contains(text) && !self.alias.contains_key(text);
        match key {
            "resourceVersion" if digits && text != "0" && !self.alias.contains_key(text) => {
                "<rv>".to_owned()
            }
            "continue" if !text.is_empty() && !text.starts_with("${") => "<continue>".to_owned(),
            "clusterIP" | "clusterIPs" if IPV4.is_match(text) && fresh => "<ip>".to_owned(),
            _ => self.text(text),
        }
    }

    fn number(&self, value: &Value, number: Option<i64>, key: &str) -> Value {
        let Some(number) = number else { return value.clone() };
        let asked = self.asked.contains(&number.to_string());
        match key {
            "nodePort" | "healthCheckNodePort" if number != 0 && !asked => "<nodePort>".into(),
            _ if (number - self.now).abs() < MONTH => "<time>".into(),
            _ => value.clone(),
        }
    }

    fn map(&mut self, map: &Map<String, Value>) -> Value {
        let mut map = map.clone();
        if let Some(stem) =
            map.get("generateName").and_then(Value::as_str).filter(|stem| !stem.is_empty())
        {
            self.stem(stem);
        }
        if map.get("kind").is_some_and(|kind| kind == "Table") {
            self.table(&mut map);
        }
        if let Some(columns) = map.get_mut("columnDefinitions").and_then(Value::as_array_mut) {
            columns
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(|column| drop(column.remove("description")));
        }
        if let Some(unknown) = map.get_mut("k8s") {
            self.envelope(unknown);
        }
        if map.get("serverAddressByClientCIDRs").is_some_and(Value::is_array) {
            map.insert("serverAddressByClientCIDRs".to_owned(), "<addresses>".into());
        }
        let mut out: Map<String, Value> =
            map.iter().map(|(key, value)| (self.text(key), self.value(value, key))).collect();
        sort_unordered(&mut out);
        Value::Object(out)
    }

    fn table(&self, table: &mut Map<String, Value>) {
        let names: Vec<String> = table
            .get("columnDefinitions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|column| column["name"].as_str().unwrap_or("").to_owned())
            .collect();
        for row in table.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
            for (at, cell) in
                row.get_mut("cells").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
            {
                let Some(text) = cell.as_str() else { continue };
                let column = names.get(at).map_or("", String::as_str);
                *cell = self.cell(text, column).into();
            }
        }
    }

    fn cell(&self, text: &str, column: &str) -> String {
        if AGE.is_match(text) {
            return "<age>".to_owned();
        }
        match column {
            "Cluster-IP" if IPV4.is_match(text) && !self.asked.contains(text) => "<ip>".to_owned(),
            "Port(s)" => {
                let hide = |found: &regex::Captures<'_>| match self.asked.contains(&found[1]) {
                    true => found[0].to_owned(),
                    false => ":<nodePort>/".to_owned(),
                };
                HIGH_PORT.replace_all(text, hide).into_owned()
            }
            _ => text.to_owned(),
        }
    }

    /// Names and revisions inside of a protobuf envelope, by field number.
    fn envelope(&mut self, unknown: &mut Value) {
        let list = unknown["1"][0]["2"][0].as_str().is_some_and(|kind| kind.ends_with("List"));
        for raw in unknown.get_mut("2").and_then(Value::as_array_mut).into_iter().flatten() {
            self.proto_meta(raw, if list { "2" } else { "6" });
            if list {
                for item in raw.get_mut("2").and_then(Value::as_array_mut).into_iter().flatten() {
                    self.proto_meta(item, "6");
                }
            }
        }
    }

    fn proto_meta(&mut self, holder: &mut Value, field: &str) {
        for meta in holder.get_mut("1").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(version) =
                meta.get(field).and_then(|list| list[0].as_str()).map(str::to_owned)
            else {
                continue;
            };
            if field == "6"
                && let Some(stem) =
                    meta["2"][0].as_str().filter(|stem| !stem.is_empty()).map(str::to_owned)
            {
                self.stem(&stem);
            }
            meta[field] = json!([self.string(&version, "resourceVersion")]);
        }
    }
}

/// Lists whose order says nothing.
fn sort_unordered(map: &mut Map<String, Value>) {
    let review = map.get("kind").is_some_and(|kind| kind == "SelfSubjectRulesReview");
    if review && let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) {
        status
            .values_mut()
            .filter_map(Value::as_array_mut)
            .for_each(|rules| rules.sort_by_key(Value::to_string));
    }
    if let Some(causes) = map.get_mut("causes").and_then(Value::as_array_mut)
        && causes.iter().all(|cause| cause["reason"] == "FieldManagerConflict")
    {
        causes.sort_by_key(|cause| format!("{}{}", cause["message"], cause["field"]));
    }
    if let Some(managers) = map.get_mut("managedFields").and_then(Value::as_array_mut) {
        managers.sort_by_key(|entry| {
            ["operation", "manager", "subresource", "apiVersion"]
                .map(|field| entry[field].as_str().unwrap_or("").to_owned())
        });
    }
}
