//! FlowSchema: sorts requests into priority levels and flows.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{
    FieldPaths, KindDef, META_AND_SPEC, SETTLED_META, Strategy, keep_all_but_status, keep_meta,
};
use crate::kinds::at::At;
use crate::kinds::fill::{int, list, made_at, set_if_empty, text};
use crate::meta::meta;
use crate::validation::{dns_label, dns_subdomain};

pub struct FlowSchema;

const PRECEDENCE_MAX: i64 = 10000;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Strategy for FlowSchema {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = made_at(object, "/spec") {
            set_if_empty(spec, "matchingPrecedence", 1000);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        keep_meta(object, old, SETTLED_META);
        keep_meta(object, old, &["generateName"]);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let precedence = spec.child("matchingPrecedence");
        if precedence.int() <= 0 {
            precedence.invalid(errors, "must be a positive value");
        }
        if precedence.int() > PRECEDENCE_MAX {
            precedence.invalid(errors, format!("must not be greater than {PRECEDENCE_MAX}"));
        }
        if precedence.int() == 1 && meta(object).name() != "exempt" {
            let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
            precedence.invalid(errors, detail);
        }
        let method = spec.child("distinguisherMethod");
        if method.is_set() && !["ByNamespace", "ByUser"].contains(&method.text_of("type")) {
            // Upstream shows the whole method.
            let (at, shown) = (method.child("type"), json!({ "Type": method.text_of("type") }));
            errors.not_supported(&at.path, shown, &["ByNamespace", "ByUser"]);
        }
        let level = spec.child("priorityLevelConfiguration");
        let name = level.child("name");
        match name.is_empty() {
            true => name.required(errors, "must reference a priority level"),
            false => name.obeys(errors, dns_subdomain),
        }
        spec.child("rules").items().for_each(|rule| validate_rule(&rule, errors));
        let name = meta(object).name();
        if mandatory(name).is_some_and(|fixed| fixed != *spec.value) {
            spec.invalid(errors, format!("spec of '{name}' must equal the fixed value"));
        }
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        validate_conditions(object, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "PriorityLevel" => text(object, "/spec/priorityLevelConfiguration/name").into(),
            "MatchingPrecedence" => int(object, "/spec/matchingPrecedence").unwrap_or(0).into(),
            "DistinguisherMethod" => match text(object, "/spec/distinguisherMethod/type") {
                "" => "<none>".into(),
                method => method.into(),
            },
            "MissingPL" => dangling(object).into(),
            _ => Value::Null,
        }
    }
}

