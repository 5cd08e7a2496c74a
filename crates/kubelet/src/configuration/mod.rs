//! The file that says how a node is to be: a `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`.
//!
//! Consumes the file, decides field by field ([`fields`]), changes a [`KubeletConfig`] or says which field it cannot
//! honour. Counterpart: `pkg/kubelet/kubeletconfig/configfiles` and `pkg/kubelet/apis/config/validation`.
//! Invariant: strict. A field that is unknown, of another type, or set to what this node does not do stops the start; what
//! `/configz` shows is what is in force.

mod draft;
mod fields;

use std::{fs, path::Path};

use serde_json::{Map, Value, json};
use skiff_api::duration;

use crate::config::KubeletConfig;
use draft::Draft;
use fields::{FIELDS, Field, Kind, Part};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// What a file says, checked against the types of the fields.
#[derive(Debug, Clone, Default)]
pub struct KubeletConfiguration {
    said: Vec<(usize, Value)>,
}

#[derive(Debug, thiserror::Error)]
#[error("failed to load kubelet config file, path: {path}, error: {fault}")]
pub struct ConfigurationError {
    path: String,
    #[source]
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    #[error("{0}")]
    Malformed(String),
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind { kind: String, version: String },
    #[error("strict decoding error: {}", .0.iter().map(|name| format!("unknown field {name:?}")).collect::<Vec<_>>().join(", "))]
    Unknown(Vec<String>),
    #[error(
        "json: cannot unmarshal {found} into Go struct field KubeletConfiguration.{field} of type {wanted}"
    )]
    Type { field: &'static str, found: &'static str, wanted: &'static str },
    #[error("{field}: {reason}")]
    Span { field: &'static str, reason: String },
    #[error(
        "{field} is not supported by this node: {value} was asked for, only {only} is possible"
    )]
    NotHonoured { field: &'static str, value: Value, only: Value },
    #[error("invalid configuration: {0}")]
    Invalid(String),
}

// === impl KubeletConfiguration ===

impl KubeletConfiguration {
    pub fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let parsed =
            fs::read_to_string(path).map_err(Fault::from).and_then(|text| Self::parse(&text));
        parsed.map_err(|fault| ConfigurationError { path: path.display().to_string(), fault })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let file: Value =
            serde_saphyr::from_str(text).map_err(|error| Fault::Malformed(error.to_string()))?;
        let Value::Object(mut file) = file else {
            return Err(Fault::Malformed("the file holds no object".to_owned()));
        };
        let mut take =
            |key| file.remove(key).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let (version, kind) = (take("apiVersion"), take("kind"));
        if (version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
            return Err(Fault::Kind { kind, version });
        }
        let (mut said, mut unknown) = (Vec::new(), Vec::new());
        collect(file, "", &mut said, &mut unknown)?;
        match unknown.is_empty() {
            true => Ok(KubeletConfiguration { said }),
            false => Err(Fault::Unknown(unknown)),
        }
    }

    /// `given` with what the file says; what in it differs from `plain` was said by flags, which win.
    pub fn apply(
        &self,
        given: KubeletConfig,
        plain: &KubeletConfig,
    ) -> Result<KubeletConfig, Fault> {
        let flagged = |field: &Field| match &field.part {
            Part::Kept(_, show) => show(&given) != show(plain),
            _ => false,
        };
        let mut draft = Draft::of(given.clone());
        for (at, value) in &self.said {
            let field = &FIELDS[*at];
            match &field.part {
                Part::Kept(..) if flagged(field) => {}
                Part::Kept(set, _) => set(&mut draft, value)
                    .map_err(|reason| Fault::Invalid(format!("{} {reason}", field.path)))?,
                Part::Fixed(only) | Part::Moot(only) => check_only(field, value, only)?,
            }
        }
        self.follow(&mut draft);
        let config = draft.finish().map_err(Fault::Invalid)?;
        validate(&config).map_err(Fault::Invalid)?;
        Ok(config)
    }

    /// The CRI socket of the runtime that is to run the node's pods, if the file names one.
    pub fn container_runtime_endpoint(&self) -> Option<&str> {
        self.text("containerRuntimeEndpoint")
    }

    pub fn image_service_endpoint(&self) -> Option<&str> {
        self.text("imageServiceEndpoint")
    }

    fn text(&self, path: &str) -> Option<&str> {
        let said = self.said.iter().find(|(at, _)| FIELDS[*at].path == path);
        said.and_then(|(_, value)| value.as_str())
    }

    /// Fields whose default is another field's value.
    fn follow(&self, draft: &mut Draft) {
        let says = |path: &str| self.said.iter().any(|(at, _)| FIELDS[*at].path == path);
        if says("nodeStatusUpdateFrequency") && !says("nodeStatusReportFrequency") {
            draft.config.status_report = draft.config.status_update;
        }
        if draft.config.serialize_image_pulls && !says("maxParallelImagePulls") {
            draft.config.max_parallel_image_pulls = Some(1);
        }
    }
}

/// What cannot be otherwise is to be as it is, or to be overlooked.
fn check_only(field: &Field, value: &Value, only: &str) -> Result<(), Fault> {
    let only: Value = serde_json::from_str(only).expect("the table holds JSON");
    if *value == only {
        return Ok(());
    }
    let Some(why) = field.overlooks(value) else {
        return Err(Fault::NotHonoured { field: field.path, value: value.clone(), only });
    };
    tracing::warn!(field = field.path, %value, why, "this part of the configuration has no effect");
    Ok(())
}

