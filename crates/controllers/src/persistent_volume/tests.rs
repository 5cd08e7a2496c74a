//! Claims and volumes in YAML, what is planned for them, and that any muddle of them comes to rest.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{claim, matching, volume};
use crate::testing::{Dice, yaml};

fn volume_of(name: &str, size: &str, rest: &str, status: &str) -> Arc<PersistentVolume> {
    Arc::new(yaml(&format!(
        "{{metadata: {{name: {name}}}, spec: {{capacity: {{storage: {size}}}, accessModes: [ReadWriteOnce], {rest}}},
           status: {{phase: {status}}}}}"
    )))
}

fn claim_of(meta: &str, spec: &str) -> PersistentVolumeClaim {
    yaml(&format!(
        "{{metadata: {{name: c, namespace: ns, uid: u, {meta}}}, spec: {{accessModes: [ReadWriteOnce],
           resources: {{requests: {{storage: 2Gi}}}}, {spec}}}, status: {{phase: Pending}}}}"
    ))
}

fn class(name: &str, rest: &str) -> Arc<StorageClass> {
    Arc::new(yaml(&format!("{{metadata: {{name: {name}}}, provisioner: d.example.com, {rest}}}")))
}

/// A plan in a word: the volume, or the reason that is told.
fn planned(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> String {
    match claim::plan(claim, volumes, classes) {
        claim::Op::Bind(volume) => volume.metadata.name.clone().unwrap_or_default(),
        claim::Op::Update(changed) => {
            format!("class {}", changed.spec.unwrap().storage_class_name.unwrap())
        }
        claim::Op::Wait(event) => event.map_or("wait".into(), |event| event.reason.into()),
        claim::Op::Lose(event) | claim::Op::Provision { event, .. } => event.reason.into(),
    }
}

#[test]
fn a_claim_gets_the_smallest_free_volume_that_fits() {
    let none = "storageClassName: ''";
    let ours = "claimRef: {name: c, namespace: ns}";
    let theirs = "claimRef: {name: other, namespace: ns, uid: x}";
    let volumes = [
        volume_of("small", "1Gi", "", "Available"),
        volume_of("large", "9Gi", "", "Available"),
        volume_of("fit", "3Gi", "", "Available"),
        volume_of("taken", "2Gi", theirs, "Bound"),
        volume_of("classed", "2Gi", "storageClassName: k", "Available"),
        volume_of("block", "2Gi", "volumeMode: Block", "Available"),
        volume_of("released", "2Gi", "", "Released"),
    ];
    let reserved = [&volumes[..], &[volume_of("reserved", "9Gi", ours, "Available")]].concat();
    let of = |spec: &str| planned(&claim_of("", spec), &volumes, &[]);
    assert_eq!(of(none), "fit");
    assert_eq!(of("storageClassName: '', volumeName: large"), "large");
    assert_eq!(of("storageClassName: '', volumeName: small"), "VolumeMismatch");
    assert_eq!(of("storageClassName: '', volumeName: taken"), "FailedBinding");
    assert_eq!(of("storageClassName: '', volumeName: missing"), "wait");
    assert_eq!(of("storageClassName: '', volumeMode: Block"), "block");
    assert_eq!(of("storageClassName: k"), "classed");
    assert_eq!(of("storageClassName: '', selector: {matchLabels: {a: b}}"), "FailedBinding");
    assert_eq!(planned(&claim_of("", none), &reserved, &[]), "reserved");
}

#[test]
fn without_a_volume_the_class_says_what_happens() {
    let late = class("late", "volumeBindingMode: WaitForFirstConsumer");
    let by_hand: Arc<StorageClass> =
        Arc::new(yaml("{metadata: {name: hand}, provisioner: kubernetes.io/no-provisioner}"));
    let default: Arc<StorageClass> = Arc::new(yaml(
        "{metadata: {name: d, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: p}",
    ));
    let classes = [class("k", ""), late, by_hand];
    let free = [volume_of("v", "2Gi", "storageClassName: late", "Available")];
    let of = |meta: &str, spec: &str| planned(&claim_of(meta, spec), &free, &classes);
    assert_eq!(of("", "storageClassName: k"), "ExternalProvisioning");
    assert_eq!(of("", "storageClassName: gone"), "ProvisioningFailed");
    assert_eq!(of("", "storageClassName: hand"), "ProvisioningFailed");
    assert_eq!(of("", "storageClassName: late"), "WaitForFirstConsumer");
    let placed = "annotations: {volume.kubernetes.io/selected-node: n}";
    assert_eq!(of(placed, "storageClassName: late"), "ExternalProvisioning");
    assert_eq!(of("", ""), "FailedBinding", "there is no default class");
    assert_eq!(planned(&claim_of("", ""), &free, &[default]), "class d");
}

#[test]
fn a_bound_claim_is_lost_with_its_volume() {
    let bound = "annotations: {pv.kubernetes.io/bind-completed: 'yes'}";
    let volumes = [
        volume_of("mine", "2Gi", "claimRef: {name: c, namespace: ns, uid: u}", "Bound"),
        volume_of("theirs", "2Gi", "claimRef: {name: c, namespace: ns, uid: later}", "Bound"),
    ];
    let of = |spec: &str| planned(&claim_of(bound, spec), &volumes, &[]);
    assert_eq!(of("volumeName: mine"), "mine");
    assert_eq!(of("volumeName: theirs"), "ClaimMisbound");
    assert_eq!(of("volumeName: missing"), "ClaimLost");
    assert_eq!(of(""), "ClaimLost");
}

#[test]
fn a_volume_whose_claim_is_gone_is_released_and_then_reclaimed_by_its_maker() {
    let promise = "claimRef: {name: c, namespace: ns, uid: u}";
    let delete = "persistentVolumeReclaimPolicy: Delete";
    let csi = "csi: {driver: d, volumeHandle: h}";
    for (rest, status, expected) in [
        ("", "Pending", "Available"),
        ("claimRef: {name: c, namespace: ns}", "Pending", "Available"),
        (promise, "Bound", "Released"),
        (promise, "Released", "nothing"),
        (&format!("{promise}, {delete}"), "Bound", "Released"),
        (&format!("{promise}, {delete}"), "Released", "VolumeFailedDelete"),
        (&format!("{promise}, {delete}"), "Failed", "nothing"),
        (&format!("{promise}, {delete}, {csi}"), "Released", "nothing"),
    ] {
        let planned = match volume::plan(&volume_of("v", "2Gi", rest, status), None) {
            volume::Op::Nothing => "nothing",
            volume::Op::Phase(phase) => phase,
            volume::Op::Unbind(_) => "unbind",
            volume::Op::Fail(event) => event.reason,
        };
        assert_eq!(planned, expected, "{rest} {status}");
    }
}

#[test]
fn a_volume_promised_to_a_claim_that_has_another_is_free_again() {
    let volume = volume_of("v", "2Gi", "claimRef: {name: c, namespace: ns, uid: u}", "Bound");
    let elsewhere = claim_of("", "volumeName: w");
    let volume::Op::Unbind(reserved) = volume::plan(&volume, Some(&elsewhere)) else { panic!() };
    let promise = reserved.spec.unwrap().claim_ref.unwrap();
    assert_eq!((promise.name.as_deref(), promise.uid), (Some("c"), None), "its maker's wish stays");
    let mut ours = volume.as_ref().clone();
    ours.metadata.annotations = Some([(super::BOUND_BY_CONTROLLER.into(), "yes".into())].into());
    let volume::Op::Unbind(free) = volume::plan(&ours, Some(&elsewhere)) else { panic!() };
    assert_eq!(free.spec.unwrap().claim_ref, None);
}

/// Claims and volumes, with every plan carried out on them.
struct World {
    claims: Vec<PersistentVolumeClaim>,
    volumes: Vec<Arc<PersistentVolume>>,
}

// === impl World ===

impl World {
    fn random(dice: &mut Dice) -> World {
        let phases = ["Pending", "Available", "Released"];
        let volumes = (0..4).map(|n| {
            let rest = match dice.below(4) {
                0 => format!("claimRef: {{name: c{}, namespace: ns}}", dice.below(4)),
                1 => "claimRef: {name: gone, namespace: ns, uid: gone}".to_owned(),
                _ => String::new(),
            };
            let size = format!("{}Gi", 1 + dice.below(4));
            volume_of(&format!("v{n}"), &size, &rest, phases[dice.below(3)])
        });
        let volumes = volumes.collect();
        let claims = (0..4).map(|n| {
            let named = match dice.below(4) {
                0 => format!(", volumeName: v{}", dice.below(5)),
                _ => String::new(),
            };
            let mut claim = claim_of("", &format!("storageClassName: ''{named}"));
            claim.metadata.name = Some(format!("c{n}"));
            claim.metadata.uid = Some(format!("u{n}"));
            claim
        });
        World { volumes, claims: claims.collect() }
    }

    /// Whether anything changed.
    fn step(&mut self) -> bool {
        let before = (self.claims.clone(), self.volumes.clone());
        for n in 0..self.claims.len() {
            match claim::plan(&self.claims[n], &self.volumes, &[]) {
                claim::Op::Bind(volume) => self.bind(n, &volume),
                claim::Op::Wait(_) => {
                    self.claims[n].status = Some(claim::waiting(&self.claims[n]));
                }
                claim::Op::Lose(_) => self.claims[n].status = Some(claim::lost(&self.claims[n])),
                other => panic!("no class is there: {other:?}"),
            }
        }
        for volume in &mut self.volumes {
            let claim = self.claims.iter().find(|claim| volume::is_promised_to(volume, claim));
            let mut changed = volume.as_ref().clone();
            let phase = match volume::plan(volume, claim) {
                volume::Op::Nothing => continue,
                volume::Op::Phase(phase) => phase,
                volume::Op::Unbind(free) => {
                    changed = *free;
                    "Available"
                }
                volume::Op::Fail(_) => "Failed",
            };
            changed.status.get_or_insert_default().phase = Some(phase.into());
            *volume = Arc::new(changed);
        }
        before != (self.claims.clone(), self.volumes.clone())
    }

    fn bind(&mut self, n: usize, volume: &PersistentVolume) {
        let mut promised = volume::promised(volume, &self.claims[n]);
        promised.status.get_or_insert_default().phase = Some("Bound".into());
        let mut named = claim::named(&self.claims[n], &promised);
        named.status = Some(claim::bound(&named, &promised));
        self.claims[n] = named;
        let place = self.volumes.iter_mut().find(|one| one.metadata.name == volume.metadata.name);
        *place.expect("a volume that is there") = Arc::new(promised);
    }
}

#[test]
fn any_muddle_comes_to_rest_with_every_binding_on_both_sides() {
    for seed in 0..400 {
        let mut world = World::random(&mut Dice::new(seed));
        let steps = (0..10).take_while(|_| world.step()).count();
        assert!(steps < 10, "seed {seed} never rests");
        for claim in world.claims.iter().filter(|one| matching::claim_phase(one) == "Bound") {
            let holds = |volume: &&Arc<PersistentVolume>| volume::names(claim, volume);
            let volume = world.volumes.iter().find(holds).expect("bound to what is there");
            assert!(volume::is_promised_to(volume, claim), "seed {seed}");
            assert_eq!(matching::phase(volume), "Bound", "seed {seed}");
        }
        for volume in world.volumes.iter().filter(|one| matching::phase(one) == "Available") {
            let waits = |claim: &&PersistentVolumeClaim| matching::claim_phase(claim) == "Pending";
            let left_out = world.claims.iter().filter(waits).find(|claim| {
                claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none())
                    && matching::best(&world.volumes, claim).is_some()
            });
            assert!(left_out.is_none(), "seed {seed}: {volume:?} is free for {left_out:?}");
        }
    }
}
