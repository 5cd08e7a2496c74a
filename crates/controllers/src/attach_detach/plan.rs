//! What to attach to one node, and what to detach.
//!
//! A [`Picture`] of the node -> a [`Plan`]. Counterpart: `reconciler` of `pkg/controller/volume/attachdetach`.
//! Invariant: pure; a volume that may be on one node only is never attached to a second.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;

use crate::node;

pub const ATTACHED: &str = "SuccessfulAttachVolume";
pub const FAILED: &str = "FailedAttachVolume";

/// A persistent volume of a CSI driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachable {
    pub name: String,
    pub driver: String,
    pub handle: String,
    /// It may be on several nodes at once.
    pub shared: bool,
}

pub struct Picture<'a, 'f> {
    pub name: &'a str,
    pub node: Option<&'a Node>,
    pub wanted: &'a [(Attachable, Arc<Pod>)],
    /// Of all nodes.
    pub attachments: &'a [Arc<VolumeAttachment>],
    /// The volume of that name, if it is a driver's.
    pub known: &'f dyn Fn(&str) -> Option<Attachable>,
    /// How long an attachment is kept for a lost node by now.
    pub lost_for: &'f dyn Fn(&str) -> Duration,
}

#[derive(Debug, Default)]
pub struct Plan<'a> {
    pub ops: Vec<Op<'a>>,
    /// Unique names of what is attached, sorted.
    pub attached: Vec<String>,
    pub look_again: Option<Duration>,
}

#[derive(Debug)]
pub enum Op<'a> {
    Attach(&'a Attachable),
    Detach(&'a VolumeAttachment),
    Tell { pod: &'a Pod, reason: &'static str, message: String },
}

// === impl Attachable ===

impl Attachable {
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        Some(Attachable {
            name: volume.metadata.name.clone()?,
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            shared: modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany"),
        })
    }

    pub fn attachment(&self, node: &str) -> String {
        skiff_api::csi::attachment_name(&self.driver, &self.handle, node)
    }

    fn unique_name(&self) -> String {
        skiff_api::csi::unique_volume_name(&self.driver, &self.handle)
    }
}

pub fn plan<'a>(picture: &Picture<'a, '_>, force_after: Duration) -> Plan<'a> {
    let mut plan = Plan::default();
    for (volume, pod) in picture.wanted {
        plan.ops.extend(attach(picture, volume, pod));
    }
    for attachment in picture.attachments.iter().filter(|it| it.spec.node_name == picture.name) {
        let Some(volume) = made_here(picture, attachment) else { continue };
        let wanted = picture.wanted.iter().find(|(wanted, _)| wanted.name == volume.name);
        let name = volume.unique_name();
        let is_attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        let is_known = known_attached(picture.node, &name);
        if is_attached {
            plan.attached.push(name);
        }
        match wanted {
            Some((_, pod)) if is_attached && !is_known => {
                let message =
                    format!("AttachVolume.Attach succeeded for volume {:?} ", volume.name);
                plan.ops.push(Op::Tell { pod, reason: ATTACHED, message });
            }
            Some(_) => {}
            None => detach(picture, attachment, &volume, force_after, &mut plan),
        }
    }
    plan.attached.sort();
    plan
}

/// The volume of an attachment that bears the name this controller would have given it.
fn made_here(picture: &Picture<'_, '_>, attachment: &VolumeAttachment) -> Option<Attachable> {
    let volume = (picture.known)(attachment.spec.source.persistent_volume_name.as_deref()?)?;
    let name = volume.attachment(picture.name);
    (attachment.metadata.name.as_ref() == Some(&name)).then_some(volume)
}

fn known_attached(node: Option<&Node>, name: &str) -> bool {
    let status = node.and_then(|node| node.status.as_ref());
    let attached = status.and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
    attached.iter().any(|volume| volume.name == name)
}

fn attach<'a>(picture: &Picture<'a, '_>, volume: &'a Attachable, pod: &'a Pod) -> Option<Op<'a>> {
    let name = volume.attachment(picture.name);
    let of_volume = |it: &&Arc<VolumeAttachment>| {
        it.spec.source.persistent_volume_name.as_deref() == Some(volume.name.as_str())
    };
    let mut there = picture.attachments.iter().filter(of_volume);
    if let Some(own) = there.clone().find(|it| it.metadata.name.as_ref() == Some(&name)) {
        let error = own.status.as_ref().and_then(|status| status.attach_error.as_ref());
        let said = error.and_then(|error| error.message.as_deref())?;
        let message = format!("AttachVolume.Attach failed for volume {:?} : {said}", volume.name);
        return Some(Op::Tell { pod, reason: FAILED, message });
    }
    if !volume.shared && there.any(|it| it.spec.node_name != picture.name) {
        let message = format!(
            "Multi-Attach error for volume {:?} Volume is already exclusively attached to one node and can't be attached to another",
            volume.name
        );
        return Some(Op::Tell { pod, reason: FAILED, message });
    }
    picture.node.is_some().then_some(Op::Attach(volume))
}

