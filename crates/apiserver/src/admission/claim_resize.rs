//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class allows it.
//!
//! Counterpart: `plugin/pkg/admission/storage/persistentvolume/resize`.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;
use skiff_api::quantity::Quantity;

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is("", "persistentvolumeclaims")
    }

    async fn validate(&self, request: &Request<'_>, claim: &Value) -> Result<(), Status> {
        let Some(old) = request.old.filter(|old| size(claim) > size(old)) else {
            return Ok(());
        };
        let why = if old["status"]["phase"] != "Bound" {
            "Only bound persistent volume claims can be expanded"
        } else if !class_allows(request, claim, old).await? {
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
        } else {
            return Ok(());
        };
        Err(request.forbidden(claim, why))
    }
}

fn size(claim: &Value) -> Option<Quantity> {
    claim["spec"]["resources"]["requests"]["storage"].as_str()?.parse().ok()
}

async fn class_allows(request: &Request<'_>, claim: &Value, old: &Value) -> Result<bool, Status> {
    let (now, before) = (class(claim), class(old));
    if now.is_empty() || now != before {
        return Ok(false);
    }
    let class = objects::find(request.server, "storageclasses", "", now).await?;
    Ok(class.is_some_and(|class| class["allowVolumeExpansion"] == true))
}

/// The class by its older name, if that is given.
fn class(claim: &Value) -> &str {
    meta(claim)
        .annotation("volume.beta.kubernetes.io/storage-class")
        .or_else(|| claim["spec"]["storageClassName"].as_str())
        .unwrap_or("")
}
