//! Makes what is on a volume as large as the volume has become.
//!
//! [`Sizes`] of a claim and its volume, and what this node knows of -> `NodeExpandVolume`, the claim's status, events. Counterpart:
//! `NodeExpander` of `pkg/volume/util/operationexecutor` and `pkg/volume/csi/expander.go`.
//! Invariant: a driver is asked only while the claim's status says that it is the node's turn, or says nothing of turns at all.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use skiff_api::scheduling::resources::value;
use skiff_grpc::Code;

use super::{
    CsiError,
    data::Trouble,
    publish::{Publication, read_secret},
};
use crate::{
    csi::{Capability, CapacityRange, ExpandVolume},
    events::EventType,
};

const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
/// Conditions of a claim that speak of its expansion.
const CONDITIONS: [&str; 4] =
    ["ControllerResizeError", "FileSystemResizePending", "NodeResizeError", "Resizing"];
const NOT_REQUIRED: &str = "volume.kubernetes.io/node-expansion-not-required";
const STORAGE: &str = "storage";

/// What the API says of how large a claim's volume is.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    claim: ObjectMeta,
    volume: Size,
    asked: i64,
    pub claimed: i64,
    allocated: Option<Size>,
    /// Whose turn it is.
    turn: Option<String>,
    /// Every node that has the volume has to do its part.
    everywhere: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Size {
    text: String,
    bytes: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Somebody else has done it.
    Note,
    Expand(Size, Report),
}

/// What of an expansion is told on the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    /// Each turn.
    Turns,
    /// The outcome, for a controller that knows of no turns.
    Outcome,
    /// It is known already.
    Nothing,
}

/// How large the volume is for this node from now on, and what was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expanded {
    pub bytes: i64,
    pub trouble: Option<Trouble>,
}

/// What went wrong; some of it need not be tried again.
#[derive(Debug)]
pub struct ExpandFailure {
    pub error: CsiError,
    pub trouble: Option<Trouble>,
}

// === impl Sizes ===

impl Sizes {
    pub fn of(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Self {
        let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get(STORAGE));
        let status = claim.status.clone().unwrap_or_default();
        let spec = claim.spec.clone().unwrap_or_default();
        let asked = spec.resources.and_then(|it| it.requests).unwrap_or_default();
        let shared = spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteMany");
        let annotations = claim.metadata.annotations.clone().unwrap_or_default();
        Sizes {
            claim: claim.metadata.clone(),
            volume: capacity.map(Size::of).unwrap_or(Size { text: String::new(), bytes: 0 }),
            asked: asked.get(STORAGE).map_or(0, |it| Size::of(it).bytes),
            claimed: status
                .capacity
                .and_then(|it| it.get(STORAGE).map(Size::of))
                .map_or(0, |it| it.bytes),
            allocated: status.allocated_resources.and_then(|it| it.get(STORAGE).map(Size::of)),
            turn: status.allocated_resource_statuses.and_then(|it| it.get(STORAGE).cloned()),
            everywhere: shared && !annotations.contains_key(NOT_REQUIRED),
        }
    }

    /// What is to be done, where the node knows a volume of so many bytes.
    fn step(&self, known: i64) -> Step {
        if self.volume.bytes <= known {
            return Step::Nothing;
        }
        let is_told = |size: &Size| self.claimed >= size.bytes;
        let (turn, to) = match (self.turn.as_deref(), &self.allocated) {
            (None, None) => {
                let report = if is_told(&self.volume) { Report::Nothing } else { Report::Outcome };
                return Step::Expand(self.volume.clone(), report);
            }
            (turn, allocated) => (turn, allocated.as_ref().unwrap_or(&self.volume)),
        };
        match turn {
            None if is_told(to) && self.everywhere => Step::Expand(to.clone(), Report::Nothing),
            None if is_told(to) => Step::Note,
            Some(PENDING | IN_PROGRESS) => Step::Expand(to.clone(), Report::Turns),
            _ => Step::Nothing,
        }
    }

    /// Whether there is anything to do for a node that knows a volume of so many bytes.
    pub fn differ_from(&self, known: i64) -> bool {
        self.step(known) != Step::Nothing
    }
}

impl Size {
    fn of(quantity: &Quantity) -> Self {
        Size { text: quantity.0.clone(), bytes: value(quantity).unwrap_or(0) }
    }
}

// === impl Publication ===