/// The schemas that the server cannot do without: one for its masters, one for everybody else.
fn mandatory(name: &str) -> Option<Value> {
    let rules = |groups: &[&str]| {
        let subject = |group: &&str| json!({"kind": "Group", "group": {"name": group}});
        json!([{
            "subjects": groups.iter().map(subject).collect::<Vec<_>>(),
            "resourceRules": [{
                "verbs": ["*"],
                "apiGroups": ["*"],
                "resources": ["*"],
                "clusterScope": true,
                "namespaces": ["*"],
            }],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"},
            "matchingPrecedence": 1,
            "rules": rules(&["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": 10000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": rules(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

/// The conditions of a status: each type once.
pub(super) fn validate_conditions(object: &Value, errors: &mut ErrorList) {
    let root = At::root(object);
    let status = root.child("status");
    let mut seen = Vec::new();
    for condition in status.child("conditions").items() {
        let of = condition.child("type");
        if seen.contains(&of.text()) {
            of.duplicate(errors);
        }
        seen.push(of.text());
        of.needed(errors);
    }
}

fn dangling(schema: &Value) -> &str {
    list(schema, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == "Dangling")
        .map_or("?", |condition| text(condition, "/status"))
}

fn validate_rule(rule: &At, errors: &mut ErrorList) {
    let subjects = rule.child("subjects");
    if subjects.is_empty() {
        subjects.required(errors, "subjects must contain at least one value");
    }
    subjects.items().for_each(|subject| validate_subject(&subject, errors));
    let (resources, urls) = (rule.child("resourceRules"), rule.child("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        rule.required(errors, detail);
    }
    resources.items().for_each(|rule| validate_resource_rule(&rule, errors));
    urls.items().for_each(|rule| validate_url_rule(&rule, errors));
}

/// The field that belongs to a kind of subject.
const SUBJECTS: &[(&str, &str)] =
    &[("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn validate_subject(subject: &At, errors: &mut ErrorList) {
    let kind = subject.child("kind");
    if !SUBJECTS.iter().any(|(known, _)| *known == kind.text()) {
        return kind.not_supported(errors, &["Group", "ServiceAccount", "User"]);
    }
    let (own, others): (Vec<_>, Vec<_>) = SUBJECTS.iter().partition(|(of, _)| *of == kind.text());
    for (of, field) in own {
        let at = subject.child(field);
        match at.is_set() {
            true => subject_name(of, &at, errors),
            false => {
                at.required(errors, &format!("{field} is required when subject kind is '{of}'"));
            }
        }
    }
    for (of, field) in others.into_iter().filter(|(_, field)| subject.has(field)) {
        let detail = format!("{field} is forbidden when subject kind is not '{of}'");
        subject.child(field).forbidden(errors, detail);
    }
}

fn subject_name(kind: &str, at: &At, errors: &mut ErrorList) {
    let name = at.child("name");
    if kind != "ServiceAccount" {
        name.needed(errors);
        return;
    }
    match name.text() {
        "" => name.required(errors, ""),
        "*" => {}
        _ => name.obeys(errors, dns_subdomain),
    }
    let namespace = at.child("namespace");
    match namespace.is_empty() {
        true => namespace.required(errors, "must specify namespace for service account"),
        false => namespace.obeys(errors, dns_label),
    }
}

fn validate_verbs(rule: &At, errors: &mut ErrorList) {
    let verbs = rule.child("verbs");
    let texts: Vec<&str> = verbs.list().iter().filter_map(Value::as_str).collect();
    if texts.is_empty() {
        verbs.required(errors, "verbs must contain at least one value");
    } else if texts.contains(&"*") {
        if texts.len() > 1 {
            verbs.invalid(errors, "if '*' is present, must not specify other verbs");
        }
    } else if texts.iter().any(|verb| !VERBS.contains(verb)) {
        verbs.not_supported(errors, VERBS);
    }
}

fn star_stands_alone(list: &At, what: &str, errors: &mut ErrorList) {
    if list.list().len() > 1 && list.list().iter().any(|entry| entry == "*") {
        list.invalid(errors, format!("if '*' is present, must not specify other {what}"));
    }
}

fn validate_resource_rule(rule: &At, errors: &mut ErrorList) {
    validate_verbs(rule, errors);
    let (groups, resources) = (rule.child("apiGroups"), rule.child("resources"));
    if groups.is_empty() {
        groups.required(errors, "resource rules must supply at least one api group");
    }
    star_stands_alone(&groups, "api groups", errors);
    if resources.is_empty() {
        resources.required(errors, "resource rules must supply at least one resource");
    }
    star_stands_alone(&resources, "resources", errors);
    let namespaces = rule.child("namespaces");
    if namespaces.is_empty() && !rule.flag_of("clusterScope") {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        namespaces.required(errors, detail);
    }
    if namespaces.list().iter().any(|name| name == "*") {
        return star_stands_alone(&namespaces, "namespaces", errors);
    }
    for namespace in namespaces.items() {
        for fault in dns_label(namespace.text()) {
            let each = "each member of this list must be '*' or a DNS-1123 label";
            namespace.invalid(errors, format!("{each}; {fault}"));
        }
    }
}

fn validate_url_rule(rule: &At, errors: &mut ErrorList) {
    validate_verbs(rule, errors);
    let urls = rule.child("nonResourceURLs");
    if urls.is_empty() {
        urls.required(errors, "nonResourceURLs must contain at least one value");
    } else if urls.list().iter().any(|url| url == "*") {
        star_stands_alone(&urls, "non-resource URLs", errors);
        return;
    }
    for url in urls.items() {
        let text = url.text();
        let fault = match text {
            "" => "must not be empty",
            "/" => continue,
            _ if !text.starts_with('/') => "must start with slash",
            _ if text.contains(' ') => "must not contain white-space",
            _ if text.contains("//") => "must not contain double slash",
            _ => match text.find('*') {
                Some(at) if at + 1 != text.len() || !text.ends_with("/*") => {
                    "wildcard can only do suffix matching"
                }
                _ => continue,
            },
        };
        url.invalid(errors, fault);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check;

    const PATH: &str = "flowcontrol.apiserver.k8s.io/v1/flowschemas";

    #[test]
    fn a_precedence_of_zero_is_none_given() {
        check(PATH, "spec: {matchingPrecedence: 0, priorityLevelConfiguration: {name: l}}", &[]);
    }

    #[test]
    fn schemas_the_server_needs_are_fixed() {
        let catch_all = |level: &str| {
            format!(
                "metadata: {{name: catch-all}}\nspec: {{priorityLevelConfiguration: {{name: {level}}}, matchingPrecedence: 10000, distinguisherMethod: {{type: ByUser}}, rules: [{{subjects: [{{kind: Group, group: {{name: 'system:unauthenticated'}}}}, {{kind: Group, group: {{name: 'system:authenticated'}}}}], resourceRules: [{{verbs: ['*'], apiGroups: ['*'], resources: ['*'], clusterScope: true, namespaces: ['*']}}], nonResourceRules: [{{verbs: ['*'], nonResourceURLs: ['*']}}]}}]}}"
            )
        };
        check(PATH, &catch_all("catch-all"), &[]);
        let shown = "{\"PriorityLevelConfiguration\":{\"Name\":\"other\"},\"MatchingPrecedence\":10000,\"DistinguisherMethod\":{\"Type\":\"ByUser\"},\"Rules\":[{\"Subjects\":[{\"Kind\":\"Group\",\"User\":null,\"Group\":{\"Name\":\"system:unauthenticated\"},\"ServiceAccount\":null},{\"Kind\":\"Group\",\"User\":null,\"Group\":{\"Name\":\"system:authenticated\"},\"ServiceAccount\":null}],\"ResourceRules\":[{\"Verbs\":[\"*\"],\"APIGroups\":[\"*\"],\"Resources\":[\"*\"],\"ClusterScope\":true,\"Namespaces\":[\"*\"]}],\"NonResourceRules\":[{\"Verbs\":[\"*\"],\"NonResourceURLs\":[\"*\"]}]}]}";
        check(
            PATH,
            &catch_all("other"),
            &[&format!(
                "spec: Invalid value: {shown}: spec of 'catch-all' must equal the fixed value"
            )],
        );
    }
}
