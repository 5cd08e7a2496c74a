//! RBAC: bindings and roles of the live store, indexed by subject.
//!
//! [`PolicyView`] keeps the decoded [`Policy`] and rebuilds it after a write beneath the RBAC keys, so a role takes
//! effect with the answer to the request that made it. Counterpart: `plugin/pkg/auth/authorizer/rbac`.
//! Differs from upstream: aggregated ClusterRoles are resolved here, on read, besides being written by
//! the controller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{GroupResource, Status};
use skiff_store::RangeRequest;

use super::rules::PolicyRule;
use super::{Attributes, Decision};
use crate::server::Server;
use crate::user::UserInfo;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The current policy, decoded when first asked for after a change.
#[derive(Default)]
pub struct PolicyView {
    changes: AtomicU64,
    current: ArcSwapOption<Snapshot>,
}

struct Snapshot {
    changes: u64,
    policy: Arc<Policy>,
}

#[derive(Default)]
pub struct Policy {
    bindings: Vec<Binding>,
    by_subject: HashMap<Subject, Vec<usize>>,
    /// By namespace (empty: cluster) and name.
    roles: HashMap<(String, String), Vec<PolicyRule>>,
}

struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role_kind: String,
    role: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// A rule that applies to a user, and the sentence that says through what.
pub struct Grant<'a> {
    pub rule: &'a PolicyRule,
    binding: &'a Binding,
    subject: Subject,
}

// === impl PolicyView ===

impl PolicyView {
    /// Something beneath the RBAC keys was committed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    pub async fn policy(&self, server: &Server) -> Result<Arc<Policy>, Status> {
        let seen = self.changes.load(Ordering::Acquire);
        if let Some(snapshot) = &*self.current.load()
            && snapshot.changes == seen
        {
            return Ok(snapshot.policy.clone());
        }
        let policy = Arc::new(Policy::load(server).await?);
        self.current.store(Some(Arc::new(Snapshot { changes: seen, policy: policy.clone() })));
        Ok(policy)
    }
}

// === impl Policy ===

impl Policy {
    async fn load(server: &Server) -> Result<Policy, Status> {
        let mut policy = Policy::default();
        for resource in ["clusterrolebindings", "rolebindings"] {
            for object in objects(server, resource).await? {
                policy.add_binding(&object);
            }
        }
        let cluster_roles = objects(server, "clusterroles").await?;
        for role in objects(server, "roles").await? {
            policy.roles.insert(key(&role), own_rules(&role));
        }
        for role in &cluster_roles {
            policy.roles.insert(key(role), effective_rules(role, &cluster_roles));
        }
        Ok(policy)
    }

    fn add_binding(&mut self, object: &Value) {
        let at = self.bindings.len();
        let text = |pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned()
        };
        self.bindings.push(Binding {
            namespace: meta(object).namespace().to_owned(),
            name: meta(object).name().to_owned(),
            role_kind: text("/roleRef/kind"),
            role: text("/roleRef/name"),
        });
        for subject in object["subjects"].as_array().into_iter().flatten().filter_map(Subject::read)
        {
            self.by_subject.entry(subject).or_default().push(at);
        }
    }

    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let namespace = if attributes.is_resource { attributes.namespace.as_str() } else { "" };
        let (grants, problems) = self.grants(user, namespace);
        match grants.iter().find(|grant| grant.rule.allows(attributes)) {
            Some(grant) => Decision { allowed: true, reason: grant.reason() },
            None => Decision { allowed: false, reason: problem_text(&problems) },
        }
    }

    /// Every rule that applies to a user in a namespace (empty: cluster wide), and the roles that bindings
    /// name but nobody made.
    pub fn grants(&self, user: &UserInfo, namespace: &str) -> (Vec<Grant<'_>>, Vec<String>) {
        let users = std::iter::once(Subject::User(user.name.clone()));
        let subjects = users.chain(user.groups.iter().cloned().map(Subject::Group));
        let (mut grants, mut problems) = (Vec::new(), Vec::new());
        for subject in subjects {
            for binding in
                self.by_subject.get(&subject).into_iter().flatten().map(|at| &self.bindings[*at])
            {
                if !binding.namespace.is_empty() && binding.namespace != namespace {
                    continue;
                }
                match self.role(&binding.role_kind, &binding.role, &binding.namespace) {
                    Some(rules) => grants.extend(rules.iter().map(|rule| Grant {
                        rule,
                        binding,
                        subject: subject.clone(),
                    })),
                    None => problems.push(missing_role(&binding.role_kind, &binding.role)),
                }
            }
        }
        (grants, problems)
    }

    /// The rules a user holds, for comparison with what the user wants to hand out.
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.grants(user, namespace).0.into_iter().map(|grant| grant.rule.clone()).collect()
    }

    pub fn role(&self, kind: &str, name: &str, namespace: &str) -> Option<&[PolicyRule]> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }
}

// === impl Grant ===

impl Grant<'_> {
    fn reason(&self) -> String {
        let Binding { namespace, name, role_kind, role, .. } = self.binding;
        let binding = match namespace.is_empty() {
            true => format!("ClusterRoleBinding {name:?}"),
            false => format!("RoleBinding \"{name}/{namespace}\""),
        };
        let subject = match &self.subject {
            Subject::User(name) => match crate::user::split_service_account(name) {
                Some((namespace, account)) => format!("ServiceAccount \"{account}/{namespace}\""),
                None => format!("User {name:?}"),
            },
            Subject::Group(name) => format!("Group {name:?}"),
        };
        format!("RBAC: allowed by {binding} of {role_kind} {role:?} to {subject}")
    }
}

// === impl Subject ===

impl Subject {
    fn read(subject: &Value) -> Option<Subject> {
        let name = subject["name"].as_str()?;
        match subject["kind"].as_str()? {
            "User" => Some(Subject::User(name.to_owned())),
            "Group" => Some(Subject::Group(name.to_owned())),
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str()?;
                Some(Subject::User(UserInfo::service_account(namespace, name).name))
            }
            _ => None,
        }
    }
}

pub fn missing_role(kind: &str, name: &str) -> String {
    let resource = GroupResource::new(GROUP, kind.to_lowercase());
    format!("{resource} {name:?} not found")
}

fn problem_text(problems: &[String]) -> String {
    match problems {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    }
}

async fn objects(server: &Server, resource: &str) -> Result<Vec<Value>, Status> {
    let request = RangeRequest::prefix(format!("/registry/{resource}/"));
    let found = server.store.range(request).await.map_err(Status::internal)?;
    found.entries.iter().map(|entry| skiff_api::codec::decode_stored(&entry.value)).collect()
}

fn key(role: &Value) -> (String, String) {
    (meta(role).namespace().to_owned(), meta(role).name().to_owned())
}

fn own_rules(role: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(role["rules"].clone()).unwrap_or_default()
}

/// An aggregated role holds what the roles that its selectors match hold.
pub fn effective_rules(role: &Value, all: &[Value]) -> Vec<PolicyRule> {
    let Some(selectors) = role["aggregationRule"]["clusterRoleSelectors"].as_array() else {
        return own_rules(role);
    };
    let mut rules: Vec<PolicyRule> = own_rules(role);
    for other in all.iter().filter(|other| meta(other).name() != meta(role).name()) {
        if selectors.iter().any(|selector| crate::objects::label_selector_matches(selector, other))
        {
            for rule in own_rules(other) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    rules
}
