//! Acting as someone else: `Impersonate-*` headers, each part of which must be authorised.
//!
//! Headers -> the identity asked for -> the modes that may grant it, narrowest first. A constrained mode asks twice: for
//! `impersonate-on:<mode>:<verb>` on the request itself, and for `impersonate:<mode>` on every part of the identity;
//! the unconstrained `impersonate` comes last. Counterpart: `endpoints/filters/impersonation`.
//! Differs from upstream: decisions are not cached, as one costs no more than a look-up. Invariant: the real user is
//! authorised for every single part of the identity that is taken on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use skiff_api::validation::dns_subdomain;
use skiff_api::{Reason, Status};

use crate::authz::{self, Attributes};
use crate::query::decode_segment;
use crate::server::Server;
use crate::user::{
    ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, NODE_NAME_EXTRA, NODE_USER_PREFIX,
    NODES_GROUP, PRIVILEGED_GROUP, UserInfo, split_service_account,
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const IDENTITIES: &str = "authentication.k8s.io";
/// From so many parts on, a right to all of them is looked for first.
const MANY: usize = 4;

/// The ways to become somebody else, in the order they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pod's service account as the node that the pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

/// By which mode each user last became somebody else; it is tried first, so its refusal is the one told.
#[derive(Default)]
pub struct LastModes(Mutex<HashMap<String, Mode>>);

/// So many users are remembered.
const MOST_USERS: usize = 10_000;

const MODES: &[Mode] = &[
    Mode::AssociatedNode,
    Mode::ArbitraryNode,
    Mode::ServiceAccount,
    Mode::UserInfo,
    Mode::Legacy,
];

/// The user to go on as, if the headers name one. `request` is what the request would do.
pub async fn impersonated(
    server: &Server,
    user: &UserInfo,
    headers: &HeaderMap,
    request: impl FnOnce() -> Attributes,
) -> Result<Option<UserInfo>, Status> {
    let Some(wanted) = read(headers)? else { return Ok(None) };
    let attempt = Attempt { server, user, wanted: &wanted, request: request() };
    let last_modes = &server.authn.impersonations;
    let last = last_modes.of(&user.name);
    let others = MODES.iter().copied().filter(|mode| Some(*mode) != last);
    let mut refusal = None;
    for mode in last.into_iter().chain(others).filter(|mode| mode.fits(&wanted, user)) {
        match attempt.check(mode).await {
            Ok(()) => {
                last_modes.remember(&user.name, mode);
                return Ok(Some(complete(mode, wanted)));
            }
            Err(status) => refusal = refusal.or(Some(status)),
        }
    }
    Err(refusal.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// The identity as the headers spell it.
fn read(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.map(str::to_owned).collect()
    };
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys().filter(|header| header.as_str().starts_with(EXTRA_PREFIX)) {
        let key = decode_segment(&header.as_str()[EXTRA_PREFIX.len()..]);
        extra.entry(key).or_default().extend(texts(header.as_str()));
    }
    let wanted = UserInfo { name: first(USER), uid: first(UID), groups: texts(GROUP), extra };
    match wanted.name.is_empty() {
        true if wanted == UserInfo::default() => Ok(None),
        true => Err(Status::bad_request(format!(
            "requested {} without impersonating a user name",
            go_syntax(&wanted)
        ))),
        false => Ok(Some(wanted)),
    }
}

/// A user as Go prints the struct it is upstream.
fn go_syntax(user: &UserInfo) -> String {
    let list = |texts: &[String]| {
        let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
        format!("{{{}}}", quoted.join(", "))
    };
    let groups = match user.groups.is_empty() {
        true => "[]string(nil)".to_owned(),
        false => format!("[]string{}", list(&user.groups)),
    };
    let entries: Vec<String> = user
        .extra
        .iter()
        .map(|(key, values)| format!("{key:?}:[]string{}", list(values)))
        .collect();
    let extra = match entries.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => format!("map[string][]string{{{}}}", entries.join(", ")),
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        user.name, user.uid
    )
}

/// Adds the groups that come with a name.
fn complete(mode: Mode, mut wanted: UserInfo) -> UserInfo {
    if mode != Mode::Legacy && node_of(&wanted.name).is_some() {
        wanted.groups = vec![NODES_GROUP.to_owned()];
    }
    if let Some((namespace, name)) = split_service_account(&wanted.name)
        && wanted.groups.is_empty()
    {
        let mut groups = UserInfo::service_account(namespace, name).groups;
        groups.retain(|group| group != ALL_AUTHENTICATED);
        wanted.groups = groups;
    }
    let implied = match wanted.name == ANONYMOUS {
        true => Some(ALL_UNAUTHENTICATED),
        false => (!wanted.is_in(ALL_UNAUTHENTICATED)).then_some(ALL_AUTHENTICATED),
    };
    if let Some(group) = implied.filter(|group| !wanted.is_in(group)) {
        wanted.groups.push(group.to_owned());
    }
    wanted
}

fn node_of(user: &str) -> Option<&str> {
    let name = user.strip_prefix(NODE_USER_PREFIX)?;
    dns_subdomain(name).is_empty().then_some(name)
}

// === impl LastModes ===

impl LastModes {
    fn of(&self, user: &str) -> Option<Mode> {
        self.known().get(user).copied()
    }

    fn remember(&self, user: &str, mode: Mode) {
        let mut known = self.known();
        if known.len() >= MOST_USERS && !known.contains_key(user) {
            known.clear();
        }
        known.insert(user.to_owned(), mode);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Mode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Mode ===

impl Mode {
    fn fits(self, wanted: &UserInfo, user: &UserInfo) -> bool {
        let only_name =
            wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_of(&wanted.name), split_service_account(&wanted.name));
        match self {
            Mode::AssociatedNode => only_name && node.is_some() && runs_on(user) == node,
            Mode::ArbitraryNode => only_name && node.is_some(),
            Mode::ServiceAccount => only_name && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        }
    }

    /// What a verb names it; none for the one without constraints.
    fn name(self) -> Option<&'static str> {
        match self {
            Mode::AssociatedNode => Some("associated-node"),
            Mode::ArbitraryNode => Some("arbitrary-node"),
            Mode::ServiceAccount => Some("serviceaccount"),
            Mode::UserInfo => Some("user-info"),
            Mode::Legacy => None,
        }
    }
}

/// The node that the pod of a service account's token runs on.
fn runs_on(user: &UserInfo) -> Option<&str> {
    split_service_account(&user.name)?;
    match user.extra.get(NODE_NAME_EXTRA)?.as_slice() {
        [node] => Some(node),
        _ => None,
    }
}

/// One identity that one user wants to take on for one request.
struct Attempt<'a> {
    server: &'a Server,
    user: &'a UserInfo,
    wanted: &'a UserInfo,
    request: Attributes,
}

