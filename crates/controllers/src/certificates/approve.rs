//! Kubelets' client certificates are approved if the asker may have one.
//!
//! A pending request -> who may approve it, asked by SubjectAccessReview -> the condition `Approved`. Counterpart:
//! `pkg/controller/certificates/approver`. Invariant: a request that no recogniser knows is left to people.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::PostParams;

use super::request::NODE_CLIENT;
use super::{Asked, with_condition};
use crate::runtime::{Ctx, Error, Result};

/// A kind of request: whether it is one, the right it takes, and what is said when it is approved.
struct Recognizer {
    is: fn(&CertificateSigningRequest, &Asked) -> bool,
    subresource: &'static str,
    message: &'static str,
}

/// In the order they are asked: the narrower right first.
const RECOGNIZERS: &[Recognizer] = &[
    Recognizer {
        is: |request, asked| {
            is_node_client(request, asked)
                && request.spec.username.as_deref() == Some(&asked.common_name)
        },
        subresource: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
    },
    Recognizer {
        is: is_node_client,
        subresource: "nodeclient",
        message: "Auto approving kubelet client certificate after SubjectAccessReview.",
    },
];

fn is_node_client(request: &CertificateSigningRequest, asked: &Asked) -> bool {
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    request.spec.signer_name == NODE_CLIENT && asked.fault(NODE_CLIENT, usages).is_none()
}

/// Whether nothing is left to do for now.
pub async fn run(ctx: &Ctx, request: &CertificateSigningRequest) -> Result<bool> {
    // One that cannot be read will not be readable later.
    let Ok(asked) = Asked::read(request) else { return Ok(true) };
    let mut recognized = false;
    for recognizer in RECOGNIZERS.iter().filter(|one| (one.is)(request, &asked)) {
        recognized = true;
        if may(ctx, request, recognizer.subresource).await? {
            let approved =
                with_condition(request, "Approved", "AutoApproved", recognizer.message, ctx.now());
            ctx.update_part("approval", &approved).await?;
            return Ok(true);
        }
    }
    Ok(!recognized)
}

async fn may(ctx: &Ctx, request: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
    let reviews: Api<SubjectAccessReview> = Api::all(ctx.client.clone());
    let review = review(request, subresource);
    let answer = reviews.create(&PostParams::default(), &review).await.map_err(|source| {
        Error::Write { verb: "create", object: "subjectaccessreview".to_owned(), source }
    })?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn review(request: &CertificateSigningRequest, subresource: &str) -> SubjectAccessReview {
    let spec = &request.spec;
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(subresource.to_owned()),
                verb: Some("create".to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}
