//! What volumes and claims show alike in a Table.

use serde_json::Value;

use super::fill::{list, text};
use crate::meta::meta;

/// The phase, or `Terminating` once deletion was asked for.
pub fn deleting_phase(object: &Value) -> &str {
    match meta(object).deletion_timestamp() {
        Some(_) => "Terminating",
        None => text(object, "/status/phase"),
    }
}

/// The class, by field or by the annotation that came before it.
pub fn class_of(object: &Value) -> &str {
    meta(object)
        .annotation("volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(object, "/spec/storageClassName"))
}

/// `RWO,ROX,RWX,RWOP`, in this order.
pub fn access_modes(object: &Value, pointer: &str) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = list(object, pointer);
    let held = SHORT.iter().filter(|(mode, _)| modes.iter().any(|held| held == mode));
    held.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
