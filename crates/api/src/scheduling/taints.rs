//! Whether a toleration bears a taint, of a node or of a device.
//!
//! Counterpart: `Toleration.ToleratesTaint` and `resourceclaim.ToleratesTaint`.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration};

/// An effect or key that is left out stands for all. `Lt` and `Gt` belong to a feature that is off, and bear nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    all_or(&toleration.effect, &taint.effect)
        && all_or(&toleration.key, &taint.key)
        && is_for_value(&toleration.operator, &toleration.value, &taint.value)
}

/// As [`tolerates`], of devices.
pub fn tolerates_device(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    all_or(&toleration.effect, &taint.effect)
        && all_or(&toleration.key, &taint.key)
        && is_for_value(&toleration.operator, &toleration.value, &taint.value)
}

fn is_for_value(operator: &Option<String>, asked: &Option<String>, there: &Option<String>) -> bool {
    match text(operator) {
        "Exists" => true,
        "" | "Equal" => text(asked) == text(there),
        _ => false,
    }
}

fn all_or(wanted: &Option<String>, found: &str) -> bool {
    matches!(text(wanted), wanted if wanted.is_empty() || wanted == found)
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::yaml;

    #[track_caller]
    fn check(toleration: &str, expected: bool) {
        let taint: Taint = yaml("{key: k, value: v, effect: NoSchedule}");
        assert_eq!(tolerates(&yaml(toleration), &taint), expected, "{toleration}");
    }

    #[test]
    fn what_a_toleration_leaves_out_stands_for_all() {
        check("{operator: Exists}", true);
        check("{key: k, operator: Exists}", true);
        check("{key: other, operator: Exists}", false);
        check("{operator: Exists, effect: NoExecute}", false);
        check("{key: k, value: v}", true);
        check("{key: k, operator: Equal, value: v, effect: NoSchedule}", true);
        check("{key: k, value: ''}", false);
        check("{key: k, operator: Gt, value: '1'}", false);
    }
}
