//! RBAC: bindings and roles of the live store, indexed by subject.
//!
//! [`PolicyView`] follows the RBAC keys and publishes an immutable [`Policy`] after each write beneath them, so a role takes
//! effect with the answer to the request that made it, and a decision takes no lock. A change touches only what it is about:
//! the maps share the rest. Counterpart: `plugin/pkg/auth/authorizer/rbac`. Invariant: bindings of the
//! cluster are asked before those of the namespace, each at most once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{GroupResource, Status};
use skiff_store::Store;

use super::rules::PolicyRule;
use super::{Attributes, Decision};
use crate::follow::{Followed, View, place};
use crate::objects::store_status;
use crate::user::UserInfo;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The current policy, brought up to date when first asked for after a change.
#[derive(Default)]
pub struct PolicyView {
    changes: AtomicU64,
    current: ArcSwapOption<Snapshot>,
    followed: Followed<Policy>,
}

struct Snapshot {
    changes: u64,
    policy: Arc<Policy>,
}

#[derive(Clone, Default)]
pub struct Policy {
    /// By key in the store.
    bindings: imbl::HashMap<String, Arc<Binding>>,
    cluster: imbl::HashMap<Subject, Bindings>,
    /// By namespace.
    local: imbl::HashMap<String, imbl::HashMap<Subject, Bindings>>,
    /// By namespace (empty: cluster) and name.
    roles: imbl::HashMap<(String, String), Arc<[PolicyRule]>>,
}

/// In the order of their names, which decides which of several is named as the reason.
type Bindings = imbl::OrdMap<String, Arc<Binding>>;

/// Kind and name of a role.
pub type RoleName = (String, String);

struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role_kind: String,
    role: String,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

const CLUSTER_ROLES: &str = "/registry/clusterroles/";
const ROLES: &str = "/registry/roles/";
const CLUSTER_BINDINGS: &str = "/registry/clusterrolebindings/";
const LOCAL_BINDINGS: &str = "/registry/rolebindings/";

// === impl PolicyView ===

impl PolicyView {
    /// Something beneath the RBAC keys was committed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    pub async fn policy(&self, store: &Store) -> Result<Arc<Policy>, Status> {
        let seen = self.changes.load(Ordering::Acquire);
        if let Some(snapshot) = &*self.current.load()
            && snapshot.changes == seen
        {
            return Ok(snapshot.policy.clone());
        }
        let followed = self.followed.current(store).await.map_err(store_status)?;
        let policy = Arc::new(followed.view().clone());
        self.current.store(Some(Arc::new(Snapshot { changes: seen, policy: policy.clone() })));
        Ok(policy)
    }
}

// === impl Policy ===

impl View for Policy {
    const KEYS: &'static [&'static str] = &[CLUSTER_ROLES, ROLES, CLUSTER_BINDINGS, LOCAL_BINDINGS];

    fn put(&mut self, key: &str, object: &Value) {
        match role_at(key) {
            Some(role) => drop(self.roles.insert(role, rules_of(object))),
            None => {
                self.remove(key);
                self.add_binding(key, Arc::new(Binding::read(object)));
            }
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(role) = role_at(key) {
            self.roles.remove(&role);
        } else if let Some(binding) = self.bindings.remove(key) {
            for subject in &binding.subjects {
                let index = self.index(&binding.namespace);
                if let Some(bindings) = index.get_mut(subject) {
                    bindings.remove(key);
                    if bindings.is_empty() {
                        index.remove(subject);
                    }
                }
            }
        }
    }
}

impl Policy {
    fn add_binding(&mut self, key: &str, binding: Arc<Binding>) {
        for subject in &binding.subjects {
            let index = self.index(&binding.namespace);
            index.entry(subject.clone()).or_default().insert(key.to_owned(), binding.clone());
        }
        self.bindings.insert(key.to_owned(), binding);
    }

    fn index(&mut self, namespace: &str) -> &mut imbl::HashMap<Subject, Bindings> {
        match namespace.is_empty() {
            true => &mut self.cluster,
            false => self.local.entry(namespace.to_owned()).or_default(),
        }
    }

    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let namespace = if attributes.is_resource { attributes.namespace.as_str() } else { "" };
        let mut problems = Vec::new();
        for binding in self.bindings_of(user, namespace) {
            match self.rules(binding) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    let subject = binding.subject_of(user);
                    return Decision::allow(binding.reason(subject));
                }
                Ok(_) => {}
                Err(problem) => problems.push(problem),
            }
        }
        Decision::no_opinion(match aggregate(problems) {
            text if text.is_empty() => text,
            text => format!("RBAC: {text}"),
        })
    }

    /// Every rule that applies to a user in a namespace (empty: cluster wide), and kind and name of the roles that
    /// bindings name and nobody made.
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<RoleName>) {
        let (mut held, mut missing) = (Vec::new(), Vec::new());
        for binding in self.bindings_of(user, namespace) {
            match self.rules(binding) {
                Ok(rules) => held.extend(rules.iter().cloned()),
                Err(_) => missing.push((binding.role_kind.clone(), binding.role.clone())),
            }
        }
        (held, missing)
    }

    pub fn role(&self, kind: &str, name: &str, namespace: &str) -> Option<&[PolicyRule]> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(|rules| &**rules)
    }

    fn rules(&self, binding: &Binding) -> Result<&[PolicyRule], String> {
        let found = self.role(&binding.role_kind, &binding.role, &binding.namespace);
        found.ok_or_else(|| missing_role(&binding.role_kind, &binding.role))
    }

    fn bindings_of(&self, user: &UserInfo, namespace: &str) -> Vec<&Arc<Binding>> {
        let users = std::iter::once(Subject::User(user.name.clone()));
        let subjects: Vec<Subject> =
            users.chain(user.groups.iter().cloned().map(Subject::Group)).collect();
        let mut bindings = found_in(&self.cluster, &subjects);
        if let Some(local) = self.local.get(namespace).filter(|_| !namespace.is_empty()) {
            bindings.extend(found_in(local, &subjects));
        }
        bindings
    }
}

