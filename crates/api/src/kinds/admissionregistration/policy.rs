//! Validating- and MutatingAdmissionPolicy, and the bindings that put them to work.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::expressions::{Purpose, Scope};
use super::matching::{
    FAILURE_POLICIES, compiled, default_match, default_rules, validate_conditions,
    validate_match_resources,
};
use crate::field::ErrorList;
use crate::kind::{FieldPaths, KindDef, META_AND_SPEC, Strategy};
use crate::kinds::at::At;
use crate::kinds::conditions::validate_conditions as validate_status_conditions;
use crate::kinds::fill::{Object, list, made_at, object as object_in, object_at, set, text};
use crate::kinds::rules::one_line;
use crate::kinds::selectors::validate_label_selector;
use crate::meta::meta;
use crate::validation::{dns_1035_label, dns_subdomain, path_segment, qualified_name};

const AUDITS_MAX: usize = 20;
const AUDIT_EXPRESSION_MAX: usize = 5 * 1024;

pub struct ValidatingPolicy;
pub struct MutatingPolicy;

pub struct Binding {
    pub validating: bool,
}

// === impl ValidatingPolicy ===

impl Strategy for ValidatingPolicy {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = made_at(object, "/spec") {
            default_policy(spec);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let mut scope = Scope::of_policy(spec.has("paramKind")).with_variables_of(spec.value);
        validate_policy(&spec, &mut scope, errors);
        let (validations, audits) = (spec.child("validations"), spec.child("auditAnnotations"));
        if validations.is_empty() && audits.is_empty() {
            let detail = "validations or auditAnnotations must contain at least one item";
            validations.required(errors, detail);
            return audits.required(errors, detail);
        }
        for validation in validations.items() {
            validate_validation(&validation, &scope, errors);
        }
        validate_audits(meta(object).name(), &audits, &scope, errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let status = root.child("status");
        let checking = status.child("typeChecking");
        for warning in checking.child("expressionWarnings").items() {
            warning.child("warning").needed(errors);
            if warning.text_of("fieldRef").trim().is_empty() {
                warning.child("fieldRef").required(errors, "");
            }
        }
        validate_status_conditions(&status.child("conditions"), errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Validations" => list(object, "/spec/validations").len().into(),
            "ParamKind" => param_kind(object).into(),
            _ => Value::Null,
        }
    }
}

fn validate_validation(validation: &At, scope: &Scope, errors: &mut ErrorList) {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    let expression = validation.child("expression");
    check_expression(&expression, scope, Purpose::Condition, errors);
    let told = validation.child("messageExpression");
    match told.text() {
        "" => {}
        text if text.trim().is_empty() => told.invalid(errors, "must be non-empty if specified"),
        text => compiled(scope.compile(text, Purpose::Message), text, &told, errors),
    }
    let message = validation.child("message");
    if !message.text().is_empty() && message.text().trim().is_empty() {
        message.invalid(errors, "must be non-empty if specified");
    } else {
        message.obeys_if_set(errors, one_line);
    }
    validation.child("reason").one_of_if_set(errors, REASONS);
}

fn check_expression(expression: &At, scope: &Scope, purpose: Purpose, errors: &mut ErrorList) {
    match expression.text() {
        text if text.trim().is_empty() => {
            expression.required(errors, "expression is not specified")
        }
        text => compiled(scope.compile(text, purpose), text, expression, errors),
    }
}

/// Keys are qualified with the policy's name when they are written.
fn validate_audits(policy: &str, audits: &At, scope: &Scope, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    if audits.list().len() > AUDITS_MAX {
        audits.invalid(errors, format!("must not have more than {AUDITS_MAX} auditAnnotations"));
    }
    for audit in audits.items() {
        let key = audit.child("key");
        let full = format!("{policy}/{}", key.text());
        match policy {
            "" => key.invalid_as(errors, key.text(), "requires metadata.name be non-empty"),
            _ => qualified_name(&full)
                .into_iter()
                .for_each(|fault| key.invalid_as(errors, full.as_str(), fault)),
        }
        let value = audit.child("valueExpression");
        match value.text().trim() {
            "" => value.required(errors, "valueExpression is not specified"),
            text if text.len() > AUDIT_EXPRESSION_MAX => {
                let detail = format!("must not exceed {AUDIT_EXPRESSION_MAX} bytes in length");
                value.required(errors, &detail);
            }
            text => {
                let outcome = scope.compile(text, Purpose::AuditAnnotation);
                compiled(outcome, value.text(), &value, errors);
            }
        }
        if !seen.insert(key.text()) {
            key.duplicate(errors);
        }
    }
}

// === impl MutatingPolicy ===

impl Strategy for MutatingPolicy {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = made_at(object, "/spec") {
            default_policy(spec);
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let mut scope = Scope::of_policy(spec.has("paramKind")).with_variables().with_patches();
        validate_policy(&spec, &mut scope, errors);
        validate_operations(&spec.child("matchConstraints"), errors);
        let mutations = spec.child("mutations");
        if mutations.is_empty() {
            mutations.required(errors, "mutations must contain at least one item");
        }
        for mutation in mutations.items() {
            validate_mutation(&mutation, &scope, errors);
        }
        let again = spec.child("reinvocationPolicy");
        again.needed_one_of(errors, &["IfNeeded", "Never"]);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Mutations" => list(object, "/spec/mutations").len().into(),
            "ParamKind" => param_kind(object).into(),
            _ => Value::Null,
        }
    }
}

