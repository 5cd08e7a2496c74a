//! Who was let in, and what watches were told.
//!
//! Counterparts: `endpoints/filters/metrics.go` and `handlers/watch.go`. Invariant: label values are a closed set or served
//! resources.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::exposition::Exposition;
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

#[derive(Default)]
pub struct Access {
    authenticated: AtomicU64,
    unauthenticated: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
    /// By place in [`USERS`].
    users: [AtomicU64; USERS.len()],
    watch_events: Mutex<BTreeMap<Watched, Arc<AtomicU64>>>,
}

type Watched = (String, String, String);

/// Names that are told apart; everyone else is the last.
const USERS: [&str; 6] = [
    "admin",
    "client",
    "kube_proxy",
    "kubelet",
    "system:serviceaccount:kube-system:default",
    "other",
];

// === impl Access ===

impl Access {
    /// Who was found to ask; none if the credentials were refused.
    pub fn authenticated(&self, user: Option<&UserInfo>) {
        let Some(user) = user else {
            self.unauthenticated.fetch_add(1, Relaxed);
            return;
        };
        self.authenticated.fetch_add(1, Relaxed);
        let at = USERS.iter().position(|name| *name == user.name).unwrap_or(USERS.len() - 1);
        self.users[at].fetch_add(1, Relaxed);
    }

    pub fn authorized(&self, allowed: bool) {
        let counter = if allowed { &self.allowed } else { &self.denied };
        counter.fetch_add(1, Relaxed);
    }

    /// The counter of one resource's events; asked for once per watch.
    pub fn watch_events(&self, info: &RequestInfo) -> Arc<AtomicU64> {
        let watched = (info.group.clone(), info.version.clone(), info.resource.clone());
        self.watch_events.lock().expect("no panic while held").entry(watched).or_default().clone()
    }

    pub fn expose(&self, out: &mut Exposition) {
        let pairs = |out: &mut Exposition, name: &str, help: &str, of: [(&str, &AtomicU64); 2]| {
            out.family(name, "counter", help);
            for (result, count) in of {
                out.sample(name, &format!("result=\"{result}\""), count.load(Relaxed));
            }
        };
        pairs(
            out,
            "authentication_attempts",
            "[ALPHA] Counter of authenticated attempts.",
            [("success", &self.authenticated), ("failure", &self.unauthenticated)],
        );
        pairs(
            out,
            "authorization_attempts_total",
            "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
            [("allowed", &self.allowed), ("denied", &self.denied)],
        );
        let name = "authenticated_user_requests";
        out.family(
            name,
            "counter",
            "[ALPHA] Counter of authenticated requests broken out by username.",
        );
        for (user, count) in
            USERS.iter().zip(&self.users).filter(|(_, count)| count.load(Relaxed) > 0)
        {
            out.sample(name, &format!("username=\"{user}\""), count.load(Relaxed));
        }
        self.expose_watches(out);
    }

    fn expose_watches(&self, out: &mut Exposition) {
        let name = "apiserver_watch_events_total";
        out.family(name, "counter", "[ALPHA] Number of events sent in watch clients");
        for ((group, version, resource), count) in
            self.watch_events.lock().expect("no panic while held").iter()
        {
            let labels = format!("group=\"{group}\",resource=\"{resource}\",version=\"{version}\"");
            out.sample(name, &labels, count.load(Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_all_names_share_one_series() {
        let access = Access::default();
        for name in ["admin", "ann", "bob"] {
            access.authenticated(Some(&UserInfo::new(name, &[])));
        }
        access.authenticated(None);
        let mut out = Exposition::default();
        access.expose(&mut out);
        let text = out.into_text();
        for line in [
            "authenticated_user_requests{username=\"admin\"} 1",
            "authenticated_user_requests{username=\"other\"} 2",
            "authentication_attempts{result=\"failure\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}: {text}");
        }
    }
}
