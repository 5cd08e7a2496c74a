//! What a list, watch or deletecollection is about: selectors, revisions, limits, and pages.
//!
//! Query -> [`Selection`]. Counterpart: `internalversion.ListOptions` and its validation.

use base64::Engine;
use base64::engine::GeneralPurpose;
use serde::Serialize;
use skiff_api::codec::{self, Node};
use skiff_api::field::{ErrorList, Path};
use skiff_api::selector::{Fields, Labels, Scanner};
use skiff_api::{GroupKind, KindDef, Reason, Status};
use skiff_store::{KeyRange, Revision};

use crate::call::Call;
use crate::query::{Query, number_fault};

pub struct Selection {
    pub labels: Labels,
    pub fields: Fields,
    /// The keys that can hold a selected object.
    pub range: KeyRange,
    /// All keys of the collection, which continue tokens are relative to.
    pub prefix: String,
}

/// Which revision a list is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtRevision {
    /// The newest; as everything here is in memory, "any" is the newest as well.
    Newest,
    NotOlderThan(Revision),
    Exact(Revision),
}

/// Where the next page begins; opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContinueToken {
    pub v: String,
    pub rv: i64,
    pub start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

// === impl Selection ===

impl Selection {
    pub fn read(call: &Call, kind: &KindDef) -> Result<Selection, Status> {
        let labels = Labels::parse(call.query.text("labelSelector"))?;
        let fields = Fields::parse(call.query.text("fieldSelector"), kind)?;
        let namespace = if kind.namespaced { call.info.namespace.as_str() } else { "" };
        let prefix = match namespace.is_empty() {
            true => kind.key_prefix.clone(),
            false => format!("{}{namespace}/", kind.key_prefix),
        };
        let name = fields.required("metadata.name").or_else(|| watched_name(call));
        let range = match name {
            Some(name) if !kind.namespaced || !namespace.is_empty() => {
                KeyRange::single(format!("{prefix}{name}"))
            }
            _ => KeyRange::prefix(prefix.as_str()),
        };
        Ok(Selection { labels, fields, range, prefix })
    }

