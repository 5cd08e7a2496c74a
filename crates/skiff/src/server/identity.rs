//! Clients for the parts of this process: each acts as the user that upstream's part would be.
//!
//! RBAC's default roles are bound to these names, so a part may do here what it may do elsewhere.

use std::sync::Arc;

use kube::Client;
use skiff_apiserver::{ApiServer, UserInfo};

#[derive(Clone)]
pub struct Clients {
    api: Arc<ApiServer>,
}

impl Clients {
    pub fn new(api: &ApiServer) -> Clients {
        Clients { api: Arc::new(api.clone()) }
    }

    /// A client that acts as the named user, with the groups such a user has.
    pub fn user(&self, name: &str) -> Client {
        self.of(info_of(name))
    }

    /// The kubelet of a node.
    pub fn node(&self, name: &str) -> Client {
        self.of(UserInfo::new(
            format!("system:node:{name}"),
            &["system:nodes", "system:authenticated"],
        ))
    }

    /// What plays the kubelets of nodes that have no machine, and so no credentials of their own.
    pub fn simulated_nodes(&self) -> Client {
        let groups = ["system:masters", "system:authenticated"];
        self.of(UserInfo::new("system:simulated-nodes", &groups))
    }

    /// What sets up objects that belong to the system.
    pub fn system(&self) -> Client {
        self.of(UserInfo::new("system:apiserver", &["system:masters", "system:authenticated"]))
    }

    fn of(&self, user: UserInfo) -> Client {
        Client::new(self.api.typed(user), "default")
    }
}

/// Groups follow from the name, as they do for whoever signs in by it; none of them is above the law.
fn info_of(name: &str) -> UserInfo {
    let account = name.strip_prefix("system:serviceaccount:").and_then(|id| id.split_once(':'));
    match account {
        Some((namespace, account)) => UserInfo::service_account(namespace, account),
        None => UserInfo::new(name, &["system:authenticated"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_may_do_no_more_than_its_role_says() {
        for name in ["system:kube-scheduler", "system:serviceaccount:kube-system:coredns"] {
            let user = info_of(name);
            assert_eq!(user.name, name);
            assert!(user.is_in("system:authenticated") && !user.is_in("system:masters"));
        }
    }
}
