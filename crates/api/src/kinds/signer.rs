//! What can be wrong with the name of a signer: `example.com/signer-name`.
//!
//! Counterpart: `ValidateSignerName` in `pkg/apis/core/validation`.

use super::at::At;
use crate::field::ErrorList;
use crate::validation::{DNS_SUBDOMAIN_MAX, dns_label, dns_subdomain};

/// A domain, and a path that can hold a label and a subdomain.
const LONGEST: usize = DNS_SUBDOMAIN_MAX + 1 + 63 + 1 + DNS_SUBDOMAIN_MAX;

pub fn validate_signer_name(signer: &At, errors: &mut ErrorList) {
    if !signer.needed(errors) {
        return;
    }
    let [domain, path] = signer.text().split('/').collect::<Vec<_>>()[..] else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return signer.invalid(errors, detail);
    };
    if domain.len() > DNS_SUBDOMAIN_MAX {
        errors.too_long(&signer.path, DNS_SUBDOMAIN_MAX);
    }
    first_fault(signer, domain, dns_label, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        signer.invalid_as(errors, domain, detail);
    }
    first_fault(signer, path, dns_subdomain, errors);
    if signer.text().len() > LONGEST {
        errors.too_long(&signer.path, LONGEST);
    }
}

/// The faults of the first faulty part between dots.
fn first_fault(signer: &At, dotted: &str, rule: fn(&str) -> Vec<String>, errors: &mut ErrorList) {
    let Some(faulty) = dotted.split('.').find(|label| !rule(label).is_empty()) else { return };
    for fault in rule(faulty) {
        signer.invalid_as(errors, dotted, format!("validating label {faulty:?}: {fault}"));
    }
}
