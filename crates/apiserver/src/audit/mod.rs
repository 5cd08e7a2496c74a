//! Audit: who did what, when, and what came of it, as a policy asks.
//!
//! A request and its answer -> events of `audit.k8s.io/v1`, one per stage, in the [`log`]. A [`Trail`] goes along with a
//! request that is recorded; stages of the path add what they know. Counterpart: `pkg/audit` and `endpoints/filters/audit.go`.
//! Differs from upstream: a request's object is recorded as it was sent, before defaults.
//! Invariant: no request waits for an event to be written; without a policy a request pays one look at an `Option`.

pub mod log;
pub mod policy;
pub mod record;
mod trail;

use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderMap, Uri};

use crate::metrics::exposition::Exposition;
use crate::request_info::RequestInfo;
use crate::user::UserInfo;
use log::{Log, LogTerms};
use policy::{Level, Policy, PolicyError};
pub use trail::{Ending, Trail};

/// What is recorded, and where.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    pub policy: PathBuf,
    pub log: LogTerms,
}

pub struct Audit {
    policy: Policy,
    log: Arc<Log>,
    written: std::sync::atomic::AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("audit log {}: {source}", .path.display())]
    Log { path: PathBuf, source: std::io::Error },
}

// === impl Audit ===

impl Audit {
    pub fn open(config: &AuditConfig) -> Result<Audit, AuditError> {
        let policy = Policy::read(&config.policy)?;
        let failed = |source| AuditError::Log { path: config.log.path.clone(), source };
        let log = Log::open(config.log.clone()).map_err(failed)?;
        Ok(Audit { policy, log: Arc::new(log), written: Default::default() })
    }

    /// A trail for the request, if it is to be recorded.
    pub fn begin(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        asked: &Asked<'_>,
    ) -> Option<Arc<Trail>> {
        let terms = self.policy.terms(user, info);
        if terms.level == Level::None {
            return None;
        }
        self.written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(Arc::new(Trail::new(self.log.clone(), terms, user, info, asked)))
    }

    pub fn expose(&self, out: &mut Exposition) {
        out.single(
            "apiserver_audit_event_total",
            "counter",
            "[ALPHA] Counter of audit events generated and sent to the audit backend.",
            self.written.load(std::sync::atomic::Ordering::Relaxed),
        );
        let name = "apiserver_audit_error_total";
        out.family(name, "counter", "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.");
        out.sample(name, "plugin=\"log\"", self.log.dropped());
    }
}

/// A request as it arrived.
pub struct Asked<'a> {
    pub id: &'a str,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub peer: Option<std::net::IpAddr>,
}
