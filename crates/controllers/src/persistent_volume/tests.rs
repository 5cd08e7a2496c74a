//! Tables of what becomes of each side, and a small world in which every state must end in rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::claim::{self, Observed};
use super::facts::{self, is_promised_to, promised_uid, volume_name, volume_phase};
use super::volume;
use crate::testing::{Dice, yaml};

const DONE: &str = "annotations: {pv.kubernetes.io/bind-completed: 'yes'}";

fn claim(meta: &str, spec: &str) -> PersistentVolumeClaim {
    yaml(&format!(
        "{{metadata: {{name: data, namespace: ns, uid: c, {meta}}}, spec: {{{spec}}}, status: {{phase: Pending}}}}"
    ))
}

fn volume_of(claim_ref: &str, spec: &str, phase: &str) -> PersistentVolume {
    let claim_ref = match claim_ref {
        "" => String::new(),
        uid => format!("claimRef: {{namespace: ns, name: data, uid: {uid}}},"),
    };
    yaml(&format!(
        "{{metadata: {{name: disk}}, spec: {{{claim_ref} capacity: {{storage: 2Gi}}, {spec}}}, status: {{phase: {phase}}}}}"
    ))
}

fn told(claim: &PersistentVolumeClaim, observed: &Observed) -> (String, String) {
    let plan = claim::plan(claim, observed);
    let phase = plan.claim.status.and_then(|status| status.phase).unwrap_or_default();
    (phase, plan.told.map(|told| told.reason.to_owned()).unwrap_or_default())
}

#[track_caller]
fn check(claim: &PersistentVolumeClaim, observed: Observed, phase: &str, reason: &str) {
    assert_eq!(told(claim, &observed), (phase.to_owned(), reason.to_owned()));
}

fn with(named: PersistentVolume) -> Observed {
    Observed { named: Some(Arc::new(named)), ..Observed::default() }
}

fn of_class(class: &str) -> Observed {
    Observed { class: Some(Arc::new(yaml(class))), ..Observed::default() }
}

#[test]
fn a_claim_waits_for_what_its_class_says() {
    let fast = claim("", "storageClassName: fast");
    check(&claim("", ""), Observed::default(), "Pending", "FailedBinding");
    check(&fast, Observed::default(), "Pending", "ProvisioningFailed");
    let class = |more: &str| format!("{{metadata: {{name: fast}}, provisioner: {more}}}");
    check(&fast, of_class(&class("kubernetes.io/no-provisioner")), "Pending", "ProvisioningFailed");
    check(&fast, of_class(&class("example.com/disks")), "Pending", "ExternalProvisioning");
    let late = class("example.com/disks, volumeBindingMode: WaitForFirstConsumer");
    check(&fast, of_class(&late), "Pending", "WaitForFirstConsumer");
    let used = Observed { waiting_pods: vec!["web".into()], ..of_class(&late) };
    check(&fast, used, "Pending", "WaitForPodScheduled");
    let placed =
        claim("annotations: {volume.kubernetes.io/selected-node: n}", "storageClassName: fast");
    check(&placed, of_class(&late), "Pending", "ExternalProvisioning");
}

#[test]
fn a_claim_without_a_class_gets_the_default_when_there_is_one() {
    let observed = || Observed { default_class: Some("standard".into()), ..Observed::default() };
    let plan = claim::plan(&claim("", ""), &observed());
    assert_eq!(facts::claim_class(&plan.claim), "standard");
    check(&claim("", "storageClassName: ''"), observed(), "Pending", "FailedBinding");
}

#[test]
fn a_provisioner_is_named_on_the_claim_it_is_to_serve() {
    let class = "{metadata: {name: fast}, provisioner: example.com/disks}";
    let plan = claim::plan(&claim("", "storageClassName: fast"), &of_class(class));
    for key in facts::PROVISIONERS {
        assert_eq!(facts::annotation(&plan.claim.metadata, key), Some("example.com/disks"));
    }
}

#[test]
fn a_claim_that_names_its_volume_gets_that_or_none() {
    let asking = claim("", "volumeName: disk");
    check(&asking, Observed::default(), "Pending", "");
    check(&asking, with(volume_of("", "", "Available")), "Bound", "");
    check(&asking, with(volume_of("c", "", "Available")), "Bound", "");
    check(&asking, with(volume_of("other", "", "Bound")), "Pending", "FailedBinding");
    let classy = volume_of("", "storageClassName: fast", "Available");
    check(&asking, with(classy), "Pending", "VolumeMismatch");
}

#[test]
fn a_complete_binding_is_kept_or_lost_but_never_changed() {
    let settled = claim(DONE, "volumeName: disk");
    check(&settled, with(volume_of("c", "", "Bound")), "Bound", "");
    check(&settled, Observed::default(), "Lost", "ClaimLost");
    check(&settled, with(volume_of("other", "", "Bound")), "Lost", "ClaimMisbound");
    check(&claim(DONE, ""), Observed::default(), "Lost", "ClaimLost");
}

