//! DefaultStorageClass and DefaultIngressClass: what names no class gets the one marked as default.
//!
//! Counterparts: `plugin/pkg/admission/storage/storageclass/setdefault` and `network/defaultingressclass`.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;

use super::{Plugin, Request};
use crate::objects;

pub struct DefaultStorageClass;
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "persistentvolumeclaims")
    }

    async fn mutate(&self, request: &Request<'_>, claim: &mut Value) -> Result<(), Status> {
        let old_style = meta(claim).annotation("volume.beta.kubernetes.io/storage-class").is_some();
        if !old_style && claim["spec"].get("storageClassName").is_none_or(Value::is_null) {
            let class = default_class(
                request,
                "storageclasses/",
                "storageclass.kubernetes.io/is-default-class",
            )
            .await?;
            if let Some(class) = class {
                claim["spec"]["storageClassName"] = class.into();
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("networking.k8s.io", "ingresses")
    }

    async fn mutate(&self, request: &Request<'_>, ingress: &mut Value) -> Result<(), Status> {
        let old_style = meta(ingress).annotation("kubernetes.io/ingress.class").is_some();
        if !old_style && ingress["spec"].get("ingressClassName").is_none_or(Value::is_null) {
            let class = default_class(
                request,
                "ingressclasses/",
                "ingressclass.kubernetes.io/is-default-class",
            )
            .await?;
            if let Some(class) = class {
                ingress["spec"]["ingressClassName"] = class.into();
            }
        }
        Ok(())
    }
}

/// The newest class that is marked, by name if they are of one age.
async fn default_class(
    request: &Request<'_>,
    under: &str,
    mark: &str,
) -> Result<Option<String>, Status> {
    let mut classes = objects::all(request.server, under).await?;
    classes.retain(|class| meta(class).annotation(mark) == Some("true"));
    classes.sort_by(|a, b| {
        let newest = meta(b).creation_timestamp().cmp(meta(a).creation_timestamp());
        newest.then_with(|| meta(a).name().cmp(meta(b).name()))
    });
    Ok(classes.first().map(|class| meta(class).name().to_owned()))
}
