//! Questions put to the server as objects that are created and never stored.
//!
//! Counterpart: `pkg/registry/authorization` and `authentication`.

mod access;
mod attributes;
mod identity;
mod rules;

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::codec::Target;
use skiff_api::field::ErrorList;
use skiff_api::{GroupKind, KindDef, Status};

use crate::call::Call;
use crate::reply::Reply;

/// The kinds that are questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    SelfSubjectAccess,
    SubjectAccess,
    LocalSubjectAccess,
    SelfSubjectRules,
    Token,
    SelfSubject,
}

const REVIEWS: &[(&str, &str, Review)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews", Review::SelfSubjectAccess),
    ("authorization.k8s.io", "subjectaccessreviews", Review::SubjectAccess),
    ("authorization.k8s.io", "localsubjectaccessreviews", Review::LocalSubjectAccess),
    ("authorization.k8s.io", "selfsubjectrulesreviews", Review::SelfSubjectRules),
    ("authentication.k8s.io", "tokenreviews", Review::Token),
    ("authentication.k8s.io", "selfsubjectreviews", Review::SelfSubject),
];

pub fn of(kind: &KindDef) -> Option<Review> {
    let found = REVIEWS
        .iter()
        .find(|(group, resource, _)| *group == kind.group && *resource == kind.resource);
    found.map(|(.., review)| *review)
}

impl Review {
    pub async fn create(self, call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
        let mut object = call.decode_order(&Target::of(&kind))?;
        if self == Review::SelfSubject {
            // Nothing is asked but who is asking: what else was sent is not looked at.
            object = json!({ "kind": object["kind"], "apiVersion": object["apiVersion"], "metadata": {} });
        }
        crate::ownership::track_review(call, &kind, &mut object)?;
        match self {
            Review::SelfSubjectAccess => access::of_self(call, &mut object).await?,
            Review::SubjectAccess => access::of_subject(call, &mut object, None).await?,
            Review::LocalSubjectAccess => {
                access::of_subject(call, &mut object, Some(&call.info.namespace)).await?
            }
            Review::SelfSubjectRules => rules::of_self(call, &mut object).await?,
            Review::Token => identity::of_token(call, &mut object).await?,
            Review::SelfSubject => identity::of_self(call, &mut object),
        }
        Ok(Reply::Object { code: StatusCode::CREATED, kind, bytes: object.to_string().into() })
    }
}

/// Upstream does not name the kind of a faulty review.
fn invalid(group: &str, errors: ErrorList) -> Status {
    let mut status = Status::invalid(&GroupKind::new(group, ""), "", errors);
    if let Some(details) = &mut status.details {
        details.kind = String::new();
    }
    status
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}