// === impl Attempt ===

impl Attempt<'_> {
    async fn check(&self, mode: Mode) -> Result<(), Status> {
        if let Some(name) = mode.name() {
            let verb = format!("impersonate-on:{name}:{}", self.request.verb);
            self.require(&Attributes { verb, ..self.request.clone() }).await?;
        }
        self.require(&self.name(mode)).await?;
        if !self.wanted.uid.is_empty() {
            self.require(&part(mode, IDENTITIES, "uids", &self.wanted.uid)).await?;
        }
        self.groups(mode).await?;
        self.extra(mode).await
    }

    async fn require(&self, attributes: &Attributes) -> Result<(), Status> {
        authz::require(self.server, self.user, attributes).await.map(|_| ())
    }

    fn name(&self, mode: Mode) -> Attributes {
        let name = self.wanted.name.as_str();
        if let (Some(node), true) = (node_of(name), mode != Mode::Legacy) {
            let node = if mode == Mode::AssociatedNode { "*" } else { node };
            return part(mode, group_of(mode), "nodes", node);
        }
        match split_service_account(name) {
            Some((namespace, name)) => Attributes {
                namespace: namespace.to_owned(),
                ..part(mode, group_of(mode), "serviceaccounts", name)
            },
            None => part(mode, group_of(mode), "users", name),
        }
    }

    async fn groups(&self, mode: Mode) -> Result<(), Status> {
        let groups = &self.wanted.groups;
        let of = |name: &str| part(mode, group_of(mode), "groups", name);
        if mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return Err(
                    self.refuse(&of(""), "impersonating the empty string group is not allowed")
                );
            }
            if self.wanted.is_in(PRIVILEGED_GROUP) {
                let why = "impersonating the system:masters group is not allowed";
                return Err(self.refuse(&of(PRIVILEGED_GROUP), why));
            }
            if groups.len() >= MANY && self.require(&of("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.require(&of(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, mode: Mode) -> Result<(), Status> {
        let extra = &self.wanted.extra;
        let of = |key: &str, value: &str| Attributes {
            subresource: key.to_owned(),
            ..part(mode, IDENTITIES, "userextras", value)
        };
        if mode != Mode::Legacy && !extra.is_empty() {
            if let Some(why) = extra.iter().find_map(|(key, values)| extra_fault(key, values)) {
                return Err(self.refuse(&of("", ""), &why));
            }
            let count: usize = extra.values().map(Vec::len).sum();
            if count >= MANY && self.require(&of("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.require(&of(key, value)).await?;
            }
        }
        Ok(())
    }

    fn refuse(&self, attributes: &Attributes, why: &str) -> Status {
        let status = authz::forbidden(self.user, attributes, why);
        debug_assert_eq!(status.reason, Reason::Forbidden);
        status
    }
}

fn part(mode: Mode, group: &str, resource: &str, name: &str) -> Attributes {
    let verb = match mode.name() {
        Some(name) => format!("impersonate:{name}"),
        None => "impersonate".to_owned(),
    };
    Attributes {
        verb,
        is_resource: true,
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

/// Names and groups moved to the group of identities when modes came.
fn group_of(mode: Mode) -> &'static str {
    if mode == Mode::Legacy { "" } else { IDENTITIES }
}

/// What the constrained modes do not let through.
fn extra_fault(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    if let Some(fault) = key_fault(key) {
        return Some(format!("impersonating an invalid key in extra is not allowed: {fault}"));
    }
    if key.chars().any(char::is_uppercase) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    if values.is_empty() {
        return Some("impersonating empty values in extra is not allowed".to_owned());
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}

/// A key is a domain and a path.
fn key_fault(key: &str) -> Option<String> {
    let fault = |why: &str| format!("extra.key: Invalid value: {key:?}: {why}");
    let Some((domain, path)) = key.split_once('/') else {
        return Some(fault("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    };
    if let Some(why) = dns_subdomain(domain).first() {
        return Some(format!("extra.key: Invalid value: {domain:?}: {why}"));
    }
    path.is_empty().then(|| fault("must be a domain-prefixed path (such as \"acme.io/foo\")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn parts_without_a_name_are_a_bad_request() {
        assert!(read(&headers(&[])).expect("nothing asked").is_none());
        let refused = read(&headers(&[("impersonate-group", "devs")])).expect_err("no name");
        assert_eq!(refused.code, 400);
        assert_eq!(
            refused.message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"devs\"}, \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
    }

    #[test]
    fn a_users_last_mode_is_remembered_for_a_bounded_number_of_users() {
        let modes = LastModes::default();
        modes.remember("joe", Mode::Legacy);
        modes.remember("joe", Mode::UserInfo);
        assert_eq!((modes.of("joe"), modes.of("jane")), (Some(Mode::UserInfo), None));
        (0..MOST_USERS).for_each(|at| modes.remember(&format!("u{at}"), Mode::Legacy));
        assert!(modes.known().len() <= MOST_USERS);
        assert_eq!(modes.of(&format!("u{}", MOST_USERS - 1)), Some(Mode::Legacy));
    }

    #[test]
    fn only_the_modes_made_for_an_identity_are_tried() {
        let plain = UserInfo::new("joe", &[]);
        let mut agent = UserInfo::service_account("n", "agent");
        agent.extra.insert(NODE_NAME_EXTRA.to_owned(), vec!["one".to_owned()]);
        let fitting = |wanted: &str, groups: &[&str], by: &UserInfo| -> Vec<Mode> {
            let wanted = UserInfo::new(wanted, groups);
            MODES.iter().copied().filter(|mode| mode.fits(&wanted, by)).collect()
        };
        let one = "system:node:one";
        assert_eq!(
            fitting(one, &[], &agent),
            [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy]
        );
        assert_eq!(fitting("system:node:two", &[], &agent), [Mode::ArbitraryNode, Mode::Legacy]);
        assert_eq!(fitting(one, &["g"], &agent), [Mode::Legacy]);
        assert_eq!(fitting("jane", &["g"], &plain), [Mode::UserInfo, Mode::Legacy]);
        assert_eq!(
            fitting("system:serviceaccount:n:a", &[], &plain),
            [Mode::ServiceAccount, Mode::Legacy]
        );
    }
}
