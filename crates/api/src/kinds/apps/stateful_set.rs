//! StatefulSet: ordered Pods with names and claims of their own.

use std::collections::BTreeSet;

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::core::persistent_volume_claim::{validate_claim_spec, warn_claim_spec};
use crate::kinds::pod_spec::validate::{
    validate_running_always, validate_selected, validate_template, validate_template_labels,
};
use crate::kinds::workload::template_warnings;
use serde_json::{Value, json};

use crate::kind::{KindDef, NameRule, Strategy, keep};
use crate::kinds::fill::{Object, each, int, list, made, object, object_at, set, text};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{
    validate_collision_count, validate_counts, validate_workload_selector, workload_cell,
};
use crate::validation::dns_label;

const KEEPS_ALL_REVISIONS: &str = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";

/// What a StatefulSet's Pods and claims are made of stays as it was.
const ONLY_THESE_CHANGE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub struct StatefulSet;

impl Strategy for StatefulSet {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/template/spec")
    }

    fn default(&self, root: &mut Value) {
        default_template(root, "/spec/template/spec");
        let Some(spec) = object_at(root, "/spec") else { return };
        set(spec, "podManagementPolicy", "OrderedReady");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        if let Some(strategy) = made(spec, "updateStrategy") {
            default_strategy(strategy);
        }
        if let Some(policy) = made(spec, "persistentVolumeClaimRetentionPolicy") {
            set(policy, "whenDeleted", "Retain");
            set(policy, "whenScaled", "Retain");
        }
        for claim in each(spec, "volumeClaimTemplates") {
            claim.insert("apiVersion".to_owned(), "v1".into());
            claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
            if let Some(spec) = object(claim, "spec") {
                set(spec, "volumeMode", "Filesystem");
            }
            if let Some(status) = made(claim, "status") {
                set(status, "phase", "Pending");
            }
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "replicas": 0, "availableReplicas": 0 });
        drop_max_unavailable(object);
    }

    /// A feature that is not served: the writer owns the field and it is not kept.
    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "status");
        drop_max_unavailable(object);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = template_warnings(object, old, "/spec/template");
        let root = At::root(object);
        // Upstream spells the path of an update in another way.
        let name = if old.is_some() { "Spec" } else { "spec" };
        let spec = root.child("spec");
        for claim in spec.child("volumeClaimTemplates").items() {
            let spec = claim.child("spec");
            warn_claim_spec(&At::new(spec.value, claim.path.child(name)), &mut warnings);
        }
        if spec.child("revisionHistoryLimit").int() < 0 {
            warnings.push(KEEPS_ALL_REVISIONS.to_owned());
        }
        warnings
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_spec(&root.child("spec"), Since::Now, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        let mut faults = ErrorList::default();
        validate_spec(&spec, Since::Before, &mut faults);
        if !faults.is_empty() && was_invalid(&was) {
            faults.0.clear();
            validate_spec(&spec, Since::BeforeAndInvalid, &mut faults);
        }
        errors.0.append(&mut faults.0);
        const FIXED: &[&str] =
            &["podManagementPolicy", "selector", "serviceName", "volumeClaimTemplates"];
        if FIXED.iter().any(|field| spec.child(field).value != was.child(field).value) {
            spec.forbidden(errors, ONLY_THESE_CHANGE);
        }
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        const CAPPED: &[&str] =
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        const COUNTS: &[&str] = &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        let root = At::root(object);
        validate_counts(&root.child("status"), COUNTS, CAPPED, "status.readyReplicas", errors);
        validate_collision_count(object, old, errors);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let number = |pointer| int(object, pointer).unwrap_or(0);
        match column {
            "Ready" => {
                let ready = number("/status/readyReplicas");
                format!("{ready}/{}", number("/spec/replicas")).into()
            }
            _ => workload_cell(object, column),
        }
    }
}

/// A strategy that is chosen for the client comes with its settings.
fn default_strategy(strategy: &mut Object) {
    if !strategy.contains_key("type") {
        strategy.insert("type".to_owned(), "RollingUpdate".into());
        made(strategy, "rollingUpdate");
    }
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = object(strategy, "rollingUpdate")
    {
        set(rolling, "partition", 0);
    }
}

/// How long the parts of a spec that cannot change have been there: what an older release let
/// through is not held against an update.
#[derive(Clone, Copy, PartialEq)]
enum Since {
    Now,
    Before,
    /// The Pod template as well was invalid already.
    BeforeAndInvalid,
}

