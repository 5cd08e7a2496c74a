//! Volumes of CSI drivers: those of a PersistentVolume, and those written into a pod.
//!
//! A volume's [`Source`] and the pod -> attached, staged once for the node, published for the pod -> a directory; and back.
//! Counterpart: `pkg/volume/csi`. What has been done is on disk ([`data`]) before it is asked for, so taking down needs nobody
//! who remembers. Differs from upstream: a driver that is not registered is told of before the attachment is waited for.
//! Invariant: a volume is staged before it is published and unstaged after its last pod here; a driver is asked for either
//! again only when its mount is gone, or when it wants to be.

mod attachment;
mod data;
mod publish;
mod source;
mod tear_down;

use std::path::PathBuf;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Volume, storage::v1::CSIDriver};
use kube::Api;

use super::{Ready, VolumeError, VolumePlugin, VolumeRequest};
use crate::{context::NodeContext, csi::Texts};
use data::{Place, VolumeData};
use publish::Publication;
pub use source::Source;
pub use tear_down::{adopt, tear_down_all};

/// Drivers that want it are asked again this often.
const REPUBLISH_AFTER: SignedDuration = SignedDuration::from_secs(60);

pub struct CsiVolume;

/// Why a volume is not there yet, by the operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CsiFailure {
    pub operation: &'static str,
    /// As events name it: the PersistentVolume, or the pod's volume.
    pub volume: String,
    error: CsiError,
}

#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    #[error(
        "kubernetes.io/csi: {step}: driver name {driver} not found in the list of registered CSI drivers"
    )]
    NotRegistered { step: &'static str, driver: String },
    #[error("volume mode {mode:?} not supported by driver {driver} ({why})")]
    Lifecycle { mode: &'static str, driver: String, why: String },
    #[error("volume not attached according to volume attachment {0:?}")]
    NotAttached(String),
    #[error("{0}")]
    Call(#[from] skiff_grpc::Status),
    #[error("cannot read {what}: {source}")]
    Read { what: String, source: kube::Error },
    #[error("fetching {what} {namespace}/{name} failed: {why}")]
    Secret { what: &'static str, namespace: String, name: String, why: String },
    #[error("{0}")]
    Token(String),
    #[error("applyFSGroup failed for vol {volume}: {source}")]
    Ownership { volume: String, source: std::io::Error },
    #[error("{what} {path:?}: {source}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl CsiFailure {
    /// Nothing is wrong: somebody else has not done their part yet.
    pub fn is_wait(&self) -> bool {
        matches!(self.error, CsiError::NotAttached(_))
    }
}

#[async_trait]
impl VolumePlugin for CsiVolume {
    fn name(&self) -> &'static str {
        data::PLUGIN_DIR
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.csi.is_some()
    }

    fn content(&self, dir: PathBuf) -> PathBuf {
        dir.join(data::TARGET)
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let source = request.volume.csi.as_ref().expect("claimed");
        set_up(request, &Source::inline(&request.pod.key, &request.volume.name, source)).await
    }
}

/// Makes the volume ready for the request's pod, or finds that it is.
pub(super) async fn set_up(
    request: &VolumeRequest<'_>,
    source: &Source,
) -> Result<Ready, VolumeError> {
    let place = Place::of(request.ctx, &request.pod.key.uid, &source.name);
    if let Some(known) = VolumeData::read(&place.dir).await.filter(|known| known.holds(&place))
        && known.republish_at().is_none_or(|at| at > Timestamp::now())
    {
        return Ok(Ready { refresh_at: known.republish_at(), path: place.target });
    }
    match mount(request, source, &place).await {
        Ok(refresh_at) => Ok(Ready { path: place.target, refresh_at }),
        Err((operation, error)) => {
            let volume = source.name.clone();
            Err(VolumeError::Csi(Box::new(CsiFailure { operation, volume, error })))
        }
    }
}

type Failed = (&'static str, CsiError);

const ATTACH: &str = "AttachVolume.Attach";
const STAGE: &str = "MountVolume.MountDevice";
const PUBLISH: &str = "MountVolume.SetUp";

/// Everything the driver has to be asked for; answers when it wants to be asked again.
async fn mount(
    request: &VolumeRequest<'_>,
    source: &Source,
    place: &Place,
) -> Result<Option<Timestamp>, Failed> {
    let (ctx, pod) = (request.ctx, request.pod);
    let driver = ctx.csi.get(&source.id.driver, &pod.key.uid).ok_or_else(|| {
        let (operation, step) = match source.persistent.is_some() {
            true => (STAGE, "attacher.MountDevice failed to create newCsiDriverClient"),
            false => (PUBLISH, "mounter.SetUpAt failed to get CSI client"),
        };
        (operation, CsiError::NotRegistered { step, driver: source.id.driver.clone() })
    })?;
    let object = driver_object(ctx, &source.id.driver).await.map_err(|e| (PUBLISH, e))?;
    source.check_lifecycle(object.as_ref()).map_err(|e| (PUBLISH, e))?;
    let attachable = attachment::is_required(source, object.as_ref());
    let mut publish_context = Texts::new();
    if attachable {
        ctx.csi.use_volume(&source.id, &pod.key.uid);
        publish_context = attachment::context(ctx, source).await.map_err(|e| (ATTACH, e))?;
    }
    let _alone = ctx.csi.lock(&source.id).await;
    let mut known = VolumeData::new(ctx, source, attachable);
    known.write(&place.dir).map_err(|e| (PUBLISH, e))?;
    let capabilities = driver.capabilities().await.map_err(|e| (PUBLISH, e.into()))?;
    let publication = Publication {
        request,
        source,
        place,
        driver: &driver,
        object: object.as_ref(),
        capabilities: &capabilities,
        publish_context,
    };
    let staging = publication.stage(&known).await.map_err(|e| (STAGE, e))?;
    publication.publish(staging).await.map_err(|e| (PUBLISH, e))?;
    let spec = object.map(|object| object.spec).unwrap_or_default();
    known.done(&place.target, spec.requires_republish.unwrap_or(false));
    known.write(&place.dir).map_err(|e| (PUBLISH, e))?;
    Ok(known.republish_at())
}

/// What the cluster says of the driver; nothing is a legal answer.
async fn driver_object(ctx: &NodeContext, name: &str) -> Result<Option<CSIDriver>, CsiError> {
    let api: Api<CSIDriver> = Api::all(ctx.client.clone());
    let found = api.get_opt(name).await;
    found.map_err(|source| CsiError::Read { what: format!("CSIDriver {name:?}"), source })
}
