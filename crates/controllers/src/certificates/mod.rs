//! Certificates asked for through the API: approved if the asker may, signed with the cluster's CA, cleaned up in the end.
//!
//! CertificateSigningRequests in; conditions, certificates and deletions out. One controller does what upstream's approver,
//! signer and cleaner do, as they act under one name. Counterpart: `pkg/controller/certificates/{approver,signer,cleaner}`.
//! Invariant: nothing is signed that is not approved, and nobody's word but a SubjectAccessReview's approves.

mod approve;
mod clean;
mod request;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};
use request::Asked;

pub use sign::{CertificateSigner, CertificateTerms};

pub const DEF: ControllerDef = ControllerDef {
    name: "certificate-controller",
    workers: 2,
    watches: |edges| edges.primary::<CertificateSigningRequest>(),
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// A right to be approved may come later than the request.
const ASK_AGAIN: Duration = Duration::from_secs(60);

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(request) = ctx.lister::<CertificateSigningRequest>().get(&key) else {
        return Ok(Action::Done);
    };
    let (age, now) = (clean::age(&request), ctx.now());
    if age.deadline.is_some_and(|at| at <= now) {
        ctx.delete(&*request).await?;
        return Ok(Action::Done);
    }
    let acted = match State::of(&request) {
        State::Pending => approve::run(&ctx, &request).await?,
        State::Approved => sign::run(&ctx, &request).await?,
        State::Settled => true,
    };
    let until_deadline = age.deadline.map(|at| at.duration_since(now).unsigned_abs());
    Ok(match (acted, until_deadline) {
        (false, _) => Action::After(ASK_AGAIN),
        (true, Some(wait)) => Action::After(wait),
        (true, None) => Action::Done,
    })
}

/// Where a request stands.
#[derive(Debug, PartialEq)]
enum State {
    /// Nobody has decided.
    Pending,
    /// A certificate is to be issued.
    Approved,
    /// Denied, failed or issued.
    Settled,
}

impl State {
    fn of(request: &CertificateSigningRequest) -> State {
        let has = |wanted: &str| conditions(request).iter().any(|one| one.type_ == wanted);
        let issued = certificate(request).is_some_and(|bytes| !bytes.is_empty());
        match (has("Approved"), has("Denied") || has("Failed") || issued) {
            (_, true) => State::Settled,
            (true, false) => State::Approved,
            (false, false) => State::Pending,
        }
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    Some(&request.status.as_ref()?.certificate.as_ref()?.0)
}

/// The request with one condition more.
fn with_condition(
    request: &CertificateSigningRequest,
    of: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let status = request.status.get_or_insert_with(CertificateSigningRequestStatus::default);
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: of.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        ..CertificateSigningRequestCondition::default()
    });
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn only_what_is_approved_and_nothing_else_is_to_be_signed() {
        let state = |status: &str| {
            let request = format!(
                "{{metadata: {{name: r}}, spec: {{request: '', signerName: s, usages: []}}, status: {status}}}"
            );
            State::of(&yaml(&request))
        };
        assert_eq!(state("{}"), State::Pending);
        let approved = "{type: Approved, status: 'True'}";
        assert_eq!(state(&format!("{{conditions: [{approved}]}}")), State::Approved);
        for settled in [
            "{conditions: [{type: Denied, status: 'True'}]}".to_owned(),
            format!("{{conditions: [{approved}, {{type: Failed, status: 'True'}}]}}"),
            format!("{{conditions: [{approved}], certificate: YQ==}}"),
        ] {
            assert_eq!(state(&settled), State::Settled, "{settled}");
        }
    }
}
