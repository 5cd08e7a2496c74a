//! The Lease that tells of this API server, and the end of such Leases whose servers are gone.
//!
//! Host name -> `kube-system/apiserver-<hash>`, made anew at each start, renewed while the server runs, deleted on the way
//! down. With each renewal the Leases of all API servers are looked at, and expired ones deleted. Counterpart: the identity
//! lease controller of `pkg/controlplane/apiserver` and `pkg/controlplane/controller/apiserverleasegc`.
//! Differs from upstream: renewed every twenty minutes of the hour it is good for, not every ten seconds.
//! Invariant: nothing is deleted that was renewed since it was read.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_api::meta::meta;
use skiff_api::{Status, time};

use crate::objects;
use crate::path::{self, Caller};
use crate::server::Server;
use crate::user::UserInfo;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const REGISTRY: &str = "leases/kube-system/";
/// Says of which component a Lease tells.
const COMPONENT_LABEL: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";
const LEASE_SECONDS: u64 = 3600;
/// Two renewals may fail before the lease ends.
const RENEW_EVERY: Duration = Duration::from_secs(LEASE_SECONDS / 3);
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Until `shutdown`. `host` is the machine's own name.
pub async fn keep(server: Arc<Server>, host: &str, shutdown: impl Future<Output = ()>) {
    let lease = IdentityLease::new(server, host);
    let mut shutdown = pin!(shutdown);
    // What a server that was killed left behind tells of nobody.
    lease.give_up().await;
    loop {
        let wait = match lease.renew().await {
            Ok(()) => {
                lease.collect_expired().await;
                RENEW_EVERY
            }
            Err(code) => {
                tracing::warn!(%code, "the API server's lease is not renewed");
                RETRY_AFTER
            }
        };
        tokio::select! {
            () = &mut shutdown => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    lease.give_up().await;
}

struct IdentityLease<'a> {
    server: Arc<Server>,
    name: String,
    host: &'a str,
    /// This run of the server.
    holder: String,
}

// === impl IdentityLease ===

impl<'a> IdentityLease<'a> {
    fn new(server: Arc<Server>, host: &'a str) -> IdentityLease<'a> {
        let name = name(host);
        let holder = format!("{name}_{}", uuid::Uuid::new_v4());
        IdentityLease { server, name, host, holder }
    }

    async fn renew(&self) -> Result<(), StatusCode> {
        let mut lease = json!({
            "metadata": { "labels": { COMPONENT_LABEL: COMPONENT, "kubernetes.io/hostname": self.host } },
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": time::format_micro(Timestamp::now().as_microsecond()),
            },
        });
        match self.send(Method::PATCH, &format!("{PATH}/{}", self.name), &lease).await {
            Err(StatusCode::NOT_FOUND) => {
                lease["metadata"]["name"] = self.name.as_str().into();
                self.send(Method::POST, PATH, &lease).await
            }
            renewed => renewed,
        }
    }

    async fn give_up(&self) {
        self.delete(&self.name, &json!({})).await;
    }

    async fn collect_expired(&self) {
        let leases = match objects::all(&self.server, REGISTRY).await {
            Ok(leases) => leases,
            Err(Status { message, .. }) => {
                return tracing::warn!(message, "the API servers' leases cannot be read");
            }
        };
        let now = Timestamp::now().as_microsecond();
        for lease in leases.iter().filter(|lease| is_expired_identity(lease, now)) {
            let meta = meta(lease);
            let read = json!({ "uid": meta.uid(), "resourceVersion": meta.resource_version() });
            self.delete(meta.name(), &json!({ "preconditions": read })).await;
        }
    }

    /// That it is gone or has changed is no fault: others look after these leases too.
    async fn delete(&self, name: &str, options: &Value) {
        let deleted = self.send(Method::DELETE, &format!("{PATH}/{name}"), options).await;
        match deleted {
            Ok(()) | Err(StatusCode::NOT_FOUND | StatusCode::CONFLICT) => {}
            Err(code) => tracing::warn!(%code, name, "an API server's lease cannot be deleted"),
        }
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<(), StatusCode> {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(USER_AGENT, COMPONENT)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("the names of leases that are stored are good in a path");
        let caller = Caller::Known(UserInfo::system("system:apiserver"));
        let answer = path::handle(self.server.clone(), caller, request).await;
        match answer.status() {
            code if code.is_success() => Ok(()),
            code => Err(code),
        }
    }
}

// === decisions ===

/// Upstream's name for the API server of a host: a hash of host and component, each behind its length.
fn name(host: &str) -> String {
    let mut hash = Sha256::new();
    for part in [host, COMPONENT] {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        hash.update(length.to_be_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let half = hash.first_chunk().expect("SHA-256 has 32 bytes");
    format!("apiserver-{}", base32(u128::from_be_bytes(*half)))
}

/// RFC 4648, in small letters and without padding.
fn base32(bits: u128) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // 26 times five bits are two more than there are.
    let digit = |at: u32| match at {
        25 => bits << 2,
        _ => bits >> (123 - 5 * at),
    };
    (0..26).map(|at| char::from(ALPHABET[(digit(at) & 31) as usize])).collect()
}

/// Whether a lease tells of an API server that has not renewed it in time; one that says no time was never good.
fn is_expired_identity(lease: &Value, now: i64) -> bool {
    let spec = &lease["spec"];
    let renewed = spec["renewTime"].as_str().and_then(|text| time::parse_micro(text).ok());
    let until = renewed
        .zip(spec["leaseDurationSeconds"].as_i64())
        .map(|(renewed, seconds)| renewed.saturating_add(seconds.saturating_mul(1_000_000)));
    meta(lease).label(COMPONENT_LABEL) == Some(COMPONENT) && until.is_none_or(|until| until < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_name_that_upstream_gives_it() {
        assert_eq!(name("node"), "apiserver-nz4d7rk4anfwpugpkv4yv5ymby");
        assert_eq!(name("web-1.example.com"), "apiserver-zsanksjpp7a45a2ysjdzdvugtq");
    }

    #[test]
    fn only_identities_that_were_not_renewed_in_time_have_expired() {
        let now = time::parse_micro("2026-01-01T01:00:00Z").unwrap();
        let lease = |component: &str, spec: Value| json!({ "metadata": { "labels": { COMPONENT_LABEL: component } }, "spec": spec });
        let good = |renewed: &str| json!({ "leaseDurationSeconds": 3600, "renewTime": renewed });
        let cases = [
            (lease(COMPONENT, good("2025-12-31T23:59:59.999999Z")), true),
            (lease(COMPONENT, good("2026-01-01T00:00:00.000000Z")), false),
            (lease(COMPONENT, good("2026-01-01T02:00:00.000000Z")), false),
            (lease(COMPONENT, json!({ "renewTime": "2026-01-01T00:59:59.000000Z" })), true),
            (lease(COMPONENT, json!({ "leaseDurationSeconds": 3600 })), true),
            (lease(COMPONENT, Value::Null), true),
            (lease("other-apiserver", Value::Null), false),
            (json!({ "spec": good("2025-12-31T22:00:00.000000Z") }), false),
        ];
        for (lease, expired) in cases {
            assert_eq!(is_expired_identity(&lease, now), expired, "{lease}");
        }
    }
}
