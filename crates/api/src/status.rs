//! The answer when something is wrong: one `metav1.Status`.
//!
//! Every error of the request path becomes a [`Status`] here, with the code, reason, details and
//! wording upstream gives. Counterpart: `apimachinery/pkg/api/errors`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::field::{ErrorList, FieldError};
use crate::internal;
use crate::kind::{GroupKind, GroupResource};

/// A `metav1.Status` of failure. As an error it prints its message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    /// Boxed: the happy path carries a `Result<_, Status>` everywhere.
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: how a list whose token expired can still go on.
    pub continue_token: Option<String>,
}

/// `metav1.StatusReason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No reason: the empty text.
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// What a webhook or an aggregated server says of its own.
    Other(String),
}

const REASONS: &[Reason] = &[
    Reason::Unknown,
    Reason::Unauthorized,
    Reason::Forbidden,
    Reason::NotFound,
    Reason::AlreadyExists,
    Reason::Conflict,
    Reason::Gone,
    Reason::Invalid,
    Reason::ServerTimeout,
    Reason::StoreReadError,
    Reason::Timeout,
    Reason::TooManyRequests,
    Reason::BadRequest,
    Reason::MethodNotAllowed,
    Reason::NotAcceptable,
    Reason::RequestEntityTooLarge,
    Reason::UnsupportedMediaType,
    Reason::InternalError,
    Reason::Expired,
    Reason::ServiceUnavailable,
];

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource, or the kind for an invalid object: upstream's quirk.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

// === impl Status ===

impl Status {
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None, continue_token: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, Reason::BadRequest, message)
    }

    pub fn unauthorized() -> Status {
        Status::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// `pods "x" is forbidden: why`.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Status {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Status::new(403, Reason::Forbidden, message).about(resource, name)
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Status {
        Status::new(404, Reason::NotFound, format!("{resource} {name:?} not found"))
            .about(resource, name)
    }

    /// No such path: what a request outside of every served resource gets.
    pub fn no_such_path() -> Status {
        Status::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }

    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::new(405, Reason::MethodNotAllowed, message).with_details(Details::default())
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Status {
        Status::new(409, Reason::AlreadyExists, format!("{resource} {name:?} already exists"))
            .about(resource, name)
    }

    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Status::new(409, Reason::Conflict, message).about(resource, name)
    }

    /// The object changed between read and write.
    pub fn modified(resource: &GroupResource, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Status::conflict(resource, name, why)
    }

    /// A resource version or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, Reason::Expired, message)
    }

    pub fn too_large(limit: usize) -> Status {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// Faults of fields: `Kind.group "name" is invalid: ...` with one cause each.
    pub fn invalid(kind: &GroupKind, name: &str, mut errors: ErrorList) -> Status {
        internal::print_values(kind, &mut errors);
        let message = format!("{kind} {name:?} is invalid: {}", joined(&errors.0));
        let details = Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes: errors.0.iter().map(Cause::from).collect(),
            ..Details::default()
        };
        Status::new(422, Reason::Invalid, message).with_details(details)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let details = Details { retry_after_seconds, ..Details::default() };
        Status::new(429, Reason::TooManyRequests, message).with_details(details)
    }

    pub fn internal(why: impl std::fmt::Display) -> Status {
        let cause = Cause { message: why.to_string(), ..Cause::default() };
        Status::new(500, Reason::InternalError, format!("Internal error occurred: {why}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, Reason::ServiceUnavailable, message)
    }

    pub fn with_details(mut self, details: Details) -> Status {
        self.details = Some(Box::new(details));
        self
    }

    fn about(self, resource: &GroupResource, name: &str) -> Status {
        self.with_details(Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        })
    }

    /// A Status that another server sent; what it leaves out is empty.
    pub fn from_value(value: &Value) -> Status {
        let text = |field: &str| value[field].as_str().unwrap_or("");
        let code = value["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let details = Details::deserialize(&value["details"]).ok();
        Status {
            code: code.unwrap_or(0),
            reason: Reason::named(text("reason")),
            message: text("message").to_owned(),
            details: details.map(Box::new),
            continue_token: None,
        }
    }

    /// The `v1` Status object, as it goes over the wire.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if self.reason != Reason::Unknown {
            value["reason"] = self.reason.as_str().into();
        }
        if let Some(token) = &self.continue_token {
            value["metadata"]["continue"] = token.as_str().into();
        }
        if let Some(details) = &self.details {
            value["details"] = serde_json::to_value(details).expect("details are plain data");
        }
        value
    }
}

// === impl Reason ===

impl Reason {
    pub fn as_str(&self) -> &str {
        match self {
            Reason::Unknown => "",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Invalid => "Invalid",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::StoreReadError => "StorageReadError",
            Reason::Timeout => "Timeout",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::InternalError => "InternalError",
            Reason::Expired => "Expired",
            Reason::ServiceUnavailable => "ServiceUnavailable",
            Reason::Other(text) => text,
        }
    }

    pub fn named(text: &str) -> Reason {
        let known = REASONS.iter().find(|reason| reason.as_str() == text);
        known.cloned().unwrap_or_else(|| Reason::Other(text.to_owned()))
    }
}

// === impl Cause ===

impl From<&FieldError> for Cause {
    fn from(error: &FieldError) -> Cause {
        Cause {
            reason: error.kind.reason().to_owned(),
            message: error.body(),
            field: error.field.clone(),
        }
    }
}

/// One error as it is, several in brackets; equal texts once, as upstream's aggregate prints them.
fn joined(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn a_foreign_status_is_read_and_written_alike() {
        let sent = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no",
            "reason": "Teapot", "code": 418, "details": { "causes": [{ "message": "short and stout" }] },
        });
        assert_eq!(Status::from_value(&sent).to_value(), sent);
        assert_eq!(Status::from_value(&json!({ "reason": "NotFound" })).reason, Reason::NotFound);
    }

    #[test]
    fn an_invalid_object_names_its_kind_and_causes() {
        let mut errors = ErrorList::default();
        errors.required(&Path::new("spec").child("selector"), "");
        let kind = GroupKind::new("apps", "Deployment");
        let status = Status::invalid(&kind, "web", errors).to_value();
        assert_eq!(
            status["message"],
            r#"Deployment.apps "web" is invalid: spec.selector: Required value"#
        );
        assert_eq!(status["details"]["causes"][0]["field"], "spec.selector");
        assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
    }
}
