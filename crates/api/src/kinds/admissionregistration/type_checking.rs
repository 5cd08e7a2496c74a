//! Whether the expressions of a ValidatingAdmissionPolicy fit the objects they are going to see.
//!
//! A policy + the OpenAPI documents of the kinds it matches -> warnings for `status.typeChecking`. What is warned of is
//! let in all the same. Counterpart: `TypeChecker` of `apiserver/pkg/admission/plugin/policy/validating`.
//! Invariant: a kind of which nothing is known, or that contains itself, is not checked against.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use skiff_cel::DeclType;

use super::expressions::Scope;
use crate::field::Path;
use crate::kinds::at::At;
use crate::kinds::fill::{list, text};

/// More kinds than this are not looked at.
pub const TYPES_MAX: usize = 10;

/// Group, version and, as the place says, kind or plural name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub group: String,
    pub version: String,
    pub name: String,
}

/// A kind with what its document says of it.
pub struct Typed {
    pub kind: Named,
    pub decl: Arc<DeclType>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionWarning {
    pub field: String,
    pub warning: String,
}

/// The resources that a policy names without a star, rule by rule.
pub fn resources(policy: &Value) -> Vec<Named> {
    let mut found = Vec::new();
    for rule in list(policy, "/spec/matchConstraints/resourceRules") {
        let texts = |field: &str| -> BTreeSet<&str> {
            list(rule, field).iter().filter_map(Value::as_str).collect()
        };
        let (groups, versions) = (texts("/apiGroups"), texts("/apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let resources = texts("/resources");
        for group in &groups {
            for version in &versions {
                let plain = resources.iter().filter(|name| !name.contains(['*', '/']));
                found.extend(plain.map(|name| Named::new(group, version, name)));
            }
        }
    }
    found
}

/// The kind of a policy's parameters.
pub fn params(policy: &Value) -> Option<Named> {
    let kind = policy.pointer("/spec/paramKind")?;
    let version = text(kind, "/apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Some(Named::new(group, version, text(kind, "/kind")))
}

/// What an OpenAPI v3 document says of a kind.
pub fn declared(document: &Value, kind: &Named) -> Option<Arc<DeclType>> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let resolve = |reference: &str| schemas.get(reference.rsplit('/').next()?);
    let names_kind = |schema: &&Value| {
        list(schema, "/x-kubernetes-group-version-kind").iter().any(|gvk| {
            gvk["group"] == kind.group && gvk["version"] == kind.version && gvk["kind"] == kind.name
        })
    };
    let schema = schemas.values().find(names_kind)?;
    if contains_itself(schema, &resolve, &mut Vec::new()) {
        return None;
    }
    let decl = DeclType::from_schema_with(schema, true, &resolve)?;
    Some(Arc::new(decl.named(&kind.name)))
}

fn contains_itself<'s>(
    schema: &'s Value,
    resolve: &dyn Fn(&str) -> Option<&'s Value>,
    above: &mut Vec<&'s str>,
) -> bool {
    match schema {
        Value::Object(map) => map.iter().any(|(name, value)| match (name.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                if above.contains(&reference.as_str()) {
                    return true;
                }
                above.push(reference);
                let found =
                    resolve(reference).is_some_and(|it| contains_itself(it, resolve, above));
                above.pop();
                found
            }
            (_, value) => contains_itself(value, resolve, above),
        }),
        Value::Array(items) => items.iter().any(|item| contains_itself(item, resolve, above)),
        _ => false,
    }
}

/// Checks the validations of a policy against every kind.
pub fn check(
    policy: &Value,
    kinds: &[Typed],
    params: Option<&Arc<DeclType>>,
) -> Vec<ExpressionWarning> {
    let scopes: Vec<(String, Scope)> =
        kinds.iter().map(|typed| (typed.kind.to_string(), scope(policy, typed, params))).collect();
    let spec = At::new(&policy["spec"], Path::new("spec"));
    let mut warnings = Vec::new();
    for validation in spec.child("validations").items() {
        for field in ["expression", "messageExpression"] {
            let expression = validation.child(field);
            let told = |(kind, scope): &(String, Scope)| {
                let issues = scope.issues(expression.text())?;
                Some(format!("{kind}: {issues}\n"))
            };
            let found: Vec<String> = match expression.text() {
                "" => continue,
                _ => scopes.iter().filter_map(told).collect(),
            };
            if !found.is_empty() {
                let (field, warning) = (expression.path.to_string(), found.join("\n"));
                warnings.push(ExpressionWarning { field, warning });
            }
        }
    }
    warnings
}

fn scope(policy: &Value, typed: &Typed, params: Option<&Arc<DeclType>>) -> Scope {
    let has_params = policy.pointer("/spec/paramKind").is_some();
    let mut scope = Scope::of_kind(&typed.decl, has_params, params);
    for variable in list(policy, "/spec/variables") {
        // One that makes no sense was refused when it was written, or is told where it is used.
        let _ = scope.add_variable(text(variable, "/name"), text(variable, "/expression"));
    }
    scope
}

// === impl Named ===

impl Named {
    pub fn new(group: &str, version: &str, name: &str) -> Named {
        Named { group: group.to_owned(), version: version.to_owned(), name: name.to_owned() }
    }
}

/// As Go prints a kind: `apps/v1, Kind=Deployment`; the core group leaves its slash.
impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        let deployment = json!({
            "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Deployment"}],
            "type": "object",
            "properties": { "spec": { "allOf": [{ "$ref": "#/components/schemas/Spec" }] } },
        });
        let spec = json!({ "type": "object", "properties": {
            "replicas": { "type": "integer" }, "paused": { "type": "boolean" } } });
        let tree = json!({
            "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Tree"}],
            "type": "object",
            "properties": { "left": { "$ref": "#/components/schemas/Tree" } },
        });
        json!({ "components": { "schemas": { "Deployment": deployment, "Spec": spec, "Tree": tree } } })
    }

    fn policy(validations: Value) -> Value {
        let rule = json!({ "apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": ["deployments", "deployments/scale"] });
        json!({ "spec": {
            "matchConstraints": { "resourceRules": [rule] },
            "variables": [{ "name": "many", "expression": "object.spec.replicas > 3" }],
            "validations": validations,
        } })
    }

    fn warnings(validations: Value) -> Vec<ExpressionWarning> {
        let kind = Named::new("apps", "v1", "Deployment");
        let decl = declared(&document(), &kind).expect("the document names the kind");
        check(&policy(validations), &[Typed { kind, decl }], None)
    }

    #[test]
    fn resources_with_a_star_are_not_looked_at() {
        let named = Named::new("apps", "v1", "deployments");
        assert_eq!(resources(&policy(json!([]))), [named]);
        let mut starred = policy(json!([]));
        starred["spec"]["matchConstraints"]["resourceRules"][0]["apiVersions"] = json!(["*"]);
        assert_eq!(resources(&starred), []);
    }

    #[test]
    fn a_kind_that_contains_itself_is_not_checked_against() {
        assert!(declared(&document(), &Named::new("apps", "v1", "Tree")).is_none());
    }

    #[test]
    fn expressions_that_do_not_fit_the_kind_are_warned_of() {
        let fine = json!([{ "expression": "object.spec.replicas > 1 && variables.many" }]);
        assert_eq!(warnings(fine), []);
        let found = warnings(json!([
            { "expression": "object.foo < 1", "messageExpression": "object.spec.replicas" },
            { "expression": "object.spec.replicas == 'x'" },
        ]));
        let first = ExpressionWarning {
            field: "spec.validations[0].expression".to_owned(),
            warning: "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n | object.foo < 1\n | ......^\n".to_owned(),
        };
        assert_eq!(found[0], first);
        assert_eq!(found.len(), 2);
        assert!(
            found[1].warning.contains("no matching overload for '_==_' applied to '(int, string)'")
        );
    }
}