impl Publication<'_> {
    /// Does the node's part for a volume that is published, if there is any.
    pub async fn expand(
        &self,
        sizes: &Sizes,
        known: i64,
        before: Option<Trouble>,
        staging_path: &str,
    ) -> Result<Expanded, ExpandFailure> {
        let (to, report) = match sizes.step(known) {
            Step::Nothing => return Ok(Expanded { bytes: known, trouble: before }),
            Step::Note => return Ok(Expanded { bytes: sizes.volume.bytes, trouble: None }),
            Step::Expand(to, report) => (to, report),
        };
        let done = Expanded { bytes: sizes.volume.bytes, trouble: None };
        if self.source.read_only {
            let (what, why) =
                ("MountVolume.NodeExpandVolume failed", "requested read-only file system");
            self.tell(sizes, EventType::Warning, "FileSystemResizeFailed", what, why);
            return Ok(done);
        }
        if !self.capabilities.contains(&Capability::ExpandVolume) && report != Report::Turns {
            return Ok(done);
        }
        let open = |error| ExpandFailure { error, trouble: before };
        if report == Report::Turns {
            let turn = json!({ "allocatedResourceStatuses": { STORAGE: IN_PROGRESS } });
            self.report(sizes, turn).await.map_err(open)?;
        }
        match self.ask(&to, staging_path).await {
            Ok(()) => {
                let node = &self.request.ctx.config.node_name;
                let what = "MountVolume.NodeExpandVolume succeeded";
                self.tell(sizes, EventType::Normal, "FileSystemResizeSuccessful", what, node);
                if report != Report::Nothing {
                    self.report(sizes, finished(&to.text)).await.map_err(open)?;
                }
                Ok(done)
            }
            Err(error) => self.failed(sizes, &to, report, before, known, error).await,
        }
    }

    async fn ask(&self, to: &Size, staging_path: &str) -> Result<(), CsiError> {
        if !self.capabilities.contains(&Capability::ExpandVolume) {
            return Err(CsiError::NoExpansion(self.source.id.driver.clone()));
        }
        let secret = self.source.persistent.as_ref().and_then(|it| it.expand_secret.as_ref());
        let client = &self.request.ctx.client;
        let request = ExpandVolume {
            volume_id: self.source.id.handle.clone(),
            volume_path: self.place.target.to_string_lossy().into_owned(),
            capacity_range: CapacityRange { required_bytes: to.bytes },
            staging_path: staging_path.to_owned(),
            capability: self.source.capability(self.capabilities, None),
            secrets: read_secret(client, "NodeExpandSecretRef", secret).await?,
        };
        self.driver.expand(&request).await.map_err(CsiError::Expansion)
    }

    /// Says on the claim what a driver is done with, and whether it is worth another try.
    async fn failed(
        &self,
        sizes: &Sizes,
        to: &Size,
        report: Report,
        before: Option<Trouble>,
        known: i64,
        error: CsiError,
    ) -> Result<Expanded, ExpandFailure> {
        let code = match &error {
            CsiError::Expansion(status) => Some(status.code),
            _ => None,
        };
        let is_final = !matches!(
            code,
            Some(
                Code::Canceled
                    | Code::DeadlineExceeded
                    | Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::Aborted
            )
        );
        if is_final && report != Report::Outcome {
            // A claim that asks for another size by now gets its controller's attention only so.
            let hopeless =
                matches!(code, Some(Code::InvalidArgument | Code::OutOfRange | Code::NotFound))
                    || sizes.asked != to.bytes && before == Some(Trouble::Failed);
            let news = self.report(sizes, troubled(&error, hopeless)).await;
            if let Err(error) = news {
                tracing::warn!(volume = self.source.name, %error, "failed expansion not told");
            }
        }
        if code == Some(Code::FailedPrecondition) {
            tracing::warn!(volume = self.source.name, %error, "not expanded while in use");
            return Ok(Expanded { bytes: known, trouble: Some(Trouble::Refused) });
        }
        let trouble = if is_final { Some(Trouble::Failed) } else { before };
        Err(ExpandFailure { error, trouble })
    }

    /// To whoever looks at the pod, and at the claim.
    fn tell(&self, sizes: &Sizes, kind: EventType, reason: &'static str, what: &str, more: &str) {
        let message = format!("{what} for volume {:?} {more}", self.source.name);
        let recorder = &self.request.ctx.recorder;
        recorder.pod(self.request.pod, kind, reason, message.clone());
        recorder.object(("PersistentVolumeClaim", &sizes.claim), kind, reason, message);
    }

    async fn report(&self, sizes: &Sizes, status: Value) -> Result<(), CsiError> {
        let namespace = sizes.claim.namespace.as_deref().unwrap_or_default();
        let name = sizes.claim.name.as_deref().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.request.ctx.client.clone(), namespace);
        let patch = json!({ "metadata": { "uid": sizes.claim.uid }, "status": status });
        let patched =
            claims.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        let failed = |source| CsiError::Report { claim: format!("{namespace}/{name}"), source };
        patched.map(drop).map_err(failed)
    }
}

