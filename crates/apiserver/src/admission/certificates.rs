//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may decide on which certificate requests.
//!
//! Counterparts: `plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}`. Permissions are judged by the
//! signer that the stored request names, so that a change of it opens nothing.

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use skiff_api::Status;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Operation, Plugin, Request};
use crate::authz::{self, Attributes};

pub struct CertificateApproval;
pub struct CertificateSigning;
pub struct CertificateSubjectRestriction;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const SUPERUSERS: &str = "system:masters";

fn updates(request: &Request<'_>, subresource: &str) -> bool {
    request.operation == Operation::Update
        && request.kind.group == GROUP
        && request.kind.resource == RESOURCE
        && request.subresource == subresource
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        updates(request, "approval")
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        require(request, object, "approve").await
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        updates(request, "status")
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let old = request.old.unwrap_or(&Value::Null);
        let same = |field: &str| old["status"][field] == object["status"][field];
        match same("certificate") && same("conditions") {
            true => Ok(()),
            false => require(request, object, "sign").await,
        }
    }
}

/// The user may do this for the signer, or for all signers of its domain.
async fn require(request: &Request<'_>, object: &Value, verb: &str) -> Result<(), Status> {
    let old = request.old.unwrap_or(&Value::Null);
    let signer = old["spec"]["signerName"].as_str().unwrap_or("");
    let domain = signer.split('/').next().unwrap_or("");
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let attributes = Attributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: GROUP.to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        if authz::decide(request.server, request.user, &attributes).await?.is_allowed() {
            return Ok(());
        }
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(request.forbidden(object, &why))
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates(GROUP, RESOURCE)
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        if object["spec"]["signerName"] != CLIENT_SIGNER || !names_superusers(object) {
            return Ok(());
        }
        let why = format!("use of {CLIENT_SIGNER} signer with {SUPERUSERS} group is not allowed");
        Err(request.forbidden(object, &why))
    }
}

/// Whether the subject claims the group that may do everything. What cannot be read was refused by validation.
fn names_superusers(object: &Value) -> bool {
    let text = object["spec"]["request"].as_str().unwrap_or("");
    let Ok(pem) = BASE64_STANDARD.decode(text) else { return false };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return false };
    let Ok((_, parsed)) = X509CertificationRequest::from_der(&pem.contents) else { return false };
    let subject = &parsed.certification_request_info.subject;
    subject.iter_organization().any(|name| name.as_str() == Ok(SUPERUSERS))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;

    fn csr(organization: &str) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let key = KeyPair::generate().expect("a key");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        json!({ "spec": { "request": BASE64_STANDARD.encode(pem) } })
    }

    #[test]
    fn the_superuser_group_is_found_in_the_subject() {
        assert!(names_superusers(&csr(SUPERUSERS)));
        assert!(!names_superusers(&csr("developers")));
    }
}
