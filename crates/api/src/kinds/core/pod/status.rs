//! What can be wrong with what is reported of a Pod: states that cannot be left, addresses,
//! conditions, claims.
//!
//! Counterpart: `ValidatePodStatusUpdate`. What a report leaves out and is kept is decided here too.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kinds::at::{At, IMMUTABLE};
use crate::kinds::fill::{int, list, text};
use crate::kinds::rules::{ip_warning, lenient_ip, strict_ip};
use crate::validation::{dns_label, dns_subdomain, qualified_name};

const NOT_NEGATIVE: &str = "must be a non-negative integer";

/// Clients that know nothing of generations keep those reported before, condition by condition.
pub fn keep_generations(object: &mut Value, old: &Value) {
    let of = |value: &Value| value.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0);
    let mut known: Vec<&Value> = list(old, "/status/conditions").iter().collect();
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    let was = old.get("status").map_or(0, of);
    if was != 0 && status.get("observedGeneration").is_none_or(|now| now == 0) {
        status.insert("observedGeneration".into(), was.into());
    }
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let same = |other: &&Value| other["type"] == condition["type"];
        let Some(at) = known.iter().position(same) else { continue };
        let was = of(known.remove(at));
        if of(condition) == 0 && was != 0 {
            condition["observedGeneration"] = was.into();
        }
    }
}

pub fn validate_status(object: &Value, old: &Value, errors: &mut ErrorList) {
    let (root, before) = (At::root(object), At::root(old));
    let (spec, status) = (root.child("spec"), root.child("status"));
    let was = before.child("status");
    conditions(&status.child("conditions"), errors);
    nominated_node(&status, &was, &before.child("spec"), errors);
    let generation = status.child("observedGeneration");
    if generation.int() < 0 {
        generation.invalid(errors, NOT_NEGATIVE);
    }
    let class = status.child("qosClass");
    if class.text() != was.text_of("qosClass") {
        class.invalid_as(errors, class.text(), IMMUTABLE);
    }
    for (field, containers) in STATUSES {
        ended_states(&status.child(field), &was.child(field), &before, containers, errors);
    }
    claim_statuses(&spec, &status.child("resourceClaimStatuses"), errors);
    extended_claim(&spec, &status.child("extendedResourceClaimStatus"), errors);
    addresses(&status.child("podIPs"), &was.child("podIPs"), errors);
    host_addresses(&status, &was, errors);
    for (field, _) in STATUSES {
        users(&spec, &status.child(field), errors);
    }
    for (field, containers) in STATUSES {
        allocated(&spec.child(containers), &status.child(field), errors);
    }
    for (field, _) in STATUSES {
        mounted_images(&status.child(field), errors);
    }
}

pub fn status_warnings(object: &Value) -> Vec<String> {
    let root = At::root(object);
    let status = root.child("status");
    let warn = |list: &At| -> Vec<String> {
        let addresses = list.items();
        addresses.filter_map(|at| ip_warning(&at.child("ip").path, at.text_of("ip"))).collect()
    };
    let mut warnings = warn(&status.child("podIPs"));
    warnings.extend(warn(&status.child("hostIPs")));
    warnings
}

/// Lists of statuses, and of the containers they are about.
const STATUSES: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

fn conditions(conditions: &At, errors: &mut ErrorList) {
    for condition in conditions.items() {
        let generation = condition.child("observedGeneration");
        if generation.int() < 0 {
            generation.invalid(errors, NOT_NEGATIVE);
        }
        let of = condition.text_of("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&of) {
            for fault in qualified_name(of) {
                condition.child("Type").invalid_as(errors, of, fault);
            }
        }
    }
}

fn nominated_node(status: &At, was: &At, spec: &At, errors: &mut ErrorList) {
    let node = status.child("nominatedNodeName");
    if node.is_empty() || node.text() == was.text_of("nominatedNodeName") {
        return;
    }
    node.obeys(errors, dns_subdomain);
    if !spec.text_of("nodeName").is_empty() {
        node.forbidden(errors, "may not be set on pods that are already bound to a node");
    }
}

// === states ===