/// The bindings of any of the subjects, each once, in the order of their keys.
fn found_in<'a>(
    index: &'a imbl::HashMap<Subject, Bindings>,
    subjects: &[Subject],
) -> Vec<&'a Arc<Binding>> {
    let found = subjects.iter().filter_map(|subject| index.get(subject)).flatten();
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(key, _)| *key);
    found.dedup_by_key(|(key, _)| *key);
    found.into_iter().map(|(_, binding)| binding).collect()
}

// === impl Binding ===

impl Binding {
    fn read(object: &Value) -> Binding {
        let text = |field: &str| object["roleRef"][field].as_str().unwrap_or("").to_owned();
        let subjects = object["subjects"].as_array().into_iter().flatten();
        Binding {
            namespace: meta(object).namespace().to_owned(),
            name: meta(object).name().to_owned(),
            role_kind: text("kind"),
            role: text("name"),
            subjects: subjects.filter_map(Subject::read).collect(),
        }
    }

    /// Through which of its subjects it applies to a user whom it applies to.
    fn subject_of(&self, user: &UserInfo) -> Option<&Subject> {
        self.subjects.iter().find(|subject| match subject {
            Subject::User(name) => *name == user.name,
            Subject::Group(name) => user.is_in(name),
        })
    }

    fn reason(&self, subject: Option<&Subject>) -> String {
        let Binding { namespace, name, role_kind, role, .. } = self;
        let binding = match namespace.is_empty() {
            true => format!("ClusterRoleBinding {name:?}"),
            false => format!("RoleBinding \"{name}/{namespace}\""),
        };
        let subject = subject.map(Subject::described).unwrap_or_default();
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

    fn described(&self) -> String {
        match self {
            Subject::User(name) => match crate::user::split_service_account(name) {
                Some((namespace, account)) => format!("ServiceAccount \"{account}/{namespace}\""),
                None => format!("User {name:?}"),
            },
            Subject::Group(name) => format!("Group {name:?}"),
        }
    }
}

/// What upstream says of a role that a binding names in vain.
pub fn missing_role(kind: &str, name: &str) -> String {
    let resource = GroupResource::new(GROUP, kind.to_lowercase());
    format!("{resource} {name:?} not found")
}

/// Faults as upstream joins them: each once, in brackets if there are several.
pub fn aggregate(mut problems: Vec<String>) -> String {
    let mut seen = std::collections::HashSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    match problems.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn role_at(key: &str) -> Option<(String, String)> {
    let (namespace, name) = place(key, CLUSTER_ROLES).or_else(|| place(key, ROLES))?;
    Some((namespace.to_owned(), name.to_owned()))
}

fn rules_of(role: &Value) -> Arc<[PolicyRule]> {
    let rules: Vec<PolicyRule> = serde_json::from_value(role["rules"].clone()).unwrap_or_default();
    rules.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role() -> Value {
        json!({ "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }] })
    }

    fn binding(namespace: &str, name: &str, subjects: Value) -> Value {
        json!({ "metadata": { "name": name, "namespace": namespace },
            "roleRef": { "kind": "ClusterRole", "name": "reader" }, "subjects": subjects })
    }

    fn get_pods(namespace: &str) -> Attributes {
        Attributes {
            verb: "get".to_owned(),
            is_resource: true,
            resource: "pods".to_owned(),
            namespace: namespace.to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_binding_takes_effect_and_loses_it_with_each_change() {
        let (mut policy, jane) = (Policy::default(), UserInfo::new("jane", &["devs"]));
        let allowed = |policy: &Policy, namespace: &str| {
            policy.decide(&jane, &get_pods(namespace)).is_allowed()
        };
        let key = "/registry/rolebindings/n/b";
        policy.put(key, &binding("n", "b", json!([{ "kind": "Group", "name": "devs" }])));
        let denied = policy.decide(&jane, &get_pods("n"));
        let missing = "RBAC: clusterrole.rbac.authorization.k8s.io \"reader\" not found";
        assert_eq!((denied.is_allowed(), denied.reason.as_str()), (false, missing));
        policy.put("/registry/clusterroles/reader", &role());
        assert!(allowed(&policy, "n") && !allowed(&policy, "m") && !allowed(&policy, ""));
        policy.put(key, &binding("n", "b", json!([{ "kind": "User", "name": "joe" }])));
        assert!(!allowed(&policy, "n"));
        policy.put(key, &binding("n", "b", json!([{ "kind": "User", "name": "jane" }])));
        assert!(allowed(&policy, "n"));
        policy.remove(key);
        assert!(!allowed(&policy, "n"));
    }

    #[test]
    fn the_cluster_is_named_as_the_reason_before_the_namespace() {
        let mut policy = Policy::default();
        policy.put("/registry/clusterroles/reader", &role());
        let subjects =
            json!([{ "kind": "Group", "name": "devs" }, { "kind": "User", "name": "jane" }]);
        policy.put("/registry/rolebindings/n/a", &binding("n", "a", subjects.clone()));
        policy.put("/registry/clusterrolebindings/z", &binding("", "z", subjects));
        let jane = UserInfo::new("jane", &["devs"]);
        assert_eq!(
            policy.decide(&jane, &get_pods("n")).reason,
            "RBAC: allowed by ClusterRoleBinding \"z\" of ClusterRole \"reader\" to Group \"devs\""
        );
        assert_eq!(policy.rules_of(&jane, "n").0.len(), 2);
    }
}
