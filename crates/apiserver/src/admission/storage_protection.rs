//! StorageObjectInUseProtection: volumes, claims and attribute classes are not removed while something uses them.
//!
//! Counterpart: `plugin/pkg/admission/storage/storageobjectinuseprotection`.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::meta::meta_mut;

use super::{Plugin, Request};

pub struct StorageObjectInUseProtection;

const FINALIZERS: &[(&str, &str, &str)] = &[
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        finalizer(request).is_some()
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        if let (Some(finalizer), Some(meta)) = (finalizer(request), meta_mut(object)) {
            let list = meta.entry("finalizers").or_insert_with(|| json!([]));
            if let Some(list) =
                list.as_array_mut().filter(|list| !list.iter().any(|have| have == finalizer))
            {
                list.push(finalizer.into());
            }
        }
        Ok(())
    }
}

fn finalizer(request: &Request<'_>) -> Option<&'static str> {
    FINALIZERS
        .iter()
        .find(|(group, resource, _)| request.creates(group, resource))
        .map(|(.., finalizer)| *finalizer)
}
