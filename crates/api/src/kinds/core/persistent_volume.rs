//! PersistentVolume: defaults and Table cells.

use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{object, object_at, set, text};
use crate::kinds::volume::{access_modes, class_of, deleting_phase};

pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, root: &mut Value) {
        if let Some(spec) = object_at(root, "/spec") {
            set(spec, "persistentVolumeReclaimPolicy", "Retain");
            set(spec, "volumeMode", "Filesystem");
            if let Some(path) = object(spec, "hostPath") {
                set(path, "type", "");
            }
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "phase": "Pending" });
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Capacity" => text(object, "/spec/capacity/storage").into(),
            "Access Modes" => access_modes(object, "/spec/accessModes").into(),
            "Reclaim Policy" => text(object, "/spec/persistentVolumeReclaimPolicy").into(),
            "Status" => deleting_phase(object).into(),
            "Claim" => claim(object).into(),
            "StorageClass" => class_of(object).into(),
            "VolumeAttributesClass" => {
                unset(text(object, "/spec/volumeAttributesClassName")).into()
            }
            "Reason" => text(object, "/status/reason").into(),
            "VolumeMode" => unset(text(object, "/spec/volumeMode")).into(),
            _ => Value::Null,
        }
    }
}

fn unset(value: &str) -> &str {
    if value.is_empty() { "<unset>" } else { value }
}

fn claim(volume: &Value) -> String {
    match volume.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
        None => String::new(),
    }
}
