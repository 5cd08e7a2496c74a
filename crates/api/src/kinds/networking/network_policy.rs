//! NetworkPolicy: who may speak to Pods, and to whom they may speak.
//!
//! Counterparts: `SetDefaults_NetworkPolicy`, `ValidateNetworkPolicySpec`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::{count, each, list, made_at, set, text};
use crate::kinds::rules::{cidr_warnings, masked, parse_cidr, strict_cidr};
use crate::kinds::selectors::validate_label_selector;
use crate::kinds::workload::label_selector;

pub struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    /// Upstream compares the specs bit by bit.
    fn counts_empties(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let egress = count(object, "/spec/egress") > 0;
        let Some(spec) = made_at(object, "/spec") else { return };
        if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            spec.insert("policyTypes".into(), types);
        }
        for direction in ["ingress", "egress"] {
            for rule in each(spec, direction) {
                each(rule, "ports").for_each(|port| set(port, "protocol", "TCP"));
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_policy(object, &[], errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let blocks = DIRECTIONS.iter().flat_map(|(direction, peers)| {
            let rules = list(old, &format!("/spec/{direction}")).iter();
            rules.flat_map(move |rule| list(rule, &format!("/{peers}")))
        });
        let ranges = blocks.flat_map(|peer| {
            let except = list(peer, "/ipBlock/except").iter().filter_map(Value::as_str);
            except.chain([text(peer, "/ipBlock/cidr")])
        });
        validate_policy(object, &ranges.collect::<Vec<_>>(), errors);
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::root(object);
        let spec = root.child("spec");
        for (direction, peers) in DIRECTIONS {
            for rule in spec.child(direction).items() {
                for peer in rule.child(peers).items() {
                    warn_block(&peer.child("ipBlock"), &mut warnings);
                }
            }
        }
        warnings
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Pod-Selector" => label_selector(object.pointer("/spec/podSelector")).into(),
            _ => Value::Null,
        }
    }
}

const DIRECTIONS: &[(&str, &str)] = &[("ingress", "from"), ("egress", "to")];

fn warn_block(block: &At, warnings: &mut Vec<String>) {
    let range = block.child("cidr");
    warnings.extend(cidr_warnings(&range.path, range.text()));
    for except in block.child("except").items() {
        warnings.extend(cidr_warnings(&except.path, except.text()));
    }
}

/// `known`: ranges that the object has had are not held against an update.
fn validate_policy(object: &Value, known: &[&str], errors: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.child("spec");
    validate_label_selector(&spec.child("podSelector"), errors);
    for (direction, peers) in DIRECTIONS {
        for rule in spec.child(direction).items() {
            rule.child("ports").items().for_each(|port| validate_port(&port, errors));
            rule.child(peers).items().for_each(|peer| validate_peer(&peer, known, errors));
        }
    }
    let types = spec.child("policyTypes");
    if types.list().len() > 2 {
        return types.invalid(errors, "may not specify more than two policyTypes");
    }
    types.items().for_each(|of| of.one_of(errors, &["Ingress", "Egress"]));
}

fn validate_port(port: &At, errors: &mut ErrorList) {
    port.child("protocol").one_of_if_set(errors, &["TCP", "UDP", "SCTP"]);
    let (number, end) = (port.child("port"), port.child("endPort"));
    match number.value {
        Value::Null if end.is_set() => {
            end.invalid(errors, "may not be specified when `port` is not specified");
        }
        Value::Null => {}
        Value::String(_) => {
            if end.is_set() {
                end.invalid(errors, "may not be specified when `port` is non-numeric");
            }
            number.port_or_name(errors);
        }
        _ => {
            number.port(errors);
            if end.is_set() && end.int() < number.int() {
                // The port is what upstream shows here.
                end.invalid_as(errors, number.int(), "must be greater than or equal to `port`");
            }
            if end.is_set() {
                end.port(errors);
            }
        }
    }
}

fn validate_peer(peer: &At, known: &[&str], errors: &mut ErrorList) {
    let mut selectors = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            selectors += 1;
            validate_label_selector(&peer.child(field), errors);
        }
    }
    let block = peer.child("ipBlock");
    if block.is_set() {
        validate_block(&block, known, errors);
    }
    match (selectors > 0, block.is_set()) {
        (true, true) => peer.forbidden(errors, "may not specify both ipBlock and another peer"),
        (false, false) => peer.required(errors, "must specify a peer"),
        _ => {}
    }
}

fn validate_block(block: &At, known: &[&str], errors: &mut ErrorList) {
    let range = block.child("cidr");
    if !range.needed(errors) {
        return;
    }
    validate_range(&range, known, errors);
    let Some(outer) = parse_cidr(range.text()) else { return };
    for except in block.child("except").items() {
        validate_range(&except, known, errors);
        let Some(inner) = parse_cidr(except.text()) else { continue };
        let inside = inner.0.is_ipv4() == outer.0.is_ipv4()
            && inner.1 > outer.1
            && masked((inner.0, outer.1)) == masked(outer);
        if !inside {
            except.invalid(errors, "must be a strict subset of `cidr`");
        }
    }
}

fn validate_range(range: &At, known: &[&str], errors: &mut ErrorList) {
    if !known.contains(&range.text()) {
        range.obeys(errors, strict_cidr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::{check, check_update};

    #[test]
    fn a_block_holds_its_exceptions() {
        let policy = |except: &str| {
            format!(
                "spec: {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [{except}]}}}}]}}]}}"
            )
        };
        let path = "networking.k8s.io/v1/networkpolicies";
        check(path, &policy("10.1.0.0/16"), &[]);
        check(
            path,
            &policy("11.0.0.0/16"),
            &[
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ],
        );
    }

    #[test]
    fn a_range_with_stray_bits_is_for_policies_that_had_it() {
        let policy = |range: &str| {
            format!(
                "spec: {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: {range}}}}}]}}]}}"
            )
        };
        let path = "networking.k8s.io/v1/networkpolicies";
        let fault = "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length";
        check(path, &policy("10.0.0.1/8"), &[fault]);
        check_update(path, &policy("10.0.0.0/8"), &policy("10.0.0.1/8"), &[fault]);
        check_update(path, &policy("10.0.0.1/8"), &policy("10.0.0.1/8"), &[]);
    }

    #[test]
    fn a_policy_without_a_spec_is_for_what_comes_in() {
        let mut policy = json!({"metadata": {"name": "p"}});
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    }
}
