//! Bytes <-> objects: what a request body says, and how an object is written.
//!
//! Body + format + [`Target`] -> [`Decoded`] (an object that fits its schema, and the findings of
//! strict decoding) or the 400 Status upstream answers with. Counterpart: `runtime/serializer`.
//! Invariant: no input panics; what is decoded without an error can be stored and read again.

mod complete;
mod conform;
mod encode;
mod envelope;
mod go_types;
mod json;
mod node;
mod place;
mod proto;
mod scheme;
mod unstructured;
mod yaml;
mod yaml_faults;
mod yaml_text;

use serde_json::{Map, Value};

pub use complete::{complete, settle};
use conform::conform_noting;
pub use conform::{Empty, conform, repeated_fields};
pub use encode::{
    EncodedObject, ListHead, encode, encode_as_is, list_head, list_json, to_json, to_json_pretty,
    watch_json,
};
pub use go_types::{TypeError, object as go_object};
pub use json::{SyntaxError, parse as parse_json};
pub use node::Node;
pub use proto::{ProtoError, to_proto, watch_frame, wire};
pub use unstructured::fault as unstructured_fault;
pub use yaml::parse as parse_yaml;
pub(crate) use yaml::whole_numbers;
pub use yaml_text::to_yaml;

use crate::kind::{KindDef, Subresource};
use crate::schema::{StructRef, StructSchema, struct_named, type_of_kind};
use crate::status::Status;
use envelope::Said;

/// A representation of objects on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// What a body is expected to hold.
pub struct Target<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub schema: StructRef,
    /// A custom resource: kind and version must be said, types are checked later by its own schema.
    pub custom: bool,
}

/// A body that could be read.
#[derive(Debug)]
pub struct Decoded {
    pub object: Value,
    /// `unknown field "spec.x"`, `duplicate field "data.k"`: a warning each, or with
    /// `fieldValidation=Strict` the reason to refuse.
    pub strict: Vec<String>,
    /// The lists and maps that were given empty, which the object leaves out.
    pub empties: Vec<Empty>,
}

/// Reads a request body.
pub fn decode(body: &[u8], format: Format, target: &Target<'_>) -> Result<Decoded, Status> {
    let (node, mut strict) = match format {
        Format::Json => json::parse(body)
            .map(|node| (node, Vec::new()))
            .map_err(|error| format!("couldn't get version/kind; json parse error: {error}")),
        Format::Yaml => yaml::parse(body),
        Format::Protobuf => return decode_proto(body, target),
    }
    .map_err(|error| target.unrecognized(&error, body))?;
    let node = envelope::check(node, body, target)?;
    let mut empties = Vec::new();
    let object = conform_noting(node, &target.schema, target.custom, &mut strict, &mut empties)
        .map_err(|error| target.unhandled(&error.to_string()))?;
    Ok(Decoded { object: with_type(object, target), strict, empties })
}

fn decode_proto(body: &[u8], target: &Target<'_>) -> Result<Decoded, Status> {
    let fault = |error: ProtoError| target.unrecognized(&error.to_string(), body);
    let envelope = proto::Envelope::read(body).map_err(fault)?;
    let said = Said { api_version: envelope.api_version.clone(), kind: envelope.kind.clone() };
    envelope::check_builtin(&said, &Node::Null, target)?;
    let object = envelope.object(&target.schema).map_err(fault)?;
    let object = conform(Node::from(object), &target.schema, target.custom, &mut Vec::new())
        .map_err(|error| target.unhandled(&error.to_string()))?;
    Ok(Decoded { object: with_type(object, target), strict: Vec::new(), empties: Vec::new() })
}

/// Holds a document that a patch produced against its kind, like a body.
pub fn decode_patched(document: Value, target: &Target<'_>) -> Result<Decoded, TypeError> {
    let node = Node::from(document);
    if target.custom {
        return decode_as(node, target);
    }
    match envelope::check_patched(node, target).map_err(TypeError)? {
        envelope::Patched::Object(node) => decode_as(node, target),
        envelope::Patched::Nothing(fields) => {
            let strict = fields.iter().map(|name| format!("unknown field {name:?}")).collect();
            Ok(Decoded {
                object: with_type(Value::Object(Map::new()), target),
                strict,
                empties: Vec::new(),
            })
        }
    }
}