    pub fn scanner(&self) -> Scanner<'_> {
        Scanner::new(&self.labels, &self.fields)
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

/// A watch of one object names it in the path.
fn watched_name(call: &Call) -> Option<&str> {
    (call.info.verb == "watch" && !call.info.name.is_empty()).then_some(call.info.name.as_str())
}

// === impl AtRevision ===

impl AtRevision {
    pub fn read(query: &Query) -> Result<AtRevision, Status> {
        let asked =
            revision(query.text("resourceVersion")).map_err(RevisionError::into_list_status)?;
        // A page of a revision is of exactly that one, unless the client says otherwise.
        let paged = query.int("limit")?.is_some_and(|limit| limit > 0);
        Ok(match (query.text("resourceVersionMatch"), asked) {
            ("Exact", asked) => AtRevision::Exact(Revision(asked)),
            (_, 0) => AtRevision::Newest,
            ("", asked) if paged => AtRevision::Exact(Revision(asked)),
            (_, asked) => AtRevision::NotOlderThan(Revision(asked)),
        })
    }
}

/// Faults of list options: numbers that are none first, then everything else at once.
pub fn check_list_options(query: &Query, watch: bool) -> Result<(), Status> {
    query.int("timeoutSeconds")?;
    query.int("limit")?;
    let mut errors = ErrorList::default();
    match watch {
        true => check_watch(query, &mut errors),
        false => check_list(query, &mut errors),
    }
    refuse(errors)
}

fn check_list(query: &Query, errors: &mut ErrorList) {
    let matching = Path::new("resourceVersionMatch");
    let (version, rule) = (query.text("resourceVersion"), query.text("resourceVersionMatch"));
    if !rule.is_empty() {
        if version.is_empty() {
            errors.forbidden(
                &matching,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        if !query.text("continue").is_empty() {
            errors.forbidden(&matching, MATCH_WITH_TOKEN);
        }
        if !matches!(rule, "Exact" | "NotOlderThan") {
            errors.not_supported(&matching, rule, &["Exact", "NotOlderThan", ""]);
        }
        if rule == "Exact" && version == "0" {
            errors.forbidden(
                &matching,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
    }
    if query.has("sendInitialEvents") {
        errors
            .forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
}

fn check_watch(query: &Query, errors: &mut ErrorList) {
    let matching = Path::new("resourceVersionMatch");
    let rule = query.text("resourceVersionMatch");
    let initial = query.has("sendInitialEvents");
    if initial && rule != "NotOlderThan" {
        errors.forbidden(
            &matching,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    if !rule.is_empty() && !initial {
        errors.forbidden(
            &matching,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    if !rule.is_empty() && rule != "NotOlderThan" {
        errors.not_supported(&matching, rule, &["NotOlderThan"]);
    }
    // A watch from any revision begins with the state, as if both parameters had been given.
    let from_any = !initial && matches!(query.text("resourceVersion"), "" | "0");
    if (from_any || !rule.is_empty()) && !query.text("continue").is_empty() {
        errors.forbidden(&matching, MATCH_WITH_TOKEN);
    }
}

const MATCH_WITH_TOKEN: &str = "resourceVersionMatch is forbidden when continue is provided";

fn refuse(errors: ErrorList) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", errors)),
    }
}

/// A resource version that is no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}")]
pub struct RevisionError {
    text: String,
    why: &'static str,
}

impl RevisionError {
    /// To a get or a watch; upstream gives it no reason.
    pub fn into_status(self) -> Status {
        Status::new(500, Reason::Unknown, self.to_string())
    }

    pub fn into_list_status(self) -> Status {
        Status::bad_request(format!("invalid resource version: {self}"))
    }
}

/// A resource version as a number; empty is 0.
pub fn revision(text: &str) -> Result<u64, RevisionError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|error| RevisionError { text: text.to_owned(), why: number_fault(&error) })
}

// === impl ContinueToken ===

impl ContinueToken {
    pub fn new(revision: Revision, start: &str) -> ContinueToken {
        ContinueToken {
            v: TOKEN_VERSION.to_owned(),
            rv: revision.0 as i64,
            start: start.to_owned(),
        }
    }

    pub fn encode(&self) -> String {
        UNPADDED.encode(serde_json::to_string(self).expect("plain data"))
    }

    pub fn decode(text: &str) -> Result<ContinueToken, Status> {
        let bad = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = UNPADDED.decode(text).map_err(|error| bad(&base64_fault(&error, text)))?;
        let token = ContinueToken::read(&bytes).map_err(|error| bad(&error))?;
        match (token.v.as_str(), token.rv, token.start.is_empty()) {
            (TOKEN_VERSION, 0, _) => {
                Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))
            }
            (TOKEN_VERSION, _, true) => {
                Err(bad("encoded start key empty (version meta.k8s.io/v1)"))
            }
            (TOKEN_VERSION, _, false) if leaves_collection(&token.start) => Err(bad(&token.start)),
            (TOKEN_VERSION, _, false) => Ok(token),
            (other, ..) => {
                Err(bad(&format!("server does not recognize this encoded version {other}")))
            }
        }
    }

    /// Reads the token's JSON as Go would; what is left out is empty.
    fn read(bytes: &[u8]) -> Result<ContinueToken, String> {
        let mut token = ContinueToken { v: String::new(), rv: 0, start: String::new() };
        let mistyped = |found: &Node, what: &str, wanted: &str| {
            let found = found.type_name();
            format!("json: cannot unmarshal {found} into Go {what} of type {wanted}")
        };
        let entries = match codec::parse_json(bytes).map_err(|error| error.to_string())? {
            Node::Map(entries) => entries,
            Node::Null => Vec::new(),
            other => return Err(mistyped(&other, "value", "storage.continueToken")),
        };
        for (name, value) in entries {
            let field = format!("struct field continueToken.{name}");
            match (name.as_str(), value) {
                ("v", Node::String(text)) => token.v = text,
                ("start", Node::String(text)) => token.start = text,
                ("rv", Node::Number(text)) => token.rv = text.parse().unwrap_or_default(),
                (_, Node::Null) => {}
                ("v" | "start", other) => return Err(mistyped(&other, &field, "string")),
                ("rv", other) => return Err(mistyped(&other, &field, "int64")),
                _ => {}
            }
        }
        Ok(token)
    }
}

/// Go does not mind what the last, incomplete byte holds.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    base64::engine::general_purpose::NO_PAD.with_decode_allow_trailing_bits(true),
);

/// What Go's decoder says.
fn base64_fault(error: &base64::DecodeError, text: &str) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) => *at,
        _ => text.len() / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}

/// A made-up token must not lead to keys of other kinds.
fn leaves_collection(start: &str) -> bool {
    let below = start.strip_prefix('/').unwrap_or(start);
    below.split('/').any(|step| matches!(step, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_out_and_back() {
        let token = ContinueToken::new(Revision(42), "default/a\0");
        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
        for (text, why) in [
            ("!!", "illegal base64 data at input byte 0"),
            ("x", "illegal base64 data at input byte 0"),
            ("abc", "invalid character 'i' looking for beginning of value"),
            ("ey", "unexpected end of JSON input"),
            ("e30", "server does not recognize this encoded version "),
            ("W10", "json: cannot unmarshal array into Go value of type storage.continueToken"),
            (
                "eyJ2Ijo1fQ",
                "json: cannot unmarshal number into Go struct field continueToken.v of type string",
            ),
        ] {
            let refused = ContinueToken::decode(text).unwrap_err();
            let told = format!("invalid continue token: continue key is not valid: {why}");
            assert_eq!((refused.code, refused.message), (400, told));
        }
    }
}
