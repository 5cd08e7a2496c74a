//! VolumeAttachment: a volume that is to be attached to a node.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{
    FieldPaths, KindDef, META_AND_SPEC, SETTLED_META, Strategy, keep_all_but_status, keep_meta,
};
use crate::kinds::at::At;
use crate::kinds::core::persistent_volume::validate_inline_volume;
use crate::kinds::fill::{flag, text};
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::validation::dns_subdomain;

pub struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "attached": false });
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        keep_meta(object, old, SETTLED_META);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        validate_driver_name(&spec.child("attacher"), errors);
        validate_source(&spec.child("source"), errors);
        let node = spec.child("nodeName");
        for fault in dns_subdomain(node.text()) {
            node.invalid_as(errors, node.text(), fault);
        }
        let status = root.child("status");
        for error in ["attachError", "detachError"] {
            let error = status.child(error);
            error.child("errorCode").between(errors, 0..=i64::from(i32::MAX));
        }
        let (source, field) = (spec.child("source"), "persistentVolumeName");
        if source.has(field) {
            source.child(field).obeys(errors, dns_subdomain);
        }
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate_update(object, old, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        root.child("spec").unchanged(errors, &old.child("spec"));
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Attacher" => text(object, "/spec/attacher").into(),
            "PV" => text(object, "/spec/source/persistentVolumeName").into(),
            "Node" => text(object, "/spec/nodeName").into(),
            "Attached" => flag(object, "/status/attached").into(),
            _ => Value::Null,
        }
    }
}

fn validate_source(source: &At, errors: &mut ErrorList) {
    let (name, inline) = (source.child("persistentVolumeName"), source.child("inlineVolumeSpec"));
    match (inline.is_set(), name.is_set()) {
        (false, false) => {
            source.required(
                errors,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            );
        }
        (true, true) => {
            source.forbidden(
                errors,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            );
        }
        (false, true) if name.is_empty() => {
            name.required(errors, "must specify non empty persistentVolumeName");
        }
        (false, true) => {}
        (true, false) => validate_inline_volume("", &inline, errors),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_status};

    #[test]
    fn the_name_of_the_volume_is_checked_last_whatever_else_is_wrong() {
        let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        check(
            "storage.k8s.io/v1/volumeattachments",
            "spec: {attacher: a.b, nodeName: X, source: {persistentVolumeName: A_b, inlineVolumeSpec: {}}}",
            &[
                "spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                &format!("spec.nodeName: Invalid value: \"X\": {subdomain}"),
                &format!("spec.source.persistentVolumeName: Invalid value: \"A_b\": {subdomain}"),
            ],
        );
    }

    #[test]
    fn codes_of_errors_are_not_negative() {
        let attachment = |status: &str| {
            let source = "source: {persistentVolumeName: p}";
            format!("spec: {{attacher: a.b, nodeName: node, {source}}}\nstatus: {{{status}}}")
        };
        check_status(
            "storage.k8s.io/v1/volumeattachments",
            &attachment("attached: false"),
            &attachment("attached: false, attachError: {errorCode: -1}"),
            &[
                "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        );
    }
}
