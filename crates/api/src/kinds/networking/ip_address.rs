//! IPAddress: one address taken from a ServiceCIDR, named after itself.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{NameRule, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::text;
use crate::kinds::rules::strict_ip;
use crate::meta::meta;
use crate::validation::{dns_subdomain, path_segment};

pub struct IPAddress;

impl Strategy for IPAddress {
    fn name_rule(&self) -> NameRule {
        NameRule::Custom
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let name = meta(object).name();
        for fault in name_faults(name).into_iter().filter(|_| !name.is_empty()) {
            root.child("metadata").child("name").invalid_as(errors, name, fault);
        }
        validate_parent(&root.child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        validate_parent(&spec, errors);
        spec.child("parentRef").unchanged(errors, &was.child("parentRef"));
    }

    fn ends_with_age(&self) -> bool {
        true
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "ParentRef" => parent(object).into(),
            _ => Value::Null,
        }
    }
}

fn validate_parent(spec: &At, errors: &mut ErrorList) {
    let parent = spec.child("parentRef");
    if !parent.is_set() {
        return parent.required(errors, "");
    }
    parent.child("group").obeys_if_set(errors, dns_subdomain);
    parent.child("resource").needed_and_obeys(errors, path_segment);
    parent.child("name").needed_and_obeys(errors, path_segment);
    parent.child("namespace").obeys_if_set(errors, path_segment);
}

/// An address in the one form that names it.
fn name_faults(name: &str) -> Vec<String> {
    let faults = strict_ip(name);
    match name.parse::<IpAddr>() {
        Ok(address) if faults.is_empty() && address.to_string() != name => {
            vec![format!("must be in canonical form (\"{address}\")")]
        }
        _ => faults,
    }
}

/// `resource.group/namespace/name`.
fn parent(address: &Value) -> String {
    let of = |field: &str| text(address, &format!("/spec/parentRef/{field}"));
    let mut shown = of("resource").to_owned();
    if !of("group").is_empty() {
        shown.push('.');
        shown.push_str(of("group"));
    }
    for part in [of("namespace"), of("name")] {
        if !part.is_empty() {
            shown.push('/');
            shown.push_str(part);
        }
    }
    shown
}
