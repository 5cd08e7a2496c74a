//! The admissionregistration.k8s.io group: webhooks and policies, and what both match requests by.
//!
//! Expressions are compiled when they are written, by the scope that also evaluates them.

pub mod expressions;
mod matching;
mod policy;
pub mod type_checking;
mod webhook;

use std::sync::Arc;

use crate::kind::Strategy;

pub(crate) use webhook::validate_client;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "MutatingAdmissionPolicy" => Arc::new(policy::MutatingPolicy),
        "MutatingAdmissionPolicyBinding" => Arc::new(policy::Binding { validating: false }),
        "MutatingWebhookConfiguration" => Arc::new(webhook::Configuration { mutating: true }),
        "ValidatingAdmissionPolicy" => Arc::new(policy::ValidatingPolicy),
        "ValidatingAdmissionPolicyBinding" => Arc::new(policy::Binding { validating: true }),
        "ValidatingWebhookConfiguration" => Arc::new(webhook::Configuration { mutating: false }),
        _ => return None,
    })
}
