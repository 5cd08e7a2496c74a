//! Priority and fairness: which requests are served now, which wait, which are turned away.
//!
//! User + [`RequestInfo`] -> FlowSchema -> priority level -> [`Admitted`] (seats until dropped) or 429. Stands between
//! authentication and authorisation, so that a flood costs little. Counterpart: `pkg/util/flowcontrol` and
//! `filters/priority-and-fairness.go`.
//!
//! Differs from upstream: a list is as wide as the pages it asks for, other requests take one seat; unused seats are lent
//! the moment someone must wait (at most once a second) instead of every ten seconds whether or not anyone does.
//! Invariant: a request that finds a free seat pays for one look at the schemas and one uncontended lock.

mod config;
mod counts;
mod dealer;
mod dumps;
mod lending;
mod level;
mod matching;
mod settle;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use crate::metrics::exposition::Exposition;
use crate::query::Query;
use crate::reply::{Body, with_type};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;
use config::{Config, Schema};
use level::{Asked, Ticket};

pub use dumps::dump;
pub use settle::{GROUP, settle};

pub struct FlowControl {
    config: ArcSwap<Config>,
    /// What all levels that have limits share.
    seats: usize,
    shared_out: Mutex<Instant>,
    /// Held while objects are read and taken over, so that an older state never replaces a newer one.
    settling: tokio::sync::Mutex<()>,
}

/// Seats for one request, and what its answer says about them.
pub struct Admitted {
    _ticket: Ticket,
    schema: Arc<Schema>,
}

/// Turned away.
pub struct Refused {
    schema: Option<Arc<Schema>>,
}

/// A quarter of the time a request may take.
const PATIENCE: Duration = Duration::from_secs(15);
const SHARE_OUT_EVERY: Duration = Duration::from_secs(1);
const ITEMS_PER_SEAT: i64 = 100;
const MOST_SEATS: usize = 10;
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

// === impl FlowControl ===

impl FlowControl {
    /// Knows the objects that every cluster starts with; [`settle`] brings those of this one.
    pub fn new(seats: usize) -> FlowControl {
        let flow_control = FlowControl {
            config: ArcSwap::default(),
            seats,
            shared_out: Mutex::new(Instant::now()),
            settling: tokio::sync::Mutex::default(),
        };
        let (schemas, levels) = settle::defaults();
        flow_control.reconfigure(&schemas, &levels);
        flow_control
    }

    fn reconfigure(&self, schemas: &[Value], levels: &[Value]) {
        let config = Config::read(&self.config.load(), schemas, levels, self.seats);
        config.share_out();
        self.config.store(Arc::new(config));
    }

    /// Streams other than watches hold no seat; watches until they have begun.
    pub async fn admit(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Option<Admitted>, Refused> {
        if info.is_long_running() && info.verb != "watch" {
            return Ok(None);
        }
        let config = self.config.load_full();
        let schema = config.classify(user, info).cloned().ok_or(Refused { schema: None })?;
        let asked = Asked {
            counts: &schema.counts,
            distinguisher: schema.distinguisher(user, info),
            seats: width(info, query),
            patience: PATIENCE,
        };
        let ticket = match schema.level.try_enter(&asked) {
            Some(ticket) => Ok(ticket),
            None => {
                self.share_out(&config);
                schema.level.enter(asked).await
            }
        };
        match ticket {
            Ok(ticket) => Ok(Some(Admitted { _ticket: ticket, schema })),
            Err(why) => {
                schema.counts.reject(why);
                Err(Refused { schema: Some(schema) })
            }
        }
    }

    /// Someone must wait: maybe others have seats to spare.
    fn share_out(&self, config: &Config) {
        let mut last = self.shared_out.lock().expect("no panic while held");
        if last.elapsed() >= SHARE_OUT_EVERY {
            *last = Instant::now();
            config.share_out();
        }
    }

    pub fn expose(&self, out: &mut Exposition) {
        let config = self.config.load();
        let counts: Vec<_> = config.schemas.iter().map(|schema| schema.counts.clone()).collect();
        counts::expose(&counts, out);
        dumps::expose(&config, out);
    }
}

/// Seats a request takes. Differs from upstream, which also counts stored objects and the watchers a write wakes.
fn width(info: &RequestInfo, query: &Query) -> usize {
    if info.verb != "list" {
        return 1;
    }
    let limit = query.text("limit").parse().unwrap_or(0_i64).max(0);
    usize::try_from(limit / ITEMS_PER_SEAT).unwrap_or(MOST_SEATS).clamp(1, MOST_SEATS)
}

// === impl Admitted ===

impl Admitted {
    pub fn mark(&self, headers: &mut HeaderMap) {
        mark(&self.schema, headers);
    }
}

fn mark(schema: &Schema, headers: &mut HeaderMap) {
    headers.insert(SCHEMA_UID, schema.uid.clone());
    headers.insert(LEVEL_UID, schema.level_uid.clone());
}

// === impl Refused ===

impl Refused {
    pub fn response(&self) -> Response<Body> {
        let text = "Too many requests, please try again later.\n";
        let mut response =
            with_type(StatusCode::TOO_MANY_REQUESTS, "text/plain; charset=utf-8", text.into());
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        if let Some(schema) = &self.schema {
            mark(schema, headers);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn info(path: &str) -> (RequestInfo, Query) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query = Query::parse(query);
        (RequestInfo::read(&Method::GET, path, &query), query)
    }

    async fn admitted(flow_control: &FlowControl, user: &UserInfo, path: &str) -> String {
        let (info, query) = info(path);
        match flow_control.admit(user, &info, &query).await {
            Ok(Some(admitted)) => admitted.schema.name.clone(),
            Ok(None) => "none".to_owned(),
            Err(_) => "refused".to_owned(),
        }
    }

    #[tokio::test]
    async fn requests_go_to_the_schemas_they_go_to_upstream() {
        let flow_control = FlowControl::new(600);
        let everyone = "system:authenticated";
        let masters = UserInfo::system("admin");
        let node = UserInfo::new("system:node:n", &["system:nodes", everyone]);
        let account = UserInfo::service_account("default", "x");
        for (user, path, expected) in [
            (&masters, "/api/v1/pods", "exempt"),
            (&UserInfo::anonymous(), "/healthz", "probes"),
            (&UserInfo::anonymous(), "/api/v1/pods", "global-default"),
            (&UserInfo::new("stray", &[]), "/api/v1/pods", "catch-all"),
            (&node, "/api/v1/nodes/n", "system-node-high"),
            (&node, "/api/v1/pods", "system-nodes"),
            (&account, "/api/v1/pods", "service-accounts"),
            (
                &UserInfo::service_account("kube-system", "x"),
                "/api/v1/pods",
                "kube-system-service-accounts",
            ),
            (&UserInfo::new("ann", &[everyone]), "/api/v1/pods", "global-default"),
            (&account, "/api/v1/namespaces/x/pods/p/exec", "none"),
        ] {
            assert_eq!(admitted(&flow_control, user, path).await, expected, "{} {path}", user.name);
        }
    }

    #[test]
    fn only_long_lists_are_wide() {
        for (path, seats) in [
            ("/api/v1/pods", 1),
            ("/api/v1/pods?limit=500", 5),
            ("/api/v1/pods?limit=100000", 10),
            ("/api/v1/namespaces/x/pods/p?limit=500", 1),
        ] {
            let (info, query) = info(path);
            assert_eq!(width(&info, &query), seats, "{path}");
        }
    }
}