fn validate_spec(spec: &At, since: Since, errors: &mut ErrorList) {
    let management = spec.child("podManagementPolicy");
    if management.needed(errors) && !["OrderedReady", "Parallel"].contains(&management.text()) {
        management.invalid(errors, "must be 'OrderedReady' or 'Parallel'");
    }
    validate_strategy(&spec.child("updateStrategy"), errors);
    let retention = spec.child("persistentVolumeClaimRetentionPolicy");
    if retention.is_set() {
        for when in ["whenDeleted", "whenScaled"] {
            retention.child(when).one_of(errors, &["Retain", "Delete"]);
        }
    }
    if since == Since::Now {
        let claims = spec.child("volumeClaimTemplates");
        claims.items().for_each(|claim| validate_claim_spec(&claim.child("spec"), errors));
    }
    spec.not_negative_each(errors, &["replicas", "minReadySeconds"]);
    spec.child("ordinals").child("start").not_negative(errors);
    let service = spec.child("serviceName");
    if since == Since::Now && !service.is_empty() {
        service.obeys(errors, dns_label);
    }
    validate_workload_selector(spec, "statefulset", errors);
    validate_pods(spec, since, errors);
}

fn was_invalid(spec: &At) -> bool {
    let mut errors = ErrorList::default();
    validate_spec(spec, Since::Before, &mut errors);
    !errors.is_empty()
}

fn validate_pods(spec: &At, since: Since, errors: &mut ErrorList) {
    let (selector, template) = (spec.child("selector"), spec.child("template"));
    match validate_selected(&template, &selector, errors) {
        false => selector.invalid(errors, ""),
        true => {
            if since != Since::BeforeAndInvalid {
                let made = with_identity(spec.value);
                validate_template(&At::new(&made, template.path), errors);
            }
            validate_template_labels(&template, errors);
        }
    }
    validate_running_always(&template, "StatefulSet", errors);
}

/// The template as the controller uses it: names are its own, and so are the volumes that stand
/// for claims.
fn with_identity(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let Some(pod) = object_at(&mut template, "/spec") else { return template };
    pod.remove("subdomain");
    pod.remove("hostname");
    let claims: BTreeSet<&str> = list(spec, "/volumeClaimTemplates")
        .iter()
        .map(|claim| text(claim, "/metadata/name"))
        .collect();
    if claims.is_empty() {
        return template;
    }
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    let own = pod.get("volumes").and_then(Value::as_array).into_iter().flatten();
    volumes.extend(own.filter(|volume| !claims.contains(&text(volume, "/name"))).cloned());
    pod.insert("volumes".to_owned(), volumes.into());
    template
}

fn drop_max_unavailable(object: &mut Value) {
    if let Some(rolling) = object_at(object, "/spec/updateStrategy/rollingUpdate") {
        rolling.remove("maxUnavailable");
    }
}

fn validate_strategy(strategy: &At, errors: &mut ErrorList) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.text_of("type") {
        "" => strategy.required(errors, ""),
        "OnDelete" if rolling.is_set() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            rolling.invalid(errors, detail);
        }
        "OnDelete" => {}
        "RollingUpdate" => rolling.child("partition").not_negative(errors),
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            strategy.invalid(errors, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "apps/v1/statefulsets";

    fn set_of(more: &str, pod: &str) -> String {
        format!(
            "spec: {{{more} selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}], {pod}}}}}}}"
        )
    }

    #[test]
    fn names_the_controller_gives_are_not_checked_in_the_template() {
        check(PATH, &set_of("", "hostname: Bad_Name, subdomain: Bad_Name"), &[]);
        check(
            PATH,
            &set_of("serviceName: Bad_Name,", ""),
            &[&format!("spec.serviceName: Invalid value: \"Bad_Name\": {}", &dns_label("_")[0])],
        );
    }

    #[test]
    fn a_claim_stands_for_a_volume_of_its_name() {
        let claim = "volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}],";
        let pod = "initContainers: [{name: i, image: i, volumeMounts: [{name: d, mountPath: /d}]}]";
        check(PATH, &set_of(claim, pod), &[]);
        check(
            PATH,
            &set_of("", pod),
            &["spec.template.spec.initContainers[0].volumeMounts[0].name: Not found: \"d\""],
        );
    }

    #[test]
    fn a_service_name_that_was_bad_before_is_not_held_against_an_update() {
        let old = set_of("serviceName: Bad_Name, replicas: 1,", "");
        check_update(PATH, &old, &set_of("serviceName: Bad_Name, replicas: 2,", ""), &[]);
        check_update(
            PATH,
            &old,
            &set_of("serviceName: good,", ""),
            &[&format!("spec: Forbidden: {ONLY_THESE_CHANGE}")],
        );
    }
}