/// A container that has ended runs again only if it is to be restarted.
fn ended_states(now: &At, was: &At, pod: &At, containers: &str, errors: &mut ErrorList) {
    let ended = |status: &Value| status.pointer("/state/terminated").is_some();
    let spec = pod.child("spec");
    let restarts_all = containers != "ephemeralContainers" && could_restart_all(spec.value);
    for (index, before) in was.list().iter().enumerate().filter(|(_, before)| ended(before)) {
        let name = text(before, "/name");
        let after = now.list().iter().find(|after| text(after, "/name") == name && !ended(after));
        let code = int(before, "/state/terminated/exitCode").unwrap_or(0);
        let of_spec = spec.child(containers);
        let container = of_spec.list().iter().find(|container| text(container, "/name") == name);
        let restarts = containers != "ephemeralContainers"
            && container.is_some_and(|container| should_restart(container, spec.value, code));
        if after.is_some() && !restarts_all && !restarts {
            let place = now.path.index(index);
            errors.forbidden(
                &place.child("state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

fn could_restart_all(spec: &Value) -> bool {
    let lists = ["/initContainers", "/containers"].into_iter().flat_map(|of| list(spec, of));
    let mut rules = lists.flat_map(|container| list(container, "/restartPolicyRules"));
    rules.any(|rule| text(rule, "/action") == "RestartAllContainers")
}

/// The container's first rule that knows the exit code, else its policy, else the Pod's.
fn should_restart(container: &Value, spec: &Value, code: i64) -> bool {
    let own = text(container, "/restartPolicy");
    let known = |rule: &&Value| {
        let listed = list(rule, "/exitCodes/values").iter().any(|value| *value == code);
        match text(rule, "/exitCodes/operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    if !own.is_empty() && list(container, "/restartPolicyRules").iter().any(|rule| known(&rule)) {
        return true;
    }
    match if own.is_empty() { text(spec, "/restartPolicy") } else { own } {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

// === addresses ===

fn host_addresses(status: &At, was: &At, errors: &mut ErrorList) {
    let list = status.child("hostIPs");
    let Some(first) = list.items().next() else { return };
    if status.text_of("hostIP") != first.text_of("ip") {
        first.child("ip").invalid_as(errors, first.text_of("ip"), "must be equal to `hostIP`");
    }
    addresses(&list, &was.child("hostIPs"), errors);
}

/// New ones must be addresses, old ones may stay; one of each family.
fn addresses(list: &At, was: &At, errors: &mut ErrorList) {
    let address = |at: &Value| at["ip"].as_str().unwrap_or_default().to_owned();
    let known: Vec<String> = was.list().iter().map(address).collect();
    for at in list.items() {
        let text = at.text_of("ip");
        if !known.iter().any(|known| known == text) {
            strict_ip(text).into_iter().for_each(|fault| at.invalid_as(errors, text, fault));
        }
    }
    if list.list().len() < 2 {
        return;
    }
    let texts: Vec<String> = list.list().iter().map(address).collect();
    let parsed: Vec<_> = texts.iter().map(|text| lenient_ip(text)).collect();
    if let Some(at) = parsed.iter().position(Option::is_none) {
        let why = format!("invalid IP: {}", texts[at]);
        errors.internal(&list.path, format!("failed to check for dual stack with error:{why}"));
    }
    let families: HashSet<bool> = parsed.iter().flatten().map(|ip| ip.is_ipv4()).collect();
    let dual = families.len() == 2 && parsed.iter().all(Option::is_some);
    if !dual || texts.len() > 2 {
        list.invalid(errors, "may specify no more than one IP for each IP family");
    }
}

// === claims ===

fn claim_statuses(spec: &At, statuses: &At, errors: &mut ErrorList) {
    let claims = spec.child("resourceClaims");
    let mut names = HashSet::new();
    for status in statuses.items() {
        let name = status.child("name");
        if !claims.list().iter().any(|claim| text(claim, "/name") == name.text()) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            name.invalid_as(errors, name.text(), detail);
        }
        if !names.insert(status.text_of("name").to_owned()) {
            name.duplicate(errors);
        }
        status.child("resourceClaimName").obeys_if_given(errors, dns_subdomain);
    }
}

fn extended_claim(spec: &At, status: &At, errors: &mut ErrorList) {
    if !status.is_set() {
        return;
    }
    let mappings = status.child("requestMappings");
    if mappings.is_empty() {
        mappings.required(errors, "at least one request mapping is required");
    }
    let mut seen = HashSet::new();
    for mapping in mappings.items() {
        mapped_request(spec, status, &mapping, errors);
        let fields = ["containerName", "resourceName", "requestName"];
        if !seen.insert(fields.map(|field| mapping.text_of(field).to_owned())) {
            fields.iter().for_each(|field| mapping.child(field).duplicate(errors));
        }
    }
    status.child("resourceClaimName").needed_and_obeys(errors, dns_subdomain);
}

fn mapped_request(spec: &At, status: &At, mapping: &At, errors: &mut ErrorList) {
    let (container, resource) = (mapping.child("containerName"), mapping.child("resourceName"));
    let named = ["containers", "initContainers"].into_iter().find_map(|of| {
        spec.child(of).list().iter().find(|other| text(other, "/name") == container.text())
    });
    match named {
        None => {
            let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
            container.invalid_as(errors, container.text(), detail);
        }
        Some(named) if named["resources"]["requests"].get(resource.text()).is_none() => {
            let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
            resource.invalid_as(errors, resource.text(), detail);
        }
        Some(_) => {}
    }
    for fault in dns_label(mapping.text_of("requestName")) {
        status.child("requestName").invalid_as(errors, mapping.text_of("requestName"), fault);
    }
}

// === containers ===

fn users(spec: &At, statuses: &At, errors: &mut ErrorList) {
    let os = spec.child("os");
    for status in statuses.items() {
        let user = status.child("user");
        let user = user.child("linux");
        match os.text_of("name") {
            _ if !user.is_set() => {}
            "windows" => user.forbidden(errors, "cannot be set for a windows pod"),
            _ => {
                let groups = user.child("supplementalGroups");
                let ids = [user.child("uid"), user.child("gid")].into_iter().chain(groups.items());
                ids.for_each(|id| id.between(errors, 0..=i64::from(i32::MAX)));
            }
        }
    }
}

fn allocated(containers: &At, statuses: &At, errors: &mut ErrorList) {
    let ephemeral = containers.path.to_string().ends_with("ephemeralContainers");
    for status in statuses.items() {
        let resources = status.child("allocatedResourcesStatus");
        if ephemeral {
            if !resources.is_empty() {
                resources.forbidden(errors, "must not be specified in container status");
            }
            continue;
        }
        let name = status.text_of("name");
        let container = containers.list().iter().find(|container| text(container, "/name") == name);
        for resource in resources.items() {
            if let Some(container) = container {
                known_resource(container, &resource.child("name"), errors);
            }
            health(&resource.child("resources"), errors);
        }
    }
}

fn known_resource(container: &Value, name: &At, errors: &mut ErrorList) {
    let of_claim = |claim: &Value| match text(claim, "/request") {
        "" => format!("claim:{}", text(claim, "/name")),
        request => format!("claim:{}/{request}", text(claim, "/name")),
    };
    let (known, detail) = match name.text().starts_with("claim:") {
        true => (
            list(container, "/resources/claims").iter().any(|claim| of_claim(claim) == name.text()),
            "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
        ),
        false => (
            container["resources"]["requests"].get(name.text()).is_some(),
            "must match one of the container's resource requests",
        ),
    };
    if !known {
        name.invalid_as(errors, name.text(), detail);
    }
}

fn health(resources: &At, errors: &mut ErrorList) {
    let mut ids = HashSet::new();
    for resource in resources.items() {
        resource.child("health").one_of(errors, &["Healthy", "Unhealthy", "Unknown"]);
        let message = resource.child("message");
        if message.is_set() && message.is_empty() {
            message.required(errors, "must be non-empty if specified");
        }
        let id = resource.child("resourceID");
        if !ids.insert(resource.text_of("resourceID").to_owned()) {
            id.duplicate(errors);
        }
    }
}

fn mounted_images(statuses: &At, errors: &mut ErrorList) {
    const LONGEST: usize = 256;
    for status in statuses.items() {
        for mount in status.child("volumeMounts").items() {
            let volume = mount.child("volumeStatus");
            if !volume.has("image") {
                continue;
            }
            let image = At::new(&volume.value["image"], volume.path);
            let image = image.under("imageVolumeStatus");
            let reference = image.child("imageRef");
            if reference.is_empty() {
                reference.required(errors, "imageRef must not be empty");
            }
            if reference.text().len() > LONGEST {
                errors.too_long(&reference.path, LONGEST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(object: Value, old: Value) -> Vec<String> {
        let mut errors = ErrorList::default();
        validate_status(&object, &old, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_ended_does_not_run_again_unless_it_is_restarted() {
        let pod = |policy: &str, state: Value| {
            json!({
                "spec": {"restartPolicy": policy, "containers": [{"name": "c"}]},
                "status": {"containerStatuses": [{"name": "c", "state": state}]},
            })
        };
        let ended = json!({"terminated": {"exitCode": 0}});
        let running = json!({"running": {}});
        let change =
            |policy: &str| faults(pod(policy, running.clone()), pod(policy, ended.clone()));
        assert_eq!(change("Always"), Vec::<String>::new());
        let expected = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
        assert_eq!(change("OnFailure"), [expected]);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        let pod = |ip: &str| json!({"status": {"podIPs": [{"ip": ip}]}});
        let expected = "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        assert_eq!(faults(pod("x"), json!({})), [expected]);
        assert_eq!(faults(pod("x"), pod("x")), Vec::<String>::new());
    }

    #[test]
    fn generations_reported_before_are_kept() {
        let old = json!({"status": {"observedGeneration": 3, "conditions": [
            {"type": "Ready", "observedGeneration": 2},
        ]}});
        let mut new = json!({"status": {"conditions": [{"type": "Ready"}, {"type": "Other"}]}});
        keep_generations(&mut new, &old);
        assert_eq!(new["status"]["observedGeneration"], 3);
        assert_eq!(new["status"]["conditions"][0]["observedGeneration"], 2);
        assert_eq!(new["status"]["conditions"][1].get("observedGeneration"), None);
    }
}
