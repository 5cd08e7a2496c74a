//! What can be wrong with the ports of containers: numbers, names, and two that want the same port
//! of the node.
//!
//! Counterparts: `validateContainerPorts`, `checkHostPortConflicts`, `validatePodHostNetworkDeps`.

use std::collections::HashSet;

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::validation::port_name;

pub fn validate_ports(ports: &At, errors: &mut ErrorList) {
    let mut names = HashSet::new();
    for port in ports.items() {
        let name = port.child("name");
        let faults = if name.is_empty() { Vec::new() } else { port_name(name.text()) };
        if faults.is_empty() && !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(errors);
        }
        faults.into_iter().for_each(|fault| name.invalid(errors, fault));
        match port.child("containerPort") {
            number if number.int() == 0 => number.required(errors, ""),
            number => number.port(errors),
        }
        if port.child("hostPort").int() != 0 {
            port.child("hostPort").port(errors);
        }
        port.child("protocol").needed_one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

/// Among these containers a port of the node is asked for once.
pub fn validate_unique_host_ports<'v, 'p>(
    containers: impl Iterator<Item = At<'v, 'p>>,
    errors: &mut ErrorList,
) {
    let mut taken = HashSet::new();
    for container in containers {
        for port in container.child("ports").items() {
            let number = port.child("hostPort").int();
            let key = format!("{}/{}/{number}", port.text_of("protocol"), port.text_of("hostIP"));
            if number != 0 && !taken.insert(key.clone()) {
                errors.duplicate(&port.child("hostPort").path, key);
            }
        }
    }
}

/// With the node's network a container's port is the node's port; a template may leave it open.
pub fn validate_host_network_ports(spec: &At, of_pod: bool, errors: &mut ErrorList) {
    for container in spec.child("containers").items() {
        for port in container.child("ports").items() {
            let host = port.child("hostPort");
            let given = of_pod || host.int() != 0;
            if given && host.int() != port.child("containerPort").int() {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                host.invalid_as(errors, host.int(), detail);
            }
        }
    }
}
