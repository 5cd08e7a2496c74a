//! CertificateRequester: a certificate request says who made it, whatever its body claims.
//!
//! Counterpart: `pkg/registry/certificates/certificates/strategy.go` `PrepareForCreate`, which reads the user from the context.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{Plugin, Request};

pub struct CertificateRequester;

#[async_trait]
impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("certificates.k8s.io", "certificatesigningrequests")
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let user = request.user;
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["username", "uid", "groups", "extra"] {
                spec.remove(field);
            }
            spec.insert("username".to_owned(), user.name.clone().into());
            if !user.uid.is_empty() {
                spec.insert("uid".to_owned(), user.uid.clone().into());
            }
            if !user.groups.is_empty() {
                spec.insert("groups".to_owned(), json!(user.groups));
            }
            if !user.extra.is_empty() {
                spec.insert("extra".to_owned(), json!(user.extra));
            }
        }
        Ok(())
    }
}
