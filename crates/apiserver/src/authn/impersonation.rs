//! Acting as someone else: `Impersonate-*` headers, each of which must be authorised.
//!
//! Counterpart: `endpoints/filters/impersonation.go`. Invariant: the real user is authorised for every single
//! part of the identity that is taken on.

use std::collections::BTreeMap;

use http::HeaderMap;
use skiff_api::Status;

use crate::authz::{self, Attributes};
use crate::query::decode_segment;
use crate::server::Server;
use crate::user::{
    ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo, split_service_account,
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The user to go on as, if the headers name one.
pub async fn impersonated(
    server: &Server,
    user: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, Status> {
    let Some(asked) = read(headers)? else { return Ok(None) };
    authorize(server, user, &asked).await?;
    Ok(Some(complete(asked)))
}

/// The identity as the headers spell it.
fn read(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let texts = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let name = texts(USER).into_iter().next().unwrap_or_default();
    let uid = texts(UID).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys().filter(|header| header.as_str().starts_with(EXTRA_PREFIX)) {
        let key = decode_segment(&header.as_str()[EXTRA_PREFIX.len()..]);
        extra.entry(key).or_default().extend(texts(header.as_str()));
    }
    let asked = UserInfo { name, uid, groups: texts(GROUP), extra };
    if asked == UserInfo::default() {
        return Ok(None);
    }
    if asked.name.is_empty() {
        let what = "requested user without impersonating a user";
        return Err(Status::internal(format!("{what}: {:?}", asked.groups)));
    }
    Ok(Some(asked))
}

async fn authorize(server: &Server, user: &UserInfo, asked: &UserInfo) -> Result<(), Status> {
    let mut checks = vec![match split_service_account(&asked.name) {
        Some((namespace, name)) => attributes("", "serviceaccounts", "", namespace, name),
        None => attributes("", "users", "", "", &asked.name),
    }];
    checks.extend(asked.groups.iter().map(|group| attributes("", "groups", "", "", group)));
    if !asked.uid.is_empty() {
        checks.push(attributes("authentication.k8s.io", "uids", "", "", &asked.uid));
    }
    for (key, values) in &asked.extra {
        checks.extend(
            values
                .iter()
                .map(|value| attributes("authentication.k8s.io", "userextras", key, "", value)),
        );
    }
    for check in checks {
        authz::require(server, user, &check).await?;
    }
    Ok(())
}

fn attributes(
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Attributes {
    Attributes {
        verb: "impersonate".to_owned(),
        is_resource: true,
        group: group.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        path: String::new(),
    }
}

/// Adds the groups that come with a name.
fn complete(mut asked: UserInfo) -> UserInfo {
    if let Some((namespace, name)) = split_service_account(&asked.name)
        && asked.groups.is_empty()
    {
        asked.groups = UserInfo::service_account(namespace, name).groups;
    }
    let implied = if asked.name == ANONYMOUS { ALL_UNAUTHENTICATED } else { ALL_AUTHENTICATED };
    if !asked.is_in(ALL_AUTHENTICATED) && !asked.is_in(ALL_UNAUTHENTICATED) {
        asked.groups.push(implied.to_owned());
    }
    asked
}
