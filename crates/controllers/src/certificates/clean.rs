//! How long a request is kept, by what became of it.
//!
//! Counterpart: `pkg/controller/certificates/cleaner`. Differs from upstream: nothing polls, the deadline is known.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{certificate, conditions};

const SETTLED: SignedDuration = SignedDuration::from_hours(1);
const OPEN: SignedDuration = SignedDuration::from_hours(24);

/// When a request is to go; never, if it cannot be told how old it is.
pub struct Age {
    pub deadline: Option<Timestamp>,
}

pub fn age(request: &CertificateSigningRequest) -> Age {
    let issued = certificate(request).is_some_and(|bytes| !bytes.is_empty());
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let pending = created.filter(|_| conditions(request).is_empty()).map(|at| at + OPEN);
    let settled = conditions(request).iter().filter_map(|condition| {
        let at = condition.last_update_time.as_ref()?.0;
        match (condition.type_.as_str(), issued) {
            ("Approved", false) => Some(at + OPEN),
            ("Approved", true) | ("Denied" | "Failed", _) => Some(at + SETTLED),
            _ => None,
        }
    });
    let expired = certificate(request).and_then(expiry);
    Age { deadline: settled.chain(pending).chain(expired).min() }
}

fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn a_request_goes_an_hour_after_it_is_settled_and_a_day_after_it_is_not() {
        let deadline = |status: &str| {
            let text = format!(
                "{{metadata: {{name: r, creationTimestamp: '2026-01-01T00:00:00Z'}}, \
                 spec: {{request: '', signerName: s, usages: []}}, status: {status}}}"
            );
            age(&yaml(&text)).deadline.expect("a deadline").to_string()
        };
        let condition = |of: &str| {
            format!("{{type: {of}, status: 'True', lastUpdateTime: '2026-01-01T05:00:00Z'}}")
        };
        assert_eq!(deadline("{}"), "2026-01-02T00:00:00Z");
        for (of, at) in [
            ("Denied", "2026-01-01T06:00:00Z"),
            ("Failed", "2026-01-01T06:00:00Z"),
            ("Approved", "2026-01-02T05:00:00Z"),
        ] {
            assert_eq!(deadline(&format!("{{conditions: [{}]}}", condition(of))), at, "{of}");
        }
        let issued = format!("{{certificate: YQ==, conditions: [{}]}}", condition("Approved"));
        assert_eq!(deadline(&issued), "2026-01-01T06:00:00Z");
    }
}
