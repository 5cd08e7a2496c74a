//! Ranges of Service addresses: ready when they are there, and kept as long as an address would be in no range without them.
//!
//! A ServiceCIDR, the others and the addresses in use in -> its finalizer, its condition `Ready`, and its end out.
//! Counterpart: `pkg/controller/servicecidrs`. Differs from upstream: only ranges that cannot go by themselves stand in
//! for others, and the API server is asked once more what is in use before one goes.
//! Invariant: no address in use is left outside of all ranges.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Error, Key, Result};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const FIELD_MANAGER: &str = "service-cidr-controller";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How long those who hand out addresses have to hear that a range goes.
const GRACE: Duration = Duration::from_secs(10);

pub const DEF: ControllerDef = ControllerDef {
    name: "service-cidrs-controller",
    // One at a time: of two ranges that stand in for each other only one may go.
    workers: 1,
    watches: |edges| {
        edges.mapped::<ServiceCIDR>(|caches, delta| {
            let changed = delta.latest();
            let near = |range: &IpNet| ranges(changed).any(|own| overlap(&own, range));
            let mut keys = leaving(caches, near);
            keys.push(Key::of(changed.as_ref()));
            keys
        });
        edges.mapped::<IPAddress>(freed);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

#[derive(Debug, PartialEq)]
enum Op {
    Nothing,
    Protect,
    Tell(Word),
    /// Nobody needs it any more; who hands out addresses has this long to hear of it.
    Wait(Duration),
    Release,
}

/// What the condition `Ready` says.
#[derive(Debug, PartialEq)]
struct Word {
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const READY: Word =
    Word { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const HELD: Word = Word {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

/// An address may hold up, or no longer hold up, the end of the ranges it is in.
fn freed(caches: &Caches, delta: &Delta<IPAddress>) -> Vec<Key> {
    let moved = delta.old.is_none() || delta.new.is_none();
    let Some(address) = in_use(delta.latest()).filter(|_| moved) else { return Vec::new() };
    leaving(caches, |range| holds(range, address))
}

/// Ranges that wait for their end and of which one is meant.
fn leaving(caches: &Caches, is_meant: impl Fn(&IpNet) -> bool) -> Vec<Key> {
    let all = caches.store::<ServiceCIDR>().all();
    let meant = all.iter().filter(|one| is_terminating(one) && ranges(one).any(|it| is_meant(&it)));
    meant.map(|one| Key::of(one.as_ref())).collect()
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let all = ctx.lister::<ServiceCIDR>().all();
    let Some(cidr) = all.iter().find(|one| Key::of(one.as_ref()) == key) else {
        return Ok(Action::Done);
    };
    let known = ctx.lister::<IPAddress>().all();
    let known: Vec<IpAddr> = known.iter().filter_map(|one| in_use(one)).collect();
    let op = match plan(cidr, &all, &known, ctx.now()) {
        Op::Release => plan(cidr, &all, &addresses_now(&ctx).await?, ctx.now()),
        op => op,
    };
    let outcome = match op {
        Op::Nothing => return Ok(Action::Done),
        Op::Wait(left) => return Ok(Action::After(left)),
        Op::Protect => protect(&ctx, &key, "finalizers").await,
        Op::Release => protect(&ctx, &key, "$deleteFromPrimitiveList/finalizers").await,
        Op::Tell(word) => tell(&ctx, &key, cidr, &word).await,
    };
    match outcome {
        Err(error) if error.is_not_found() => Ok(Action::Done),
        // What is next follows from what was written.
        outcome => outcome.map(|()| Action::Done),
    }
}

/// Past the cache: one that it does not show yet may be in use.
async fn addresses_now(ctx: &Ctx) -> Result<Vec<IpAddr>> {
    let addresses = Api::<IPAddress>::all(ctx.client.clone()).list(&ListParams::default()).await;
    let addresses =
        addresses.map_err(|source| Error::Read { what: "the addresses in use".into(), source })?;
    Ok(addresses.items.iter().filter_map(in_use).collect())
}

async fn protect(ctx: &Ctx, key: &Key, how: &str) -> Result<()> {
    let patch = json!({ "metadata": { how: [FINALIZER] } });
    ctx.patch_strategic::<ServiceCIDR>(key, &patch).await.map(drop)
}

async fn tell(ctx: &Ctx, key: &Key, cidr: &ServiceCIDR, word: &Word) -> Result<()> {
    let Word { status, reason, message } = word;
    let condition = json!({ "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": Time(ctx.now()) });
    let applied = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": key.name }, "status": { "conditions": [condition] } });
    let told = ctx.apply_status::<ServiceCIDR>(key, FIELD_MANAGER, &applied).await;
    if told.is_err() && *word == READY {
        let message = "The ServiceCIDR Status can not be set to Ready=True";
        ctx.recorder.warning(cidr, "KubernetesServiceCIDRError", message);
    }
    told.map(drop)
}

// === decisions ===

fn plan(cidr: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr], now: Timestamp) -> Op {
    let tell = |word| if says(cidr, &word) { Op::Nothing } else { Op::Tell(word) };
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        return if is_protected(cidr) { tell(READY) } else { Op::Protect };
    };
    if !is_protected(cidr) {
        return Op::Nothing;
    }
    let others = all.iter().filter(|one| one.metadata.name != cidr.metadata.name);
    // One that is not protected may go at any moment, or has gone.
    let lasting = others.filter(|one| is_protected(one));
    let rest: Vec<IpNet> = lasting.flat_map(|one| ranges(one)).collect();
    if needed(cidr, &rest, addresses) {
        return tell(HELD);
    }
    let left = GRACE.saturating_sub(now.duration_since(deleted.0).try_into().unwrap_or_default());
    if left.is_zero() { Op::Release } else { Op::Wait(left) }
}

/// Whether an address would be in no range without this one.
fn needed(cidr: &ServiceCIDR, rest: &[IpNet], addresses: &[IpAddr]) -> bool {
    let is_covered = |range: &IpNet| rest.iter().any(|other| other.contains(range));
    if ranges(cidr).all(|range| is_covered(&range)) {
        return false;
    }
    let own = addresses.iter().filter(|address| ranges(cidr).any(|range| holds(&range, **address)));
    own.into_iter().any(|address| !rest.iter().any(|other| holds(other, *address)))
}

fn says(cidr: &ServiceCIDR, word: &Word) -> bool {
    let conditions = cidr.status.as_ref().and_then(|status| status.conditions.as_deref());
    let ready = conditions.unwrap_or_default().iter().find(|one| one.type_ == "Ready");
    ready.is_some_and(|ready| {
        (ready.status.as_str(), ready.reason.as_str(), ready.message.as_str())
            == (word.status, word.reason, word.message)
    })
}

fn is_terminating(cidr: &ServiceCIDR) -> bool {
    cidr.metadata.deletion_timestamp.is_some()
}

fn is_protected(cidr: &ServiceCIDR) -> bool {
    cidr.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER)
}

fn ranges(cidr: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let ranges = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    ranges.filter_map(|range| range.parse().ok())
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Whether the address is handed out from the range: the first and, of IPv4, the last are not.
fn holds(range: &IpNet, address: IpAddr) -> bool {
    let is_last = address.is_ipv4() && address == range.broadcast();
    range.contains(&address) && address != range.network() && !is_last
}

/// The address, if the API server itself has handed it out.
fn in_use(address: &IPAddress) -> Option<IpAddr> {
    let by = address.metadata.labels.as_ref()?.get(MANAGED_BY)?;
    address.metadata.name.as_ref().filter(|_| by == ALLOCATOR)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Dice, yaml};

    const DELETED: &str = "2026-01-01T00:00:00Z";

    fn cidr(name: &str, meta: &str, ranges: &str, conditions: &str) -> Arc<ServiceCIDR> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}, {meta}}}, spec: {{cidrs: [{ranges}]}}, status: {{conditions: [{conditions}]}}}}"
        )))
    }

    fn condition(word: &Word) -> String {
        let Word { status, reason, message } = word;
        format!(
            "{{type: Ready, status: '{status}', reason: '{reason}', message: '{message}', lastTransitionTime: '{DELETED}'}}"
        )
    }

    fn protected() -> String {
        format!("finalizers: [{FINALIZER}]")
    }

    fn going() -> String {
        format!("{}, deletionTimestamp: '{DELETED}'", protected())
    }

    /// Seconds after the deletion.
    fn check(all: &[Arc<ServiceCIDR>], addresses: &[&str], seconds: u64) -> Op {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        let deleted: Timestamp = DELETED.parse().unwrap();
        plan(&all[0], all, &addresses, deleted + Duration::from_secs(seconds))
    }

    #[test]
    fn a_range_is_protected_then_ready_and_then_left_alone() {
        let own = |meta: &str, says: &str| check(&[cidr("a", meta, "10.0.0.0/24", says)], &[], 0);
        assert_eq!(own("", ""), Op::Protect);
        assert_eq!(own("", &condition(&READY)), Op::Protect);
        assert_eq!(own(&protected(), ""), Op::Tell(READY));
        assert_eq!(own(&protected(), &condition(&HELD)), Op::Tell(READY));
        assert_eq!(own(&protected(), &condition(&READY)), Op::Nothing);
        let released = format!("deletionTimestamp: '{DELETED}'");
        assert_eq!(own(&released, ""), Op::Nothing, "somebody else holds it");
    }

    #[test]
    fn a_range_goes_when_no_address_needs_it() {
        let range = || cidr("a", &going(), "10.0.0.0/24", "");
        let other = |ranges: &str| cidr("b", &protected(), ranges, "");
        let (held, gone) = (Op::Tell(HELD), Op::Release);
        for (ranges, addresses, expected) in [
            ("10.9.0.0/24", vec![], &gone),
            ("10.9.0.0/24", vec!["10.0.0.7"], &held),
            ("10.9.0.0/24", vec!["10.9.0.7", "fd00::7"], &gone),
            ("10.0.0.0/16", vec!["10.0.0.7"], &gone),
            ("10.0.0.0/28", vec!["10.0.0.7"], &gone),
            ("10.0.0.0/28", vec!["10.0.0.7", "10.0.0.77"], &held),
            // The last of a range is handed out from none but a larger one.
            ("10.0.0.0/28", vec!["10.0.0.15"], &held),
            ("10.9.0.0/24", vec!["10.0.0.255"], &gone),
        ] {
            let all = [range(), other(ranges)];
            assert_eq!(check(&all, &addresses, 60), *expected, "beside {ranges}: {addresses:?}");
        }
        let fresh = [range(), cidr("b", "", "10.0.0.0/16", "")];
        assert_eq!(check(&fresh, &["10.0.0.7"], 60), held, "the other may go as it came");
        let told = [cidr("a", &going(), "10.0.0.0/24", &condition(&HELD))];
        assert_eq!(check(&told, &["10.0.0.7"], 60), Op::Nothing);
    }

    #[test]
    fn both_families_must_be_covered() {
        let all = [cidr("a", &going(), "10.0.0.0/24, 'fd00::/112'", ""), {
            cidr("b", &protected(), "10.0.0.0/16", "")
        }];
        assert_eq!(check(&all, &["10.0.0.7"], 60), Op::Release);
        assert_eq!(check(&all, &["10.0.0.7", "fd00::7"], 60), Op::Tell(HELD));
    }

    #[test]
    fn whoever_hands_out_addresses_has_ten_seconds_to_hear_of_it() {
        let all = [cidr("a", &going(), "10.0.0.0/24", "")];
        assert_eq!(check(&all, &[], 3), Op::Wait(Duration::from_secs(7)));
        assert_eq!(check(&all, &[], 10), Op::Release);
    }

    #[test]
    fn of_two_ranges_that_stand_in_for_each_other_one_stays() {
        let (one, two) =
            (cidr("a", &going(), "10.0.0.0/24", ""), cidr("b", &going(), "10.0.0.0/24", ""));
        assert_eq!(check(&[one, two.clone()], &["10.0.0.7"], 60), Op::Release);
        let released = cidr("a", &format!("deletionTimestamp: '{DELETED}'"), "10.0.0.0/24", "");
        assert_eq!(check(&[two, released], &["10.0.0.7"], 60), Op::Tell(HELD));
    }

    /// Ranges are asked to go in any order, however often each is looked at.
    #[test]
    fn whatever_goes_no_address_is_left_outside_of_all_ranges() {
        let nets = ["10.0.0.0/24", "10.0.0.0/28", "10.0.0.0/24", "10.0.0.16/28", "10.0.0.0/16"];
        let addresses = ["10.0.0.7", "10.0.0.20", "10.0.0.99"];
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut all: Vec<_> = nets[..1 + dice.below(nets.len())]
                .iter()
                .enumerate()
                .map(|(at, net)| cidr(&format!("c{at}"), &going(), net, ""))
                .collect();
            let inside = |all: &[Arc<ServiceCIDR>], address: &str| {
                let address = address.parse().unwrap();
                all.iter().flat_map(|one| ranges(one)).any(|range| holds(&range, address))
            };
            let before: Vec<&str> = addresses.into_iter().filter(|it| inside(&all, it)).collect();
            for _ in 0..30 {
                let at = dice.below(all.len());
                all.swap(0, at);
                if check(&all, &before, 60) == Op::Release {
                    all.remove(0);
                }
            }
            assert!(before.iter().all(|it| inside(&all, it)), "seed {seed}");
        }
    }
}
