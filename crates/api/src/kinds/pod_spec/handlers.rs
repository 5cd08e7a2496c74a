//! What can be wrong with probes and lifecycle hooks: exactly one handler, and its settings.
//!
//! Counterpart: `validateHandler`, `validateProbe`, `validateLifecycle`.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::http_header_name;

pub fn validate_lifecycle(lifecycle: &At, grace: i64, errors: &mut ErrorList) {
    for hook in ["postStart", "preStop"] {
        if lifecycle.has(hook) {
            handler(&lifecycle.child(hook), Some(grace), errors);
        }
    }
}

pub fn validate_probes(container: &At, grace: i64, errors: &mut ErrorList) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let at = container.child(name);
        if !at.is_set() {
            continue;
        }
        probe(&at, grace, errors);
        if name == "readinessProbe" {
            let own_grace = at.child("terminationGracePeriodSeconds");
            if own_grace.is_set() {
                own_grace.invalid(errors, "must not be set for readinessProbes");
            }
        } else if at.child("successThreshold").int() != 1 {
            at.child("successThreshold").invalid(errors, "must be 1");
        }
    }
}

fn probe(probe: &At, grace: i64, errors: &mut ErrorList) {
    handler(probe, Some(grace), errors);
    probe.not_negative_each(
        errors,
        &[
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ],
    );
    let own_grace = probe.child("terminationGracePeriodSeconds");
    if own_grace.is_set() && own_grace.int() <= 0 {
        own_grace.invalid(errors, "must be greater than 0");
    }
}

fn handler(holder: &At, grace: Option<i64>, errors: &mut ErrorList) {
    let mut given = 0;
    for field in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        if !holder.has(field) {
            continue;
        }
        given += 1;
        let at = holder.child(field);
        if given > 1 {
            at.forbidden(errors, "may not specify more than 1 handler type");
            continue;
        }
        match field {
            "exec" => {
                at.child("command").needed(errors);
            }
            "httpGet" => http_get(&at, errors),
            "sleep" => sleep(&at, grace.unwrap_or_default(), errors),
            _ => at.child("port").port_or_name(errors),
        }
    }
    if given == 0 {
        holder.required(errors, "must specify a handler type");
    }
}

fn http_get(get: &At, errors: &mut ErrorList) {
    get.child("path").needed(errors);
    get.child("port").port_or_name(errors);
    get.child("scheme").one_of(errors, &["HTTP", "HTTPS"]);
    let headers = get.child("httpHeaders");
    for header in headers.items() {
        let name = header.text_of("name");
        for fault in http_header_name(name) {
            headers.invalid_as(errors, name, fault);
        }
    }
}

fn sleep(sleep: &At, grace: i64, errors: &mut ErrorList) {
    let seconds = sleep.child("seconds").int();
    if !(0..=grace).contains(&seconds) {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        sleep.invalid_as(errors, seconds, detail);
    }
}
