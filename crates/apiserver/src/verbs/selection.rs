//! What a list, watch or deletecollection is about: selectors, revisions, limits, and pages.
//!
//! Query -> [`Selection`]. Counterpart: `internalversion.ListOptions` and its validation.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use skiff_api::field::{ErrorList, Path};
use skiff_api::selector::{Fields, Labels, Scanner};
use skiff_api::{GroupKind, KindDef, Status};
use skiff_store::{KeyRange, Revision};

use crate::call::Call;
use crate::query::Query;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        let version = query.text("resourceVersion");
        let asked = revision(version)?;
        Ok(match (query.text("resourceVersionMatch"), asked) {
            ("Exact", asked) => AtRevision::Exact(Revision(asked)),
            (_, 0) => AtRevision::Newest,
            (_, asked) => AtRevision::NotOlderThan(Revision(asked)),
        })
    }
}

/// Faults of list options, all at once.
pub fn check_list_options(query: &Query, watch: bool) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let matching = Path::new("resourceVersionMatch");
    let (version, rule) = (query.text("resourceVersion"), query.text("resourceVersionMatch"));
    let initial = query.optional_flag("sendInitialEvents");
    if watch {
        check_watch_options(query, initial, &mut errors);
    } else {
        if initial.is_some() {
            errors.forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            );
        }
        if !rule.is_empty() {
            if version.is_empty() {
                errors.forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if query.has("continue") && !query.text("continue").is_empty() {
                errors.forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if !matches!(rule, "Exact" | "NotOlderThan") {
                errors.not_supported(&matching, rule, &["Exact", "NotOlderThan"]);
            }
            if rule == "Exact" && version == "0" {
                errors.forbidden(
                    &matching,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
    }
    refuse(errors)
}

fn check_watch_options(query: &Query, initial: Option<bool>, errors: &mut ErrorList) {
    let matching = Path::new("resourceVersionMatch");
    let rule = query.text("resourceVersionMatch");
    const WANTED: &str = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    match initial {
        Some(_) if rule.is_empty() => errors.forbidden(&matching, WANTED),
        Some(_) if rule != "NotOlderThan" => {
            errors.forbidden(&matching, WANTED);
            errors.not_supported(&matching, rule, &["NotOlderThan"]);
        }
        None if !rule.is_empty() => {
            errors.forbidden(
                &matching,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        _ => {}
    }
    if initial.is_some() && !query.text("continue").is_empty() {
        errors.forbidden(&matching, "resourceVersionMatch is forbidden when continue is provided");
    }
}

fn refuse(errors: ErrorList) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", errors)),
    }
}

/// A resource version as a number; empty is 0.
pub fn revision(text: &str) -> Result<u64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    let refusal =
        || format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
    text.parse().map_err(|_| Status::bad_request(refusal()))
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
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_string(self).expect("plain data"))
    }

    pub fn decode(text: &str) -> Result<ContinueToken, Status> {
        let bad = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes =
            BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| bad(&base64_fault(&error)))?;
        let token: ContinueToken =
            serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
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
                Err(bad(&format!("server does not recognize this encoded version {other:?}")))
            }
        }
    }
}

/// What Go's decoder says.
fn base64_fault(error: &base64::DecodeError) -> String {
    match error {
        base64::DecodeError::InvalidByte(at, _) => {
            format!("illegal base64 data at input byte {at}")
        }
        other => other.to_string(),
    }
}

/// A made-up token must not lead to keys of other kinds.
fn leaves_collection(start: &str) -> bool {
    start.starts_with('/') || start.split('/').any(|step| step == ".." || step == ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_out_and_back() {
        let token = ContinueToken::new(Revision(42), "default/a\0");
        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
        assert_eq!(ContinueToken::decode("!!").unwrap_err().code, 400);
    }
}
