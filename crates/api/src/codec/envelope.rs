//! What a body says it is, held against what the path takes.
//!
//! `apiVersion` and `kind` of a document -> nothing, or the 400 Status upstream answers with. A
//! built-in kind may leave both out; a custom resource must say its kind.

use super::Target;
use super::conform::conform;
use super::go_types::internal_package;
use super::node::Node;
use super::scheme::Scheme;
use crate::schema::type_of_kind;
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

impl Said {
    /// What is left out is as the path says.
    fn filled(&self, target: &Target<'_>) -> Said {
        let or = |text: &str, other: String| if text.is_empty() { other } else { text.to_owned() };
        Said {
            api_version: or(&self.api_version, target.api_version()),
            kind: or(&self.kind, target.kind.to_owned()),
        }
    }

    /// Why this cannot become the target's kind, whatever its version.
    fn stranger(&self, node: &Node, target: &Target<'_>) -> Option<String> {
        let (kind, version) = (&self.kind, &self.api_version);
        if kind == target.kind && *version == target.api_version() {
            return None;
        }
        let scheme = Scheme::of_group(target.group);
        if target.kind != "DeleteOptions" && !scheme.knows(version, kind) {
            return Some(scheme.not_registered(version, kind));
        }
        if kind == target.kind {
            return None;
        }
        if let Some(fault) = self.fault_of_its_own(node) {
            return Some(fault);
        }
        let package = internal_package(target.group);
        let (version, wanted) = (self.split().1, target.kind);
        Some(format!("converting ({version}.{kind}) to ({package}.{wanted}): unknown conversion"))
    }

    /// A document is read as what it says it is before anyone asks whether that was wanted.
    fn fault_of_its_own(&self, node: &Node) -> Option<String> {
        let (group, version) = self.split();
        let schema = type_of_kind(group, version, &self.kind)?;
        conform(node.clone(), &schema, false, &mut Vec::new()).err().map(|it| it.to_string())
    }
}

/// Checks what a body says about itself against what the path expects.
pub fn check(node: Node, body: &[u8], target: &Target<'_>) -> Result<Node, Status> {
    let node = match node {
        Node::Null => Node::Map(Vec::new()),
        node @ Node::Map(_) => node,
        other => return Err(target.unrecognized(&no_object(&other), body)),
    };
    if let Some(fault) = mistyped(&node) {
        return Err(target.unrecognized(&unreadable(&fault), body));
    }
    let said = Said::by(&node);
    if !target.custom && said.api_version.matches('/').count() > 1 {
        let fault = format!("unexpected GroupVersion string: {}", said.api_version);
        return Err(target.unrecognized(&fault, body));
    }
    match target.custom {
        true => check_custom(&said, body, target)?,
        false => check_builtin(&said, &node, target)?,
    }
    Ok(node)
}

fn unreadable(fault: &str) -> String {
    format!("couldn't get version/kind; json parse error: {fault}")
}

fn no_object(node: &Node) -> String {
    const ENVELOPE: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
    let found = node.type_name();
    unreadable(&format!("json: cannot unmarshal {found} into Go value of type {ENVELOPE}"))
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

pub fn check_builtin(said: &Said, node: &Node, target: &Target<'_>) -> Result<(), Status> {
    let full = said.filled(target);
    let (_, version) = full.split();
    match (full.stranger(node, target), target.kind) {
        (None, "DeleteOptions") => Ok(()),
        (None, _) => match_version(&full.api_version, target),
        (Some(_), "DeleteOptions") => {
            let scheme = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";
            Err(Status::bad_request(format!(
                "no kind {:?} is registered for version {:?} in scheme {scheme:?}",
                full.kind, full.api_version
            )))
        }
        (Some(why), kind) => {
            let said = &full.kind;
            let text =
                format!("{said} in version {version:?} cannot be handled as a {kind}: {why}");
            Err(Status::bad_request(text))
        }
    }
}

/// What a patched document is to be read as.
pub enum Patched {
    /// An object of the target.
    Object(Node),
    /// Without version and kind it is taken for upstream's internal type, which has no JSON names.
    Nothing(Vec<String>),
}

/// Checks what a patched document says about itself; the words are the same as for a body.
pub fn check_patched(node: Node, target: &Target<'_>) -> Result<Patched, String> {
    let Node::Map(entries) = &node else { return Err(no_object(&node)) };
    if let Some(fault) = mistyped(&node) {
        return Err(unreadable(&fault));
    }
    let said = Said::by(&node);
    if said.kind.is_empty() && said.api_version.is_empty() {
        return Ok(Patched::Nothing(entries.iter().map(|(name, _)| name.clone()).collect()));
    }
    let full = said.filled(target);
    match full.stranger(&node, target) {
        Some(why) => Err(why),
        None if full.api_version == target.api_version() => Ok(Patched::Object(node)),
        None => {
            let scheme = Scheme::of_group(target.group);
            Err(scheme.not_registered(&full.api_version, &full.kind))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Format, decode};

    #[test]
    fn a_version_has_one_group_at_most() {
        let target = Target::known("", "v1", "ConfigMap").expect("served");
        let body = br#"{"apiVersion":"a/b/c","kind":"ConfigMap"}"#;
        let refused = decode(body, Format::Json, &target).expect_err("no version");
        assert_eq!(
            refused.message,
            "the object provided is unrecognized (must be of type ConfigMap): unexpected GroupVersion string: a/b/c ({\"apiVersion\":\"a/b/c\",\"kind\":\" ...)"
        );
    }
}
