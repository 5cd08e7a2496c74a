//! Volumes of CSI drivers: those of a PersistentVolume, and those written into a pod.
//!
//! A volume's [`Source`] and the pod -> attached, staged once for the node, published for the pod -> a directory; and back.
//! Counterpart: `pkg/volume/csi`. What has been done is on disk ([`data`]) before it is asked for, so taking down needs nobody
//! who remembers. Differs from upstream: a driver that is not registered is told of before the attachment is waited for.
//! Invariant: a volume is staged before it is published and unstaged after its last pod here; a driver is asked for either
//! again only when its mount is gone, or when it wants to be.

mod attachment;
mod data;
mod expand;
mod publish;
mod source;
pub mod stats;
mod tear_down;

use std::path::PathBuf;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Volume, storage::v1::CSIDriver};
use kube::Api;

use super::{Ready, VolumeError, VolumePlugin, VolumeRequest};
use crate::{
    context::NodeContext,
    csi::{Capability, Texts},
    events::EventType,
};
use data::{Place, Trouble, VolumeData};
use publish::Publication;
pub use source::Source;
pub use tear_down::{adopt, tear_down_all};

/// Drivers that want it are asked again this often.
const REPUBLISH_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// A pod's volumes are looked at this often where they may grow; upstream looks as often.
const LOOK_FOR_GROWTH_AFTER: SignedDuration = SignedDuration::from_secs(60);

pub struct CsiVolume;

/// Why a volume is not there yet, by the operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CsiFailure {
    step: Step,
    /// As events name it: the PersistentVolume, or the pod's volume.
    pub volume: String,
    block: bool,
    error: CsiError,
}

/// What is done with a volume, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Attach,
    Stage,
    Publish,
    Expand,
    Unpublish,
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
    #[error("NodeExpand is not supported by the CSI driver {0}")]
    NoExpansion(String),
    #[error("Expander.NodeExpand failed to expand the volume : {0}")]
    Expansion(skiff_grpc::Status),
    #[error("failed to update the status of claim {claim}: {source}")]
    Report { claim: String, source: kube::Error },
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

// === impl CsiFailure ===

impl CsiFailure {
    /// Nothing is wrong: somebody else has not done their part yet.
    pub fn is_wait(&self) -> bool {
        matches!(self.error, CsiError::NotAttached(_))
    }

    /// The reason of the event that tells of it.
    pub fn reason(&self) -> &'static str {
        if self.block { "FailedMapVolume" } else { "FailedMount" }
    }

    /// What has failed, as events begin.
    pub fn operation(&self) -> &'static str {
        match (self.step, self.block) {
            (Step::Attach, _) => "AttachVolume.Attach failed",
            (Step::Stage, false) => "MountVolume.MountDevice failed",
            (Step::Stage, true) => "MapVolume.SetUpDevice failed",
            (Step::Publish, false) => "MountVolume.SetUp failed",
            (Step::Publish, true) => "MapVolume.MapPodDevice failed",
            (Step::Expand, false) => "MountVolume.Setup failed while expanding volume",
            (Step::Expand, true) => "MapVolume.MarkVolumeAsMounted failed while expanding volume",
            (Step::Unpublish, false) => "UnmountVolume.TearDown failed",
            (Step::Unpublish, true) => "UnmapVolume.UnmapPodDevice failed",
        }
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
    let place = Place::of(request.ctx, &request.pod.key.uid, source);
    let known = VolumeData::read(&place.dir).await;
    let is_up = |known: &VolumeData| {
        known.holds(&place) && known.republish_at().is_none_or(|at| at > Timestamp::now())
    };
    let done = match known {
        Some(known) if is_up(&known) => Ok(follow(request, source, &place, known).await),
        known => mount(request, source, &place, known).await,
    };
    match done {
        Ok(known) => Ok(Ready { path: place.target, refresh_at: known.look_again_at() }),
        Err((step, error)) => {
            let (volume, block) = (source.name.clone(), source.block);
            Err(VolumeError::Csi(Box::new(CsiFailure { step, volume, block, error })))
        }
    }
}

type Failed = (Step, CsiError);

