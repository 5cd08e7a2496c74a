//! IngressClass: which controller routes an Ingress.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::{object, object_at, set, text};
use crate::kinds::rules::validate_domain_prefixed_path;
use crate::validation::{dns_label, dns_subdomain, path_segment};

pub struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, root: &mut Value) {
        let parameters = object_at(root, "/spec").and_then(|spec| object(spec, "parameters"));
        if let Some(parameters) = parameters {
            set(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let controller = spec.child("controller");
        if controller.text().len() > 250 {
            errors.too_long(&controller.path, 250);
        }
        validate_domain_prefixed_path(&controller, errors);
        let parameters = spec.child("parameters");
        if parameters.is_set() {
            validate_parameters(&parameters, errors);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        spec.child("controller").unchanged(errors, &was.child("controller"));
        self.validate(object, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Controller" => text(object, "/spec/controller").into(),
            "Parameters" => parameters(object).into(),
            _ => Value::Null,
        }
    }
}

/// `kind.group/name`.
fn parameters(class: &Value) -> String {
    let of = |field: &str| text(class, &format!("/spec/parameters/{field}"));
    match (of("kind"), of("apiGroup")) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", of("name")),
        (kind, group) => format!("{kind}.{group}/{}", of("name")),
    }
}

fn validate_parameters(parameters: &At, errors: &mut ErrorList) {
    parameters.child("apiGroup").obeys_if_given(errors, dns_subdomain);
    parameters.child("kind").needed_and_obeys(errors, path_segment);
    parameters.child("name").needed_and_obeys(errors, path_segment);
    let (scope, namespace) = (parameters.child("scope"), parameters.child("namespace"));
    match scope.text() {
        "Cluster" if namespace.is_set() => {
            namespace.forbidden(errors, "`parameters.scope` is set to 'Cluster'");
        }
        "Namespace" if !namespace.is_set() => {
            namespace.required(errors, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => namespace.obeys(errors, dns_label),
        "Cluster" => {}
        _ => scope.not_supported(errors, &["Cluster", "Namespace"]),
    }
}
