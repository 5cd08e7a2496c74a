//! PersistentVolumeClaim: defaults and Table cells.

use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{object_at, set, text};
use crate::kinds::volume::{access_modes, class_of, deleting_phase};

pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            set(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "phase": "Pending" });
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let bound = !text(object, "/spec/volumeName").is_empty();
        match column {
            "Status" => deleting_phase(object).into(),
            "Volume" => text(object, "/spec/volumeName").into(),
            "Capacity" if bound => text(object, "/status/capacity/storage").into(),
            "Access Modes" if bound => access_modes(object, "/status/accessModes").into(),
            "Capacity" | "Access Modes" => "".into(),
            "StorageClass" => class_of(object).into(),
            "VolumeAttributesClass" => {
                unset(text(object, "/spec/volumeAttributesClassName")).into()
            }
            "VolumeMode" => unset(text(object, "/spec/volumeMode")).into(),
            _ => Value::Null,
        }
    }
}

fn unset(value: &str) -> &str {
    if value.is_empty() { "<unset>" } else { value }
}