#[test]
fn a_volume_follows_the_claim_it_is_promised_to() {
    #[track_caller]
    fn check(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>, phase: &str) {
        let plan = volume::plan(volume, claim);
        assert_eq!(volume_phase(&plan.volume), phase);
    }
    let (here, elsewhere) = (claim("", "volumeName: disk"), claim("", "volumeName: other"));
    check(&volume_of("", "", "Pending"), None, "Available");
    check(&volume_of("c", "", "Available"), Some(&here), "Bound");
    check(&volume_of("c", "", "Available"), Some(&claim("", "")), "Available");
    check(&volume_of("before", "", "Bound"), Some(&here), "Released");
    check(&volume_of("c", "", "Bound"), None, "Released");
    check(&volume_of("c", "persistentVolumeReclaimPolicy: Delete", "Bound"), None, "Failed");
    check(&volume_of("c", "persistentVolumeReclaimPolicy: Recycle", "Bound"), None, "Failed");
    let csi = "persistentVolumeReclaimPolicy: Delete, csi: {driver: d, volumeHandle: h}";
    check(&volume_of("c", csi, "Bound"), None, "Released");
    check(&volume_of("c", "", "Pending"), Some(&elsewhere), "Available");
}

#[test]
fn a_promise_that_is_not_kept_is_taken_back_as_far_as_it_was_ours() {
    let elsewhere = claim("", "volumeName: other");
    let mut ours = volume_of("c", "", "Available");
    ours.metadata.annotations = Some([(facts::BOUND_BY_CONTROLLER.into(), "yes".into())].into());
    assert_eq!(facts::claim_ref(&volume::plan(&ours, Some(&elsewhere)).volume), None);
    let theirs = volume::plan(&volume_of("c", "", "Available"), Some(&elsewhere)).volume;
    assert_eq!(promised_uid(&theirs), None);
    assert!(is_promised_to(&theirs, &claim("", "")), "the name that its user wrote stays");
}

/// Claims and volumes, and both controllers, one at a time.
#[derive(Default)]
struct World {
    claims: BTreeMap<String, PersistentVolumeClaim>,
    volumes: BTreeMap<String, PersistentVolume>,
}

// === impl World ===

impl World {
    fn random(dice: &mut Dice) -> World {
        let mut world = World::default();
        for index in 0..dice.below(4) {
            let size = 1 + dice.below(4);
            let named = ["", "volumeName: disk-0,", "volumeName: disk-9,"][dice.below(3)];
            let text = format!(
                "{{metadata: {{name: claim-{index}, namespace: ns, uid: c{index}}}, \
                 spec: {{{named} resources: {{requests: {{storage: {size}Gi}}}}}}, status: {{phase: Pending}}}}"
            );
            world.claims.insert(format!("claim-{index}"), yaml(&text));
        }
        for index in 0..dice.below(4) {
            let size = 1 + dice.below(4);
            let promised = [
                "",
                "claimRef: {namespace: ns, name: claim-0},",
                "claimRef: {namespace: ns, name: claim-1, uid: c1},",
                "claimRef: {namespace: ns, name: claim-1, uid: gone},",
            ][dice.below(4)];
            let text = format!(
                "{{metadata: {{name: disk-{index}}}, spec: {{{promised} capacity: {{storage: {size}Gi}}}}, status: {{phase: Pending}}}}"
            );
            world.volumes.insert(format!("disk-{index}"), yaml(&text));
        }
        world
    }

    /// Runs each key once; says whether anything was written.
    fn step(&mut self) -> bool {
        let before = (self.claims.clone(), self.volumes.clone());
        for name in self.claims.keys().cloned().collect::<Vec<_>>() {
            let old = &self.claims[&name];
            let observed = Observed {
                named: volume_name(old)
                    .and_then(|name| self.volumes.get(name))
                    .cloned()
                    .map(Arc::new),
                volumes: self.volumes.values().cloned().map(Arc::new).collect(),
                ..Observed::default()
            };
            let plan = claim::plan(old, &observed);
            if let Some(volume) = plan.volume {
                self.volumes.insert(volume.metadata.name.clone().unwrap_or_default(), volume);
            }
            self.claims.insert(name, plan.claim);
        }
        for name in self.volumes.keys().cloned().collect::<Vec<_>>() {
            let old = &self.volumes[&name];
            let claim = facts::claim_ref(old).and_then(|to| self.claims.get(to.name.as_deref()?));
            let plan = volume::plan(old, claim);
            self.volumes.insert(name, plan.volume);
        }
        before != (self.claims.clone(), self.volumes.clone())
    }

    fn check_consistency(&self, seed: u64) {
        for claim in self.claims.values() {
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            let volume = volume_name(claim).and_then(|name| self.volumes.get(name));
            if phase == Some("Bound") {
                let volume = volume.unwrap_or_else(|| panic!("seed {seed}: bound to nothing"));
                assert_eq!(promised_uid(volume), claim.metadata.uid.as_deref(), "seed {seed}");
                assert_eq!(volume_phase(volume), "Bound", "seed {seed}");
            }
        }
    }
}

#[test]
fn every_state_ends_in_rest_with_no_volume_shared() {
    for seed in 0..2000 {
        let mut world = World::random(&mut Dice::new(seed));
        let rounds = (0..10).take_while(|_| world.step()).count();
        assert!(rounds < 10, "seed {seed} does not come to rest");
        world.check_consistency(seed);
    }
}
