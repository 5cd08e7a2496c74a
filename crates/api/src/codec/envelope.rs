//! What a body says it is, held against what the path takes.
//!
//! `apiVersion` and `kind` of a document -> nothing, or the 400 Status upstream answers with. A
//! built-in kind may leave both out; a custom resource must say its kind.

use super::Target;
use super::node::Node;
use super::scheme::Scheme;
use crate::status::Status;

/// What a body says it is.
pub struct Said {
    pub api_version: String,
    pub kind: String,
}

impl Said {
    pub fn by(node: &Node) -> Said {
        let text = |field| node.text(field).unwrap_or_default().to_owned();
        Said { api_version: text("apiVersion"), kind: text("kind") }
    }

    fn split(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }
}

/// Checks what a body says about itself against what the path expects.
pub fn check(node: Node, body: &[u8], target: &Target<'_>) -> Result<Node, Status> {
    const ENVELOPE: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
    let node = match node {
        Node::Null => Node::Map(Vec::new()),
        node @ Node::Map(_) => node,
        other => {
            let error = format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type {ENVELOPE}",
                other.type_name()
            );
            return Err(target.unrecognized(&error, body));
        }
    };
    if let Some(fault) = mistyped(&node) {
        let error = format!("couldn't get version/kind; json parse error: {fault}");
        return Err(target.unrecognized(&error, body));
    }
    let said = Said::by(&node);
    match target.custom {
        true => check_custom(&said, body, target)?,
        false => check_builtin(&said, target)?,
    }
    Ok(node)
}

/// A version or kind that is no text.
fn mistyped(node: &Node) -> Option<String> {
    let Node::Map(entries) = node else { return None };
    entries.iter().find_map(|(name, value)| match (name.as_str(), value) {
        (_, Node::String(_) | Node::Null) => None,
        ("apiVersion" | "kind", other) => Some(format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            other.type_name()
        )),
        _ => None,
    })
}

fn check_custom(said: &Said, body: &[u8], target: &Target<'_>) -> Result<(), Status> {
    if said.kind.is_empty() {
        let error = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body));
        return Err(target.unrecognized(&error, body));
    }
    match_version(&said.api_version, target)
}

pub fn check_builtin(said: &Said, target: &Target<'_>) -> Result<(), Status> {
    let kind = if said.kind.is_empty() { target.kind } else { &said.kind };
    let expected = target.api_version();
    let given = if said.api_version.is_empty() { &expected } else { &said.api_version };
    if kind == target.kind && *given == expected {
        return Ok(());
    }
    let full = Said { api_version: given.clone(), kind: kind.to_owned() };
    let (_, version) = full.split();
    let cannot = |why: &str| {
        let text =
            format!("{kind} in version {version:?} cannot be handled as a {}: {why}", target.kind);
        Status::bad_request(text)
    };
    let scheme = Scheme::of_group(target.group);
    if !scheme.knows(given, kind) && target.kind != "DeleteOptions" {
        return Err(cannot(&scheme.not_registered(given, kind)));
    }
    if kind != target.kind {
        if target.kind == "DeleteOptions" {
            let scheme = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";
            let text = format!(
                "no kind {kind:?} is registered for version {given:?} in scheme {scheme:?}"
            );
            return Err(Status::bad_request(text));
        }
        let package = |group: &str| match group.split('.').next().unwrap_or_default() {
            "" => "core".to_owned(),
            first => first.to_owned(),
        };
        let why = format!(
            "converting ({version}.{kind}) to ({}.{}): unknown conversion",
            package(target.group),
            target.kind
        );
        return Err(cannot(&why));
    }
    match target.kind {
        "DeleteOptions" => Ok(()),
        _ => match_version(given, target),
    }
}

fn match_version(given: &str, target: &Target<'_>) -> Result<(), Status> {
    let expected = target.api_version();
    match given == expected {
        true => Ok(()),
        false => Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({expected})"
        ))),
    }
}

/// The start of a body as upstream shows it: JSON as text, anything else in hexadecimal.
pub fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let cut = &body[..body.len().min(SHOWN)];
    let dots = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(cut)),
        Some(_) => {
            let hex: String = cut.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{dots}")
        }
    }
}
