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
        let account = name.strip_prefix("system:serviceaccount:").and_then(|id| id.split_once(':'));
        let user = match account {
            Some((namespace, account)) => UserInfo::service_account(namespace, account),
            None => UserInfo::system(name),
        };
        self.of(user)
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
