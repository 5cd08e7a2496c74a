//! The rbac.authorization.k8s.io group: roles, and bindings that name one.

use std::sync::Arc;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{NameRule, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{each, list, made, set_if_empty, text};
use crate::kinds::selectors::validate_label_selector;
use crate::meta::meta;
use crate::selector::Labels;
use crate::validation::{dns_subdomain, path_segment};

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "ClusterRole" => Arc::new(Role { namespaced: false }),
        "Role" => Arc::new(Role { namespaced: true }),
        "ClusterRoleBinding" | "RoleBinding" => Arc::new(Binding),
        _ => return None,
    })
}

const GROUP: &str = "rbac.authorization.k8s.io";

struct Role {
    namespaced: bool,
}

impl Strategy for Role {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        root.child("rules").items().for_each(|rule| validate_rule(&rule, self.namespaced, errors));
        let aggregation = root.child("aggregationRule");
        if !aggregation.is_set() {
            return;
        }
        let selectors = aggregation.child("clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            selectors.required(errors, detail);
        }
        selectors.items().for_each(|selector| validate_selector(&selector, errors));
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

struct Binding;

impl Strategy for Binding {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default(&self, binding: &mut Value) {
        let Some(root) = binding.as_object_mut() else { return };
        if let Some(role) = made(root, "roleRef") {
            set_if_empty(role, "apiGroup", GROUP);
        }
        for subject in each(root, "subjects") {
            if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
                set_if_empty(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let namespaced = !meta(object).namespace().is_empty();
        validate_role_ref(&root.child("roleRef"), namespaced, errors);
        root.child("subjects")
            .items()
            .for_each(|subject| validate_subject(&subject, namespaced, errors));
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        if object.get("roleRef") != old.get("roleRef") {
            let root = At::root(object);
            root.child("roleRef").invalid(errors, "cannot change roleRef");
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let role = object.get("roleRef").cloned().unwrap_or_default();
        match column {
            "Role" => format!("{}/{}", text(&role, "/kind"), text(&role, "/name")).into(),
            "Users" => subjects(object, "User").into(),
            "Groups" => subjects(object, "Group").into(),
            "ServiceAccounts" => subjects(object, "ServiceAccount").into(),
            _ => Value::Null,
        }
    }
}

fn subjects(binding: &Value, kind: &str) -> String {
    let names: Vec<String> = list(binding, "/subjects")
        .iter()
        .filter(|subject| text(subject, "/kind") == kind)
        .map(|subject| match kind {
            "ServiceAccount" => {
                format!("{}/{}", text(subject, "/namespace"), text(subject, "/name"))
            }
            _ => text(subject, "/name").to_owned(),
        })
        .collect();
    names.join(", ")
}

// === validation ===

fn validate_rule(rule: &At, namespaced: bool, errors: &mut ErrorList) {
    let (verbs, urls) = (rule.child("verbs"), rule.child("nonResourceURLs"));
    let (groups, resources) = (rule.child("apiGroups"), rule.child("resources"));
    if verbs.is_empty() {
        verbs.required(errors, "verbs must contain at least one value");
    }
    if !urls.is_empty() {
        if namespaced {
            urls.invalid(errors, "namespaced rules cannot apply to non-resource URLs");
        }
        if [&groups, &resources, &rule.child("resourceNames")].iter().any(|at| !at.is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            urls.invalid(errors, detail);
        }
        return;
    }
    if groups.is_empty() {
        groups.required(errors, "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        resources.required(errors, "resource rules must supply at least one resource");
    }
}

fn validate_selector(selector: &At, errors: &mut ErrorList) {
    validate_label_selector(selector, errors);
    if Labels::from_object(selector.value).is_err() {
        selector.invalid_as(errors, Value::Null, "invalid label selector.");
    }
}

fn validate_role_ref(role: &At, namespaced: bool, errors: &mut ErrorList) {
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if role.text_of("apiGroup") != GROUP {
        role.child("apiGroup").not_supported(errors, &[GROUP]);
    }
    role.child("kind").one_of(errors, kinds);
    role.child("name").needed_and_obeys(errors, path_segment);
}

fn validate_subject(subject: &At, namespaced: bool, errors: &mut ErrorList) {
    let name = subject.child("name");
    name.needed(errors);
    let group = subject.child("apiGroup");
    match subject.text_of("kind") {
        "ServiceAccount" => {
            name.obeys_if_set(errors, dns_subdomain);
            group.one_of(errors, &[""]);
            if !namespaced {
                subject.child("namespace").needed(errors);
            }
        }
        "User" | "Group" => group.one_of(errors, &[GROUP]),
        _ => subject.child("kind").not_supported(errors, &["ServiceAccount", "User", "Group"]),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    #[test]
    fn rules_name_resources_or_urls() {
        check(
            "rbac.authorization.k8s.io/v1/clusterroles",
            "rules: [{verbs: [get], apiGroups: [''], nonResourceURLs: [/x]}]",
            &[
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ],
        );
        check(
            "rbac.authorization.k8s.io/v1/roles",
            "rules: [{resources: [pods]}]",
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ],
        );
    }

    #[test]
    fn an_empty_group_is_the_default_one() {
        check(
            "rbac.authorization.k8s.io/v1/clusterrolebindings",
            "roleRef: {apiGroup: '', kind: ClusterRole, name: view}\nsubjects: [{kind: User, apiGroup: '', name: u}]",
            &[],
        );
    }

    #[test]
    fn a_binding_keeps_its_role() {
        let binding = |role: &str| format!("roleRef: {{kind: ClusterRole, name: {role}}}");
        check_update(
            "rbac.authorization.k8s.io/v1/clusterrolebindings",
            &binding("view"),
            &binding("edit"),
            &[
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"edit\"}: cannot change roleRef",
            ],
        );
    }
}
