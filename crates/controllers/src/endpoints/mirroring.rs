//! Mirrors Endpoints that a user keeps by hand into EndpointSlices, which is all the proxies read.
//!
//! Endpoints of a Service without selector and their slices in -> `plan` -> slices to create, update and delete.
//! Counterpart: `pkg/controller/endpointslicemirroring`.
//! Invariant: only slices that this controller labelled are changed; there is one for each set of ports and each family.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slice_op::SliceOp;
use super::{Family, MANAGED_BY, SERVICE_NAME};
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const MAX_PER_SUBSET: usize = 1000;
/// Annotations of Endpoints that say nothing of their slices.
const UNMIRRORED: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];

pub const DEF: ControllerDef = ControllerDef {
    name: "endpointslicemirroring-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<Endpoints>();
        edges.primary::<Service>();
        edges.mapped::<EndpointSlice>(|_, delta| {
            let ours = delta.sides().filter(|slice| is_ours(slice));
            ours.filter_map(|slice| super::service_of_slice(slice)).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let endpoints = ctx.lister::<Endpoints>().get(&key);
    let service = ctx.lister::<Service>().get(&key);
    let mut present = ctx.lister::<EndpointSlice>().in_namespace(&key.namespace);
    present.retain(|slice| is_ours(slice) && super::service_of_slice(slice).as_ref() == Some(&key));
    let mirrored = endpoints.as_deref().filter(|endpoints| {
        service.as_deref().is_some_and(|service| is_mirrored(service, endpoints))
    });
    warn_of_too_many(&ctx, mirrored);
    for op in plan(mirrored, present) {
        op.carry_out(&ctx).await?;
    }
    Ok(Action::Done)
}

fn warn_of_too_many(ctx: &Ctx, mirrored: Option<&Endpoints>) {
    let Some(endpoints) = mirrored else { return };
    let left_out = too_many(endpoints);
    if left_out > 0 {
        let message = format!(
            "A max of {MAX_PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. {left_out} addresses were skipped"
        );
        ctx.recorder.warning(endpoints, "TooManyAddressesToMirror", message);
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    super::manager(slice) == Some(CONTROLLER)
}

// === decisions ===

/// A slice that is there already is made what is wanted: one of the same ports before any other of the family.
fn plan(mirrored: Option<&Endpoints>, mut present: Vec<Arc<EndpointSlice>>) -> Vec<SliceOp> {
    let mut wanted = mirrored.map(wanted).unwrap_or_default();
    let mut ops = Vec::new();
    let same_ports = |slice: &EndpointSlice, wanted: &EndpointSlice| slice.ports == wanted.ports;
    for fits in [same_ports, |_: &EndpointSlice, _: &EndpointSlice| true] {
        wanted.retain(|wanted| {
            let found = present
                .iter()
                .position(|slice| slice.address_type == wanted.address_type && fits(slice, wanted));
            let Some(found) = found else { return true };
            ops.extend(update(present.remove(found), wanted));
            false
        });
    }
    // Nobody loses an address before it is found elsewhere.
    let created = wanted.into_iter().map(|slice| SliceOp::Create(Box::new(slice)));
    let mut all: Vec<SliceOp> = created.collect();
    all.append(&mut ops);
    all.extend(present.into_iter().map(SliceOp::Delete));
    all
}

fn update(slice: Arc<EndpointSlice>, wanted: &EndpointSlice) -> Option<SliceOp> {
    let mut updated = slice.as_ref().clone();
    updated.endpoints.clone_from(&wanted.endpoints);
    updated.ports.clone_from(&wanted.ports);
    updated.metadata.labels.clone_from(&wanted.metadata.labels);
    updated.metadata.annotations.clone_from(&wanted.metadata.annotations);
    updated.metadata.owner_references.clone_from(&wanted.metadata.owner_references);
    (updated != *slice).then(|| SliceOp::Update(Box::new(updated)))
}

/// What is reached at the same ports.
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: Vec<(Family, Endpoint)>,
}

/// One slice per set of ports and family.
fn wanted(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(endpoint_port).collect();
        let at = groups.iter().position(|group| group.ports == ports).unwrap_or_else(|| {
            groups.push(Group { ports, endpoints: Vec::new() });
            groups.len() - 1
        });
        let known = &mut groups[at].endpoints;
        for (family, endpoint) in mirrored(subset) {
            // Two subsets may name an address for the same ports; the first, which is ready before it is not, counts.
            if !known.iter().any(|(_, other)| other.addresses == endpoint.addresses) {
                known.push((family, endpoint));
            }
        }
    }
    let by_family =
        groups.iter().flat_map(|group| [Family::IPv4, Family::IPv6].map(|family| (group, family)));
    by_family.filter_map(|(group, family)| slice(endpoints, group, family)).collect()
}

/// The addresses of a subset that are mirrored.
fn mirrored(subset: &EndpointSubset) -> impl Iterator<Item = (Family, Endpoint)> {
    let of = |list: &'_ Option<Vec<EndpointAddress>>, ready: bool| {
        let all = list.iter().flatten();
        let known =
            all.filter_map(|address| Some((Family::of(&address.ip)?, endpoint(address, ready))));
        known.collect::<Vec<_>>()
    };
    let ready = of(&subset.addresses, true);
    ready.into_iter().chain(of(&subset.not_ready_addresses, false)).take(MAX_PER_SUBSET)
}