/// Sorts what an object holds into fields of the table and others.
fn collect(
    object: Map<String, Value>,
    above: &str,
    said: &mut Vec<(usize, Value)>,
    unknown: &mut Vec<String>,
) -> Result<(), Fault> {
    for (key, value) in object {
        let path = format!("{above}{key}");
        let below = format!("{path}.");
        let field = FIELDS.iter().position(|field| field.path == path);
        match (field, value) {
            (_, Value::Null) => {}
            (Some(at), value) => said.extend(checked(&FIELDS[at], value)?.map(|value| (at, value))),
            (None, Value::Object(inner)) if FIELDS.iter().any(|f| f.path.starts_with(&below)) => {
                collect(inner, &below, said, unknown)?;
            }
            (None, _) => unknown.push(path),
        }
    }
    Ok(())
}

/// The value in the one form that its kind has; `None` if it says nothing.
fn checked(field: &Field, value: Value) -> Result<Option<Value>, Fault> {
    let texts = |mut values: Box<dyn Iterator<Item = &Value> + '_>| values.all(Value::is_string);
    let fits = match (field.kind, &value) {
        (Kind::Any, _) | (Kind::Bool, Value::Bool(_)) => true,
        (Kind::Int | Kind::Count, Value::Number(number)) => number.is_i64(),
        (Kind::Float, Value::Number(_)) | (Kind::Text | Kind::Span, Value::String(_)) => true,
        // As people write it in YAML: no time at all.
        (Kind::Span, Value::Number(number)) => number.as_i64() == Some(0),
        (Kind::Texts, Value::Array(each)) => texts(Box::new(each.iter())),
        (Kind::TextMap, Value::Object(each)) => texts(Box::new(each.values())),
        _ => false,
    };
    if !fits {
        let (found, wanted) = (type_of(&value), field.kind.name());
        return Err(Fault::Type { field: field.path, found, wanted });
    }
    Ok(match (field.kind, &value) {
        (Kind::Span, Value::String(text)) => {
            let nanos = duration::parse(text)
                .map_err(|error| Fault::Span { field: field.path, reason: error.to_string() })?;
            (nanos != 0).then(|| json!(duration::print(nanos)))
        }
        (Kind::Span, _) => None,
        (Kind::Int, number) if number == 0 => None,
        (Kind::Text, text) if text == "" => None,
        (Kind::TextMap, Value::Object(map)) if map.is_empty() => None,
        _ => Some(value),
    })
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Kind {
    /// As Go calls it.
    fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int | Kind::Count => "int32",
            Kind::Float => "float64",
            Kind::Text => "string",
            Kind::Span => "v1.Duration",
            Kind::Texts => "[]string",
            Kind::TextMap => "map[string]string",
            Kind::Any => "object",
        }
    }
}

/// What no field can say of itself alone.
fn validate(config: &KubeletConfig) -> Result<(), String> {
    let images = &config.image_garbage;
    let (low, high) = (images.low_threshold, images.high_threshold);
    let (critical, total) = (config.shutdown.critical, config.shutdown.total);
    let rules = [
        (config.lease_seconds > 0, "nodeLeaseDurationSeconds must be greater than 0".to_owned()),
        (
            low < high,
            format!(
                "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than \
                 imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
            ),
        ),
        (
            images.max_age.is_zero() || images.max_age > images.min_age,
            "imageMaximumGCAge must be greater than imageMinimumGCAge".to_owned(),
        ),
        (
            !config.serialize_image_pulls || config.max_parallel_image_pulls == Some(1),
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set \
             to false"
                .to_owned(),
        ),
        (
            config.image_service_endpoint.is_empty() || !config.container_runtime_endpoint.is_empty(),
            "imageServiceEndpoint is of no use without a containerRuntimeEndpoint".to_owned(),
        ),
        (
            critical <= total,
            format!("shutdownGracePeriodCriticalPods {critical:?} must be <= shutdownGracePeriod {total:?}"),
        ),
        (config.log_rotation.max_files > 1, "containerLogMaxFiles must be greater than 1".to_owned()),
        (
            config.log_rotation.look_every.as_secs() >= 3,
            "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".to_owned(),
        ),
        (
            config.ids_per_pod > 0 && config.ids_per_pod.is_multiple_of(65536),
            format!("userNamespaces.idsPerPod {} must be a multiple of 65536", config.ids_per_pod),
        ),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, message)| Err(message))
}

/// What is in force, in upstream's words; what is not set is left out.
pub fn shown(config: &KubeletConfig) -> Value {
    let mut document = json!({ "kind": KIND, "apiVersion": API_VERSION });
    for field in FIELDS {
        let value = match &field.part {
            Part::Kept(_, show) => show(config),
            Part::Fixed(value) => serde_json::from_str(value).expect("the table holds JSON"),
            Part::Moot(_) => Value::Null,
        };
        let is_empty = match &value {
            Value::Null => true,
            Value::Array(each) => each.is_empty(),
            Value::Object(each) => each.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !is_empty {
            let place = field.path.split('.').fold(&mut document, |at, key| &mut at[key]);
            *place = value;
        }
    }
    document
}

#[cfg(test)]
mod tests;
