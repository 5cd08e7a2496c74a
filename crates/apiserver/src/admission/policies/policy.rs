//! Policies and bindings, decided once: whom they are about, and their expressions as programs.
//!
//! Counterpart: `policy/generic/policy_source.go` and `compilePolicy` of both kinds.

use std::collections::HashMap;

use serde_json::Value;
use skiff_api::kinds::admissionregistration::expressions::{Purpose, Scope};
use skiff_api::meta::meta;
use skiff_api::{Reason, Status};

use crate::admission::Request;
use crate::admission::evaluation::{Conditions, Expression, Variable};
use crate::admission::matching::{Criteria, Interest};

/// Every policy of one kind that has bindings, by name.
pub struct Policies {
    pub interest: Interest,
    pub list: Vec<Policy>,
}

pub struct Policy {
    pub name: String,
    pub criteria: Criteria,
    pub ignores_failures: bool,
    /// Version and kind of its parameters.
    pub param_kind: Option<(String, String)>,
    pub conditions: Conditions,
    pub variables: Vec<Variable>,
    pub validations: Vec<Validation>,
    pub audits: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
    pub reinvoke: bool,
    pub bindings: Vec<Binding>,
}

pub struct Binding {
    pub name: String,
    pub actions: Vec<Action>,
    /// `paramRef`, or null.
    pub param_ref: Value,
    criteria: Option<Criteria>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Deny,
    Warn,
    Audit,
}

pub struct Validation {
    pub expression: Expression,
    pub message_expression: Option<Expression>,
    pub message: String,
    pub reason: Reason,
}

pub enum Mutation {
    Apply(Expression),
    JsonPatch(Expression),
}

// === impl Policies ===

impl Policies {
    pub fn read(policies: &[Value], bindings: &[Value]) -> Policies {
        let mut by_policy: HashMap<&str, Vec<Binding>> = HashMap::new();
        for binding in bindings {
            let policy = binding["spec"]["policyName"].as_str().unwrap_or("");
            by_policy.entry(policy).or_default().push(Binding::read(binding));
        }
        let bound = policies.iter().filter_map(|policy| {
            let bindings = by_policy.remove(meta(policy).name())?;
            Some(Policy::read(policy, bindings))
        });
        let mut list: Vec<Policy> = bound.collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let mut interest = Interest::default();
        list.iter().for_each(|policy| interest.add(&policy.criteria));
        Policies { interest, list }
    }
}

// === impl Policy ===

impl Policy {
    fn read(policy: &Value, mut bindings: Vec<Binding>) -> Policy {
        bindings.sort_by(|a, b| a.name.cmp(&b.name));
        let spec = &policy["spec"];
        let param_kind = spec["paramKind"].as_object().map(|kind| {
            let text = |field: &str| kind.get(field).and_then(Value::as_str).unwrap_or("");
            (text("apiVersion").to_owned(), text("kind").to_owned())
        });
        let conditions = Conditions::read(&spec["matchConditions"], param_kind.is_some());
        let mut scope = Scope::of_policy(param_kind.is_some()).with_patches();
        let list = |field: &str| spec[field].as_array().into_iter().flatten();
        let variables = list("variables").map(|variable| Variable::read(variable, &mut scope));
        let variables: Vec<Variable> = variables.collect();
        let audit = |audit: &Value| {
            let key = audit["key"].as_str().unwrap_or("").to_owned();
            let value = &audit["valueExpression"];
            (key, Expression::read(value, &scope, Purpose::AuditAnnotation))
        };
        Policy {
            name: meta(policy).name().to_owned(),
            criteria: Criteria::read(&spec["matchConstraints"], "resourceRules"),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            param_kind,
            conditions,
            variables,
            validations: list("validations").map(|v| Validation::read(v, &scope)).collect(),
            audits: list("auditAnnotations").map(audit).collect(),
            mutations: list("mutations").map(|m| Mutation::read(m, &scope)).collect(),
            reinvoke: spec["reinvocationPolicy"] == "IfNeeded",
            bindings,
        }
    }
}

// === impl Validation ===

impl Validation {
    fn read(validation: &Value, scope: &Scope) -> Validation {
        let text = |field: &str| validation[field].as_str().unwrap_or("").trim();
        let told = Some(&validation["messageExpression"])
            .filter(|_| !text("messageExpression").is_empty());
        Validation {
            expression: Expression::read(&validation["expression"], scope, Purpose::Condition),
            message_expression: told.map(|told| Expression::read(told, scope, Purpose::Message)),
            message: text("message").to_owned(),
            reason: match text("reason") {
                "" => Reason::Invalid,
                reason => Reason::named(reason),
            },
        }
    }
}

// === impl Mutation ===

impl Mutation {
    fn read(mutation: &Value, scope: &Scope) -> Mutation {
        let read = |holder: &str, purpose: Purpose| {
            Expression::read(&mutation[holder]["expression"], scope, purpose)
        };
        match mutation["patchType"].as_str() {
            Some("JSONPatch") => Mutation::JsonPatch(read("jsonPatch", Purpose::JsonPatch)),
            _ => Mutation::Apply(read("applyConfiguration", Purpose::ApplyConfiguration)),
        }
    }
}

// === impl Binding ===

impl Binding {
    fn read(binding: &Value) -> Binding {
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        let resources = Some(&spec["matchResources"]).filter(|resources| resources.is_object());
        Binding {
            name: meta(binding).name().to_owned(),
            actions: actions.filter_map(Action::read).collect(),
            param_ref: spec["paramRef"].clone(),
            criteria: resources.map(|resources| Criteria::read(resources, "resourceRules")),
        }
    }

    pub async fn matches(&self, request: &Request<'_>, object: &Value) -> Result<bool, Status> {
        match &self.criteria {
            Some(criteria) => criteria.matches_if_set(request, object).await,
            None => Ok(true),
        }
    }
}

// === impl Action ===

impl Action {
    fn read(action: &Value) -> Option<Action> {
        match action.as_str()? {
            "Deny" => Some(Action::Deny),
            "Warn" => Some(Action::Warn),
            "Audit" => Some(Action::Audit),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Action::Deny => "Deny",
            Action::Warn => "Warn",
            Action::Audit => "Audit",
        }
    }
}
