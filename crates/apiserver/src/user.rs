//! Who asks: the identity that authentication finds and authorisation judges.
//!
//! Counterpart: `k8s.io/apiserver/pkg/authentication/user`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_api::validation::{dns_label, dns_subdomain};

pub const ANONYMOUS: &str = "system:anonymous";
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
pub const PRIVILEGED_GROUP: &str = "system:masters";
pub const NODES_GROUP: &str = "system:nodes";
pub const NODE_USER_PREFIX: &str = "system:node:";
pub const ALL_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The extra field that names the node of a token's pod.
pub const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    /// A part of Skiff that may do everything.
    pub fn system(name: &str) -> UserInfo {
        UserInfo::new(name, &[PRIVILEGED_GROUP, ALL_AUTHENTICATED])
    }

    pub fn anonymous() -> UserInfo {
        UserInfo::new(ANONYMOUS, &[ALL_UNAUTHENTICATED])
    }

    pub fn service_account(namespace: &str, name: &str) -> UserInfo {
        let of_namespace = format!("{ALL_SERVICE_ACCOUNTS}:{namespace}");
        let groups = [ALL_SERVICE_ACCOUNTS, &of_namespace, ALL_AUTHENTICATED];
        UserInfo::new(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"), &groups)
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }

    /// The node's name, if this is the kubelet of a node.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_USER_PREFIX)?;
        self.is_in(NODES_GROUP).then_some(name)
    }

    /// As an `authentication.k8s.io/v1 UserInfo`.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "username": self.name });
        if !self.uid.is_empty() {
            value["uid"] = self.uid.clone().into();
        }
        if !self.groups.is_empty() {
            value["groups"] = self.groups.clone().into();
        }
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }
}

/// Namespace and name of a service account's user name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let good = dns_label(namespace).is_empty() && dns_subdomain(name).is_empty();
    good.then_some((namespace, name))
}