/// Everything the driver has to be asked for. `before` is what an earlier try has left.
async fn mount(
    request: &VolumeRequest<'_>,
    source: &Source,
    place: &Place,
    before: Option<VolumeData>,
) -> Result<VolumeData, Failed> {
    let (ctx, pod) = (request.ctx, request.pod);
    let failed = |step| move |error: CsiError| (step, error);
    let driver = ctx.csi.get(&source.id.driver, &pod.key.uid);
    let driver = driver.ok_or_else(|| not_registered(source))?;
    let object = driver_object(ctx, &source.id.driver).await.map_err(failed(Step::Publish))?;
    source.check_lifecycle(object.as_ref()).map_err(failed(Step::Publish))?;
    let attachable = attachment::is_required(source, object.as_ref());
    let mut publish_context = Texts::new();
    if attachable {
        ctx.csi.use_volume(&source.id, &pod.key.uid);
        publish_context = attachment::context(ctx, source).await.map_err(failed(Step::Attach))?;
    }
    let _alone = ctx.csi.lock(&source.id).await;
    let mut known = VolumeData::new(ctx, source, attachable, request.volume);
    known.expansion = before.map(|before| before.expansion).unwrap_or_default();
    known.write(&place.dir).map_err(failed(Step::Publish))?;
    let capabilities = driver.capabilities().await.map_err(|e| (Step::Publish, e.into()))?;
    let publication = Publication {
        request,
        source,
        place,
        driver: &driver,
        object: object.as_ref(),
        capabilities: &capabilities,
        publish_context,
    };
    let staging = publication.stage(&known).await.map_err(failed(Step::Stage))?;
    publication.publish(&staging).await.map_err(failed(Step::Publish))?;
    expand_mounted(&publication, &mut known, &staging).await.map_err(failed(Step::Expand))?;
    let spec = object.as_ref().and_then(|object| object.spec.requires_republish);
    known.done(&place.target, spec.unwrap_or(false));
    known.write(&place.dir).map_err(failed(Step::Publish))?;
    Ok(known)
}

fn not_registered(source: &Source) -> Failed {
    let (step, words) = match (source.persistent.is_some(), source.block) {
        (true, false) => (Step::Stage, "attacher.MountDevice failed to create newCsiDriverClient"),
        (true, true) => (Step::Stage, "blockMapper.SetUpDevice failed to get CSI client"),
        (false, _) => (Step::Publish, "mounter.SetUpAt failed to get CSI client"),
    };
    (step, CsiError::NotRegistered { step: words, driver: source.id.driver.clone() })
}

/// A volume that has grown meanwhile is expanded before anybody uses it.
async fn expand_mounted(
    publication: &Publication<'_>,
    known: &mut VolumeData,
    staging: &str,
) -> Result<(), CsiError> {
    let Some(persistent) = &publication.source.persistent else { return Ok(()) };
    let (sizes, before) = (&persistent.sizes, known.expansion.trouble);
    known.expansion.possible = publication.capabilities.contains(&Capability::ExpandVolume);
    match publication.expand(sizes, sizes.claimed, before, staging).await {
        Ok(expanded) => {
            known.expansion.bytes = expanded.bytes;
            known.expansion.trouble = expanded.trouble;
            Ok(())
        }
        Err(failure) => {
            known.expansion.trouble = failure.trouble;
            known.write(&publication.place.dir)?;
            Err(failure.error)
        }
    }
}

/// Does the node's part for a volume that has grown while it is in use; a failure is told, and tried again later.
async fn follow(
    request: &VolumeRequest<'_>,
    source: &Source,
    place: &Place,
    mut known: VolumeData,
) -> VolumeData {
    let ctx = request.ctx;
    let Some(persistent) = &source.persistent else { return known };
    let grown = persistent.sizes.differ_from(known.expansion.bytes);
    if !known.expansion.possible || known.expansion.trouble == Some(Trouble::Refused) || !grown {
        return known;
    }
    let Some(driver) = ctx.csi.find(&source.id.driver) else { return known };
    let _alone = ctx.csi.lock(&source.id).await;
    let Ok(capabilities) = driver.capabilities().await else { return known };
    let publish_context = Texts::new();
    let publication = Publication {
        request,
        source,
        place,
        driver: &driver,
        object: None,
        capabilities: &capabilities,
        publish_context,
    };
    let staged = Place::staged(ctx, &source.id);
    let is_staged = VolumeData::read(&staged.dir).await.is_some();
    let staging = is_staged.then(|| staged.target.to_string_lossy().into_owned());
    let staging = staging.unwrap_or_default();
    let expansion = &mut known.expansion;
    let (bytes, before) = (expansion.bytes, expansion.trouble);
    match publication.expand(&persistent.sizes, bytes, before, &staging).await {
        Ok(expanded) => (expansion.bytes, expansion.trouble) = (expanded.bytes, expanded.trouble),
        Err(failure) => {
            expansion.trouble = failure.trouble;
            let what = "NodeExpandVolume.NodeExpandVolume failed";
            let message = format!("{what} for volume {:?} : {}", source.name, failure.error);
            ctx.recorder.pod(request.pod, EventType::Warning, "VolumeResizeFailed", message);
        }
    }
    if let Err(error) = known.write(&place.dir) {
        tracing::warn!(volume = source.name, %error, "expansion not recorded");
    }
    known
}

/// What the cluster says of the driver; nothing is a legal answer.
async fn driver_object(ctx: &NodeContext, name: &str) -> Result<Option<CSIDriver>, CsiError> {
    let api: Api<CSIDriver> = Api::all(ctx.client.clone());
    let found = api.get_opt(name).await;
    found.map_err(|source| CsiError::Read { what: format!("CSIDriver {name:?}"), source })
}