fn detach<'a>(
    picture: &Picture<'a, '_>,
    attachment: &'a VolumeAttachment,
    volume: &Attachable,
    force_after: Duration,
    plan: &mut Plan<'a>,
) {
    if attachment.metadata.deletion_timestamp.is_some() {
        return;
    }
    let status = picture.node.map(|node| node.status.as_ref());
    let in_use = status.map(|status| status.and_then(|status| status.volumes_in_use.as_deref()));
    // A node that is gone cannot say what it still uses.
    let may_be_used =
        in_use.is_none_or(|in_use| in_use.unwrap_or_default().contains(&volume.unique_name()));
    if !may_be_used {
        return plan.ops.push(Op::Detach(attachment));
    }
    if picture.node.is_some_and(node::is_ready) {
        // Its agent will say when it has let go.
        return;
    }
    let name = attachment.metadata.name.as_deref().unwrap_or_default();
    let left = force_after.saturating_sub((picture.lost_for)(name));
    if left.is_zero() {
        plan.ops.push(Op::Detach(attachment));
    } else {
        plan.look_again = Some(plan.look_again.map_or(left, |other| other.min(left)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    const SIX_MINUTES: Duration = Duration::from_secs(360);

    fn volume(modes: &str) -> Attachable {
        let spec = format!("{{accessModes: [{modes}], csi: {{driver: d, volumeHandle: h}}}}");
        Attachable::of(&yaml(&format!("{{metadata: {{name: pv}}, spec: {spec}}}"))).expect("CSI")
    }

    fn attachment(node: &str, status: &str) -> Arc<VolumeAttachment> {
        let name = volume("ReadWriteOnce").attachment(node);
        let spec =
            format!("{{attacher: d, nodeName: {node}, source: {{persistentVolumeName: pv}}}}");
        Arc::new(yaml(&format!("{{metadata: {{name: {name}}}, spec: {spec}, status: {status}}}")))
    }

    fn node(ready: &str, status: &str) -> Node {
        let conditions = format!("conditions: [{{type: Ready, status: '{ready}'}}]");
        yaml(&format!("{{metadata: {{name: n}}, status: {{{conditions}{status}}}}}"))
    }

    /// What is done for node `n`: each operation in a word or two.
    fn check(
        wanted: Option<Attachable>,
        node: Option<Node>,
        attachments: &[Arc<VolumeAttachment>],
        lost_for: u64,
        expected: &[&str],
    ) {
        let pod: Arc<Pod> = Arc::new(yaml("{metadata: {name: web}}"));
        let wanted: Vec<_> = wanted.into_iter().map(|volume| (volume, pod.clone())).collect();
        let picture = Picture {
            name: "n",
            node: node.as_ref(),
            wanted: &wanted,
            attachments,
            known: &|name| (name == "pv").then(|| volume("ReadWriteOnce")),
            lost_for: &|_| Duration::from_secs(lost_for),
        };
        let plan = plan(&picture, SIX_MINUTES);
        let words = plan.ops.iter().map(|op| match op {
            Op::Attach(volume) => format!("attach {}", volume.name),
            Op::Detach(attachment) => format!("detach from {}", attachment.spec.node_name),
            Op::Tell { reason, message, .. } => format!("{reason}: {}", &message[..18]),
        });
        let attached = plan.attached.iter().map(|name| format!("has {name}"));
        let again = plan.look_again.map(|left| format!("again in {}", left.as_secs()));
        assert_eq!(words.chain(attached).chain(again).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_volume_is_attached_once_for_the_pods_of_a_node() {
        let volume = volume("ReadWriteOnce");
        check(Some(volume.clone()), Some(node("True", "")), &[], 0, &["attach pv"]);
        let own = [attachment("n", "{attached: false}")];
        check(Some(volume.clone()), Some(node("True", "")), &own, 0, &[]);
        check(Some(volume), None, &[], 0, &[]);
    }

    #[test]
    fn an_attachment_is_told_once() {
        let own = [attachment("n", "{attached: true}")];
        let told = "SuccessfulAttachVolume: AttachVolume.Attac";
        let wanted = || Some(volume("ReadWriteOnce"));
        check(wanted(), Some(node("True", "")), &own, 0, &[told, "has kubernetes.io/csi/d^h"]);
        let knows = ", volumesAttached: [{name: kubernetes.io/csi/d^h, devicePath: ''}]";
        check(wanted(), Some(node("True", knows)), &own, 0, &["has kubernetes.io/csi/d^h"]);
    }

    #[test]
    fn what_a_driver_cannot_attach_is_told_to_the_pod() {
        let own = [attachment("n", "{attached: false, attachError: {message: no bay}}")];
        let told = "FailedAttachVolume: AttachVolume.Attac";
        check(Some(volume("ReadWriteOnce")), Some(node("True", "")), &own, 0, &[told]);
    }

    #[test]
    fn a_volume_for_one_node_waits_until_the_other_has_let_go() {
        let elsewhere = [attachment("other", "{attached: true}")];
        let told = "FailedAttachVolume: Multi-Attach error";
        check(Some(volume("ReadWriteOnce")), Some(node("True", "")), &elsewhere, 0, &[told]);
        check(Some(volume("ReadWriteMany")), Some(node("True", "")), &elsewhere, 0, &["attach pv"]);
    }

    #[test]
    fn a_volume_is_detached_when_its_node_has_let_go() {
        let own = [attachment("n", "{attached: false}")];
        let uses = ", volumesInUse: ['kubernetes.io/csi/d^h']";
        check(None, Some(node("True", "")), &own, 0, &["detach from n"]);
        check(None, Some(node("True", uses)), &own, 900, &[]);
    }

    #[test]
    fn a_lost_node_keeps_its_volumes_for_six_minutes() {
        let own = [attachment("n", "{attached: false}")];
        let uses = ", volumesInUse: ['kubernetes.io/csi/d^h']";
        check(None, Some(node("Unknown", uses)), &own, 60, &["again in 300"]);
        check(None, Some(node("Unknown", uses)), &own, 360, &["detach from n"]);
        check(None, None, &own, 60, &["again in 300"]);
        check(None, None, &own, 360, &["detach from n"]);
    }

    #[test]
    fn an_attachment_of_somebody_else_is_left_alone() {
        let mut own = (*attachment("n", "{attached: true}")).clone();
        own.metadata.name = Some("mine".into());
        check(None, Some(node("True", "")), &[Arc::new(own)], 900, &[]);
    }
}