/// There is nothing to change in what is deleted.
fn validate_operations(constraints: &At, errors: &mut ErrorList) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
    // Upstream names no index here.
    let rules = constraints.child("resourceRules");
    for rule in rules.items() {
        for operation in rule.child("operations").items() {
            let at = At::new(operation.value, rules.path.child("operations"));
            at.one_of(errors, OPERATIONS);
        }
    }
}

fn validate_mutation(mutation: &At, scope: &Scope, errors: &mut ErrorList) {
    let of = mutation.child("patchType");
    let (wanted, other, purpose) = match of.text() {
        "" => return of.required(errors, ""),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Purpose::ApplyConfiguration),
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Purpose::JsonPatch),
        _ => return of.not_supported(errors, &["ApplyConfiguration", "JSONPatch"]),
    };
    let holder = mutation.child(wanted);
    let expression = holder.child("expression");
    match expression.text().trim() {
        _ if !holder.is_set() => {
            holder.required(errors, &format!("must be specified when patchType is {}", of.text()));
        }
        "" => expression.required(errors, ""),
        text => compiled(scope.compile(text, purpose), text, &expression, errors),
    }
    if mutation.has(other) {
        let detail = format!("must not be specified when patchType is {}", of.text());
        mutation.child(other).invalid_as(errors, format!("{{{other}}}"), detail);
    }
}

// === what both policies share ===

fn default_policy(spec: &mut Object) {
    set(spec, "failurePolicy", "Fail");
    if let Some(constraints) = object_in(spec, "matchConstraints") {
        default_match(constraints);
        default_rules(constraints, "resourceRules");
        default_rules(constraints, "excludeResourceRules");
    }
}

fn validate_policy(spec: &At, scope: &mut Scope, errors: &mut ErrorList) {
    spec.child("failurePolicy").needed_one_of(errors, FAILURE_POLICIES);
    let kind = spec.child("paramKind");
    if kind.is_set() {
        validate_param_kind(&kind, errors);
    }
    let constraints = spec.child("matchConstraints");
    if constraints.is_set() {
        validate_match_resources(&constraints, errors);
        constraints.child("resourceRules").needed(errors);
    } else {
        constraints.required(errors, "");
    }
    let conditions = Scope::of_conditions(spec.has("paramKind"));
    validate_conditions(&spec.child("matchConditions"), &conditions, errors);
    validate_variables(&spec.child("variables"), scope, errors);
}

fn validate_param_kind(kind: &At, errors: &mut ErrorList) {
    let version = kind.child("apiVersion");
    if version.needed(errors) {
        validate_group_version(&version, errors);
    }
    let kind = kind.child("kind");
    let faults = dns_1035_label(&kind.text().to_lowercase()).join(",");
    if kind.needed(errors) && !faults.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {faults}");
        kind.invalid(errors, detail);
    }
}

