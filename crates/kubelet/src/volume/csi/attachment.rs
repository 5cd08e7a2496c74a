//! Whether a volume is attached to this node, and what its driver needs to know of that.
//!
//! A source and its driver's object -> whether that has to be; the attachment's context, or that it is not there yet. Counterpart: `getPublishContext`
//! of `pkg/volume/csi`. Invariant: a volume
//! that nobody says is attached is not.

use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;

use super::{CsiError, Source};
use crate::{context::NodeContext, csi::Texts};

/// Volumes of a single pod are not attached at all, nor are those of drivers that say so.
pub fn is_required(source: &Source, driver: Option<&CSIDriver>) -> bool {
    let by_driver = driver.and_then(|driver| driver.spec.attach_required).unwrap_or(true);
    source.persistent.is_some() && by_driver
}

pub async fn context(ctx: &NodeContext, source: &Source) -> Result<Texts, CsiError> {
    let name = source.id.attachment_name(&ctx.config.node_name);
    let api: Api<VolumeAttachment> = Api::all(ctx.client.clone());
    let found = match api.get_opt(&name).await {
        Ok(found) => found,
        // A node may read what leads to it; what does not exist leads nowhere.
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        Err(error) => {
            let what = format!("volume attachment {name:?}");
            return Err(CsiError::Read { what, source: error });
        }
    };
    let status = found.and_then(|attachment| attachment.status).filter(|status| status.attached);
    let status = status.ok_or(CsiError::NotAttached(name))?;
    Ok(status.attachment_metadata.unwrap_or_default())
}
