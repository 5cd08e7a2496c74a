//! CSIDriver: what a storage driver can do and wants to be told.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::alike::alike;
use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{each, flag, list, made_at, object_at, set, text};
use crate::kinds::pod_spec::projected::validate_token_seconds;

pub struct CSIDriver;

impl Strategy for CSIDriver {
    fn default(&self, object: &mut Value) {
        let Some(spec) = made_at(object, "/spec") else { return };
        set(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set(spec, field, false);
        }
        set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
        // Written even where it asks for nothing in particular.
        each(spec, "tokenRequests").for_each(|request| set(request, "audience", ""));
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        drop_disabled(object);
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, _old: &Value) {
        drop_disabled(object);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
            if !spec.has(field) {
                spec.child(field).required(errors, "");
            }
        }
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        spec.child("fsGroupPolicy").one_of_if_set(errors, &policies);
        let modes = spec.child("volumeLifecycleModes");
        for mode in modes.items() {
            if !["Persistent", "Ephemeral"].contains(&mode.text()) {
                errors.not_supported(&modes.path, mode.text(), &["Persistent", "Ephemeral"]);
            }
        }
        validate_tokens(&spec, errors);
        let period = spec.child("nodeAllocatableUpdatePeriodSeconds");
        if period.is_set() && period.int() < 10 {
            period.invalid(errors, "must be greater than or equal to 10 seconds");
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        // Upstream misspells the first.
        for (field, shown) in [
            ("attachRequired", "attachedRequired"),
            ("volumeLifecycleModes", "volumeLifecycleModes"),
        ] {
            let given = At::new(spec.child(field).value, spec.path.child(shown));
            given.unchanged(errors, &was.child(field));
        }
    }

    /// Counted from the first change on.
    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        !alike(&object["spec"], &old["spec"])
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let tokens = |object| list(object, "/spec/tokenRequests");
        let asks = !tokens(object).is_empty() && old.map(tokens) != Some(tokens(object));
        match object.pointer("/spec/serviceAccountTokenInSecrets") {
            None if asks => vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()],
            _ => Vec::new(),
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let joined = |pointer: &str, field: &str| {
            let items = list(object, pointer).iter();
            let texts = items.map(|item| item.as_str().unwrap_or_else(|| text(item, field)));
            texts.collect::<Vec<_>>().join(",")
        };
        match column {
            "AttachRequired" => flag(object, "/spec/attachRequired").into(),
            "PodInfoOnMount" => flag(object, "/spec/podInfoOnMount").into(),
            "StorageCapacity" => flag(object, "/spec/storageCapacity").into(),
            "TokenRequests" if list(object, "/spec/tokenRequests").is_empty() => "<unset>".into(),
            "TokenRequests" => joined("/spec/tokenRequests", "/audience").into(),
            "RequiresRepublish" => flag(object, "/spec/requiresRepublish").into(),
            "Modes" => joined("/spec/volumeLifecycleModes", "").into(),
            _ => Value::Null,
        }
    }
}

/// A field of a feature that is off by default: taken, and nothing comes of it.
fn drop_disabled(object: &mut Value) {
    if let Some(spec) = object_at(object, "/spec") {
        spec.remove("preventPodSchedulingIfMissing");
    }
}

fn validate_tokens(spec: &At, errors: &mut ErrorList) {
    let requests = spec.child("tokenRequests");
    let mut audiences = HashSet::new();
    for request in requests.items() {
        let audience = request.child("audience");
        // Of a second one nothing more is said.
        match audiences.insert(request.text_of("audience").to_owned()) {
            true => validate_token_seconds(&request.child("expirationSeconds"), errors),
            false => audience.duplicate(errors),
        }
    }
    let secret = spec.child("serviceAccountTokenInSecrets");
    if secret.is_set() && requests.is_empty() {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        secret.invalid(errors, detail);
    }
}