fn finished(size: &str) -> Value {
    let gone = CONDITIONS.map(|kind| json!({ "$patch": "delete", "type": kind }));
    json!({
        "capacity": { STORAGE: size },
        "allocatedResourceStatuses": { STORAGE: null },
        "conditions": gone,
    })
}

fn troubled(error: &CsiError, hopeless: bool) -> Value {
    let now = Timestamp::now();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let condition = json!({ "type": "NodeResizeError", "status": "True", "lastTransitionTime": now,
        "message": format!("failed to expand pvc with {error}") });
    let mut status = json!({ "conditions": [condition] });
    if hopeless {
        status["allocatedResourceStatuses"] = json!({ STORAGE: INFEASIBLE });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    /// A volume of 2Gi whose claim has the status and is of the mode.
    fn sizes(status: Value, mode: &str) -> Sizes {
        let claim = json!({ "metadata": { "name": "data" }, "spec": { "accessModes": [mode],
            "resources": { "requests": { "storage": "2Gi" } } }, "status": status });
        let volume =
            json!({ "metadata": { "name": "pv" }, "spec": { "capacity": { "storage": "2Gi" } } });
        Sizes::of(
            &serde_json::from_value(claim).expect("a claim"),
            &serde_json::from_value(volume).expect("a volume"),
        )
    }

    fn status(capacity: &str, allocated: &str, turn: &str) -> Value {
        json!({ "capacity": { "storage": capacity }, "allocatedResources": { "storage": allocated },
            "allocatedResourceStatuses": { "storage": turn } })
    }

    fn expand(text: &str, bytes: i64, report: Report) -> Step {
        Step::Expand(Size { text: text.into(), bytes }, report)
    }

    #[test]
    fn the_node_acts_when_it_is_its_turn() {
        for (turn, step) in [
            (PENDING, expand("2Gi", 2 * GIB, Report::Turns)),
            (IN_PROGRESS, expand("2Gi", 2 * GIB, Report::Turns)),
            (INFEASIBLE, Step::Nothing),
            ("ControllerResizeInProgress", Step::Nothing),
        ] {
            let sizes = sizes(status("1Gi", "2Gi", turn), "ReadWriteOnce");
            assert_eq!(sizes.step(GIB), step, "{turn}");
            assert_eq!(sizes.step(2 * GIB), Step::Nothing, "nothing has grown");
        }
    }

    #[test]
    fn a_controller_that_knows_no_turns_is_told_the_outcome() {
        let sizes = sizes(json!({ "capacity": { "storage": "1Gi" } }), "ReadWriteOnce");
        assert_eq!(sizes.step(GIB), expand("2Gi", 2 * GIB, Report::Outcome));
    }

    #[test]
    fn a_volume_of_many_nodes_is_expanded_on_each_and_any_other_only_noted() {
        let done =
            json!({ "capacity": { "storage": "2Gi" }, "allocatedResources": { "storage": "2Gi" } });
        let shared = sizes(done.clone(), "ReadWriteMany");
        assert_eq!(shared.step(GIB), expand("2Gi", 2 * GIB, Report::Nothing));
        assert_eq!(sizes(done, "ReadWriteOnce").step(GIB), Step::Note);
    }

    #[test]
    fn a_hopeless_expansion_is_handed_back_to_the_controller() {
        let error = || CsiError::NoExpansion("d".into());
        let status = troubled(&error(), true);
        assert_eq!(status["allocatedResourceStatuses"][STORAGE], INFEASIBLE);
        assert_eq!(
            status["conditions"][0]["message"],
            "failed to expand pvc with NodeExpand is not supported by the CSI driver d"
        );
        assert_eq!(troubled(&error(), false)["allocatedResourceStatuses"], Value::Null);
    }
}
