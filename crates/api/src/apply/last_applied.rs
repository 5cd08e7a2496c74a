//! The way over from `kubectl apply` to `kubectl apply --server-side`.
//!
//! Client-side apply keeps its configuration in an annotation. Conflicts over fields that are still
//! as that annotation says are kubectl's own and are forced; afterwards the annotation follows.
//! Counterparts: `lastappliedmanager.go` and `lastappliedupdater.go`.

use serde_json::Value;

use super::managed::Owner;
use super::set::Set;
use super::{Manager, typed};
use crate::kind::KindDef;
use crate::meta::{meta, meta_mut};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "kubectl";
const MAX_SIZE: usize = 256 * 1024;

/// Whether every conflict is over a field that the annotation still accounts for.
pub fn allows(
    kind: &KindDef,
    live: Option<&Value>,
    manager: &Manager,
    conflicts: &[(Owner, Set)],
) -> bool {
    let Some(live) = live.filter(|_| manager.name == MANAGER) else { return false };
    let Some(text) = meta(live).annotation(ANNOTATION) else { return false };
    let Ok(config) = serde_json::from_str::<Value>(text) else { return false };
    let changes = typed::compare(live, &config, &kind.schema);
    let allowed = typed::fields(&config, &kind.schema)
        .difference(&changes.modified)
        .difference(&changes.added)
        .difference(&changes.removed);
    conflicts.iter().all(|(_, set)| set.clone().difference(&allowed).is_empty())
}

/// Brings an annotation that is there up to date.
pub fn follow(object: &mut Value, config: &Value, manager: &Manager) {
    if manager.name != MANAGER || meta(object).annotation(ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let annotations =
        meta_mut(object).and_then(|meta| meta.get_mut("annotations")?.as_object_mut());
    if let Some(annotations) = annotations {
        match text.len() > MAX_SIZE {
            true => drop(annotations.remove(ANNOTATION)),
            false => drop(annotations.insert(ANNOTATION.to_owned(), text.into())),
        }
    }
}