/// How many addresses are beyond what is mirrored.
fn too_many(endpoints: &Endpoints) -> usize {
    let counts = endpoints.subsets.iter().flatten().map(|subset| {
        let count = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().count();
        count(&subset.addresses) + count(&subset.not_ready_addresses)
    });
    counts.map(|count| count.saturating_sub(MAX_PER_SUBSET)).sum()
}

/// Endpoints with a selector behind them, or used as a lock by leader election, are not mirrored.
fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skip = meta
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SKIP_MIRROR))
        .is_some_and(|value| value == "true");
    let lock = meta
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key("control-plane.alpha.kubernetes.io/leader"));
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    !skip && !lock && selector.is_none_or(BTreeMap::is_empty)
}

fn slice(endpoints: &Endpoints, group: &Group, family: Family) -> Option<EndpointSlice> {
    let of_family = group.endpoints.iter().filter(|(its, _)| *its == family);
    let all: Vec<Endpoint> = of_family.map(|(_, endpoint)| endpoint.clone()).collect();
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut owner = kube::Resource::controller_owner_ref(endpoints, &())?;
    owner.block_owner_deletion = Some(true);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|annotation, _| !UNMIRRORED.contains(&annotation.as_str()));
    (!all.is_empty()).then(|| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.name().into(),
        endpoints: Some(all),
        ports: Some(group.ports.clone()),
    })
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn endpoint_port(port: &k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn endpoints() -> Endpoints {
        yaml(
            "{metadata: {name: db, namespace: ns, uid: e1}, subsets: [{ports: [{port: 5432}],
              addresses: [{ip: 192.0.2.1}, {ip: 'fd00::1'}], notReadyAddresses: [{ip: 192.0.2.2}]}]}",
        )
    }

    #[test]
    fn manual_endpoints_become_slices_by_family() {
        let slices = settle(&endpoints(), &[]);
        let shape: Vec<_> = slices
            .iter()
            .map(|slice| (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap().len()))
            .collect();
        assert_eq!(shape, [("IPv4", 2), ("IPv6", 1)]);
    }

    /// What is there after a look, and that another look finds nothing to do.
    fn settle(endpoints: &Endpoints, present: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
        let run = |present: &[Arc<EndpointSlice>]| plan(Some(endpoints), present.to_vec());
        let mut state = present.to_vec();
        for (drawn, op) in run(present).into_iter().enumerate() {
            op.apply_to(&mut state, present.len() + drawn);
        }
        assert_eq!(run(&state), [], "a second look writes nothing");
        state
    }

    /// Names and what they say, as one line each.
    fn told(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let line = |slice: &Arc<EndpointSlice>| {
            let addresses = slice.endpoints.iter().flatten().flat_map(|one| &one.addresses);
            let addresses: Vec<&str> = addresses.map(String::as_str).collect();
            let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
            let ports: Vec<i32> = ports.collect();
            format!("{} {addresses:?} {ports:?}", slice.metadata.name.as_deref().unwrap_or("?"))
        };
        slices.iter().map(line).collect()
    }

    fn of_subsets(subsets: &str) -> Endpoints {
        yaml(&format!("{{metadata: {{name: db, namespace: ns, uid: e1}}, subsets: {subsets}}}"))
    }

    /// The answer to a create was lost, and the next one came before the slice was heard of.
    #[test]
    fn a_slice_that_was_made_twice_is_kept_once() {
        let endpoints = of_subsets("[{ports: [{port: 1}], addresses: [{ip: 192.0.2.1}]}]");
        let made = settle(&endpoints, &[]);
        let mut again = made[0].as_ref().clone();
        again.metadata.name = Some("db-again".into());
        let kept = settle(&endpoints, &[made[0].clone(), Arc::new(again)]);
        assert_eq!(told(&kept), [r#"db-0 ["192.0.2.1"] [1]"#]);
    }

    #[test]
    fn a_slice_is_changed_rather_than_replaced() {
        let before = settle(
            &of_subsets(
                "[{ports: [{port: 1}], addresses: [{ip: 192.0.2.1}]},
                  {ports: [{port: 2}], addresses: [{ip: 192.0.2.2}]}]",
            ),
            &[],
        );
        // The second keeps its ports; the first serves what is new.
        let after = settle(
            &of_subsets(
                "[{ports: [{port: 3}], addresses: [{ip: 192.0.2.3}]},
                  {ports: [{port: 2}], addresses: [{ip: 192.0.2.4}]}]",
            ),
            &before,
        );
        assert_eq!(told(&after), [r#"db-0 ["192.0.2.3"] [3]"#, r#"db-1 ["192.0.2.4"] [2]"#]);
        assert!(settle(&of_subsets("[]"), &after).is_empty());
    }

    #[test]
    fn subsets_of_the_same_ports_share_a_slice_and_an_address_is_in_it_once() {
        let endpoints = of_subsets(
            "[{ports: [{port: 1}], addresses: [{ip: 192.0.2.1}], notReadyAddresses: [{ip: 192.0.2.2}]},
              {ports: [{port: 1}], addresses: [{ip: 192.0.2.3}, {ip: 192.0.2.1}]}]",
        );
        let slices = settle(&endpoints, &[]);
        assert_eq!(told(&slices), [r#"db-0 ["192.0.2.1", "192.0.2.2", "192.0.2.3"] [1]"#]);
    }

    #[test]
    fn labels_and_annotations_are_mirrored_but_for_those_that_are_not_the_slices() {
        let mut endpoints = endpoints();
        endpoints.metadata.labels = Some(yaml("{team: a}"));
        endpoints.metadata.annotations = Some(yaml(
            "{note: kept, kubectl.kubernetes.io/last-applied-configuration: '{}',
              endpoints.kubernetes.io/last-change-trigger-time: '2026-01-01T00:00:00Z'}",
        ));
        let slices = settle(&endpoints, &[]);
        let meta = &slices[0].metadata;
        assert_eq!(meta.labels.as_ref().unwrap()["team"], "a");
        let annotations: Vec<_> = meta.annotations.iter().flatten().map(|(key, _)| key).collect();
        assert_eq!(annotations, ["note"]);
    }

    #[test]
    fn a_thousand_addresses_of_a_subset_are_mirrored() {
        let addresses: Vec<String> =
            (0..1001).map(|at| format!("{{ip: 10.0.{}.{}}}", at / 250, at % 250 + 1)).collect();
        let endpoints = of_subsets(&format!(
            "[{{ports: [{{port: 1}}], addresses: [{}]}}]",
            addresses.join(", ")
        ));
        assert_eq!(too_many(&endpoints), 1);
        assert_eq!(settle(&endpoints, &[])[0].endpoints.iter().flatten().count(), 1000);
    }

    #[test]
    fn selected_endpoints_and_locks_are_not_mirrored() {
        let by_hand: Service = yaml("{spec: {ports: [{port: 5432}]}}");
        let with = |metadata: &str| -> Endpoints { yaml(&format!("{{metadata: {metadata}}}")) };
        assert!(is_mirrored(&by_hand, &endpoints()));
        assert!(!is_mirrored(&yaml("{spec: {selector: {app: db}}}"), &endpoints()));
        let skipped = format!("{{labels: {{{SKIP_MIRROR}: 'true'}}}}");
        assert!(!is_mirrored(&by_hand, &with(&skipped)));
        let lock = "{annotations: {control-plane.alpha.kubernetes.io/leader: '{}'}}";
        assert!(!is_mirrored(&by_hand, &with(lock)));
    }
}