fn validate_group_version(at: &At, errors: &mut ErrorList) {
    let (group, version) = match at.text().split('/').collect::<Vec<_>>()[..] {
        [version] => ("", version),
        [group, version] => (group, version),
        _ => {
            let detail = format!("unexpected GroupVersion string: {}", at.text());
            return at.invalid(errors, detail);
        }
    };
    let group_faults = dns_subdomain(group).join(",");
    if !group.is_empty() && !group_faults.is_empty() {
        at.invalid_as(errors, group, group_faults);
    }
    let faults = dns_1035_label(version).join(",");
    match version {
        "" => at.invalid(errors, "version must be specified"),
        _ if faults.is_empty() => {}
        version => at.invalid_as(errors, version, faults),
    }
}

fn validate_variables(variables: &At, scope: &mut Scope, errors: &mut ErrorList) {
    for variable in variables.items() {
        let (name, expression) = (variable.child("name"), variable.child("expression"));
        if name.text().trim().is_empty() {
            name.required(errors, "name is not specified");
        } else if !is_identifier(name.text()) {
            name.invalid(errors, "must be a valid CEL identifier");
        }
        match expression.text() {
            text if text.trim().is_empty() => {
                expression.required(errors, "expression is not specified");
            }
            text => compiled(scope.add_variable(name.text(), text), text, &expression, errors),
        }
    }
}

fn is_identifier(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fine = starts && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    // A word of the language would be written with underscores around it.
    fine && skiff_cel::escape(text).is_none_or(|written| written != format!("__{text}__"))
}

fn param_kind(policy: &Value) -> String {
    match policy.pointer("/spec/paramKind") {
        Some(kind) => format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind")),
        None => "<unset>".to_owned(),
    }
}

// === impl Binding ===

impl Strategy for Binding {
    fn default(&self, object: &mut Value) {
        let resources =
            object_at(object, "/spec").and_then(|spec| object_in(spec, "matchResources"));
        if let Some(resources) = resources {
            default_match(resources);
            default_rules(resources, "resourceRules");
            default_rules(resources, "excludeResourceRules");
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let policy = spec.child("policyName");
        policy.needed_and_obeys(errors, dns_subdomain);
        let params = spec.child("paramRef");
        if params.is_set() {
            validate_params(&params, errors);
        }
        let resources = spec.child("matchResources");
        if resources.is_set() {
            validate_match_resources(&resources, errors);
        }
        if self.validating {
            validate_actions(&spec.child("validationActions"), errors);
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "PolicyName" => text(object, "/spec/policyName").into(),
            "ParamRef" => param_ref(object).into(),
            _ => Value::Null,
        }
    }
}

/// `namespace/name`, with a star for any.
fn param_ref(binding: &Value) -> String {
    let Some(params) = binding.pointer("/spec/paramRef") else { return "<unset>".to_owned() };
    let or_star = |value: &str| if value.is_empty() { "*".to_owned() } else { value.to_owned() };
    format!("{}/{}", or_star(text(params, "/namespace")), or_star(text(params, "/name")))
}

fn validate_params(params: &At, errors: &mut ErrorList) {
    let (name, selector) = (params.child("name"), params.child("selector"));
    let (named, selected) = (!name.is_empty(), selector.is_set());
    name.obeys_if_set(errors, path_segment);
    if named && selected {
        name.forbidden(errors, "name and selector are mutually exclusive");
    }
    if selected {
        validate_label_selector(&selector, errors);
    }
    match (named, selected) {
        (true, true) => selector.forbidden(errors, "name and selector are mutually exclusive"),
        (false, false) => params.required(errors, "one of name or selector must be specified"),
        _ => {}
    }
    let action = params.child("parameterNotFoundAction");
    action.needed_one_of(errors, &["Deny", "Allow"]);
}

fn validate_actions(actions: &At, errors: &mut ErrorList) {
    if actions.is_empty() {
        return actions.required(errors, "at least one validation action is required");
    }
    let mut seen = HashSet::new();
    for action in actions.items() {
        action.one_of(errors, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.text()) {
            action.duplicate(errors);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        actions.invalid(errors, detail);
    }
}