/// Holds an object of the server's own making against its kind.
pub fn decode_value(object: Value, target: &Target<'_>) -> Result<Decoded, TypeError> {
    decode_as(Node::from(object), target)
}

/// Likewise, whatever the object says it is.
pub fn decode_as(node: Node, target: &Target<'_>) -> Result<Decoded, TypeError> {
    let (mut strict, mut empties) = (Vec::new(), Vec::new());
    let object = conform_noting(node, &target.schema, target.custom, &mut strict, &mut empties)?;
    Ok(Decoded { object: with_type(object, target), strict, empties })
}

/// Reads JSON the server itself wrote.
pub fn decode_stored(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::internal(format!("unable to decode a stored object: {error}")))
}

// === impl Format ===

impl Format {
    /// The format of a `Content-Type` or of one range of `Accept`; parameters are ignored.
    pub fn of_media_type(text: &str) -> Option<Format> {
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
            _ => None,
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

// === impl Target ===

impl<'a> Target<'a> {
    pub fn of(kind: &'a KindDef) -> Target<'a> {
        Target {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            schema: kind.schema.clone(),
            custom: kind.custom,
        }
    }

    /// The object a subresource such as `scale` or `eviction` takes.
    pub fn subresource(parent: &'a KindDef, sub: &'a Subresource) -> Option<Target<'a>> {
        if sub.kind == parent.kind {
            return Some(Target::of(parent));
        }
        Target::known(&sub.group, &sub.version, &sub.kind)
    }

    /// A built-in type by group, version and kind.
    pub fn known(group: &'a str, version: &'a str, kind: &'a str) -> Option<Target<'a>> {
        let schema = type_of_kind(group, version, kind)?;
        Some(Target { group, version, kind, schema, custom: false })
    }

    /// `DeleteOptions`, which every group and version understands.
    pub fn delete_options() -> Target<'static> {
        let schema = crate::schema::struct_ref("meta.v1.DeleteOptions")
            .expect("the facts hold DeleteOptions");
        Target { group: "", version: "v1", kind: "DeleteOptions", schema, custom: false }
    }

    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The answer to `fieldValidation=Strict` if there are findings.
    pub fn strict_error(&self, findings: &[String]) -> Option<Status> {
        let text = strict_text(findings)?;
        Some(self.unhandled(&text))
    }

    fn unrecognized(&self, error: &str, body: &[u8]) -> Status {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({})",
            self.kind,
            envelope::summary(body)
        ))
    }

    fn unhandled(&self, error: &str) -> Status {
        // Options are decoded without a scheme to speak of.
        if self.kind == "DeleteOptions" && !error.starts_with("strict") {
            return Status::bad_request(error);
        }
        let Target { kind, version, .. } = self;
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {error}"
        ))
    }
}

/// `strict decoding error: ...` for findings, `None` without any.
pub fn strict_text(findings: &[String]) -> Option<String> {
    if findings.is_empty() {
        return None;
    }
    let yaml: Vec<&String> = findings.iter().filter(|text| text.starts_with("line ")).collect();
    let mut texts: Vec<String> = Vec::new();
    if !yaml.is_empty() {
        let lines: String = yaml.iter().map(|line| format!("\n  {line}")).collect();
        texts.push(format!("yaml: unmarshal errors:{lines}"));
    }
    texts.extend(findings.iter().filter(|text| !text.starts_with("line ")).cloned());
    Some(format!("strict decoding error: {}", texts.join(", ")))
}

fn with_type(mut object: Value, target: &Target<'_>) -> Value {
    object["apiVersion"] = target.api_version().into();
    object["kind"] =
        object.get("kind").filter(|_| target.custom).cloned().unwrap_or_else(|| target.kind.into());
    object
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    match group.is_empty() {
        true => version.to_owned(),
        false => format!("{group}/{version}"),
    }
}

/// The schema of a built-in type, for callers that decode what no path names.
pub fn schema_named(name: &str) -> Option<&'static StructSchema> {
    struct_named(name)
}
