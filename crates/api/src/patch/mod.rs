//! The three kinds of patch that change a document directly.
//!
//! Document + patch text -> document, or a [`PatchError`] that becomes upstream's Status. Server-side
//! apply is in [`crate::apply`], as it needs to know who owns what.
//! Counterpart: `apiserver/pkg/endpoints/handlers/patch.go`.

pub mod json;
pub mod merge;
pub mod strategic;

use serde_json::Value;

use crate::codec::{self, Node};
use crate::field::{ErrorList, Path};
use crate::kind::GroupKind;
use crate::status::{Reason, Status};

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no JSON or of the wrong shape.
    #[error("{0}")]
    Malformed(String),
    /// A JSON patch that does not fit the document; upstream hides the reason from the client.
    #[error("the server rejected our request due to an error in our request")]
    DoesNotApply,
    #[error("The allowed maximum operations in a JSON patch is {limit}, got {count}")]
    TooManyOperations { limit: usize, count: usize },
    /// A strategic merge patch that the schema has no sense for.
    #[error("{0}")]
    Unusable(String),
}

impl PatchError {
    pub fn into_status(self) -> Status {
        let message = self.to_string();
        match self {
            PatchError::Malformed(_) => Status::bad_request(message),
            PatchError::DoesNotApply => {
                Status::new(422, Reason::Invalid, message).with_details(Default::default())
            }
            PatchError::TooManyOperations { .. } => {
                Status::new(413, Reason::RequestEntityTooLarge, message)
            }
            PatchError::Unusable(_) => Status::new(500, Reason::Unknown, message),
        }
    }
}

/// The answer when a patched document does not fit its kind: `"" is invalid: patch: ...`.
/// `shown` is the patched document, or for a strategic patch [`go_syntax`] of the patch.
pub fn invalid_result(shown: String, error: &str) -> Status {
    let mut errors = ErrorList::default();
    errors.invalid(&Path::new("patch"), shown, error);
    let mut status = Status::invalid(&GroupKind::new("", ""), "", errors);
    if let Some(details) = &mut status.details {
        details.kind.clear();
    }
    status
}

/// A value as Go's `%v` prints it: `map[spec:map[replicas:five]]`.
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_syntax(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

fn parse(patch: &[u8]) -> Result<Node, String> {
    codec::parse_json(patch).map_err(|error| error.to_string())
}
