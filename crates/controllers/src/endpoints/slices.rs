//! Keeps the EndpointSlices of every Service with a selector.
//!
//! Service, its pods and its slices in -> slices to create, update and delete. Counterpart: `pkg/controller/endpointslice`.
//! Endpoints stay in the slice they are in; new ones fill the fullest slice with room, so a change touches few slices.
//! Invariant: an address is in one slice at a time per port set, and no slice holds more than `MAX_ENDPOINTS`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slice_op::SliceOp;
use super::trigger::{self, Triggers};
use super::{Family, HEADLESS, MANAGED_BY, ResolvedPort, SERVICE_NAME};
use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MAX_ENDPOINTS: usize = 100;

pub const DEF: ControllerDef = ControllerDef {
    name: "endpointslice-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<Service>();
        edges.mapped::<Pod>(super::services_of_pod);
        edges.mapped::<EndpointSlice>(|_, delta| {
            let ours = delta.sides().filter(|slice| is_ours(slice));
            ours.filter_map(|slice| super::service_of_slice(slice)).collect()
        });
        edges.reads::<Node>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let triggers = ctx.memory::<Triggers>();
    let Some(service) = ctx.lister::<Service>().get(&key) else {
        triggers.forget(&key);
        return Ok(Action::Done);
    };
    if super::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
        // Slices of a Service without selector are the user's; those of a deleted one are the garbage collector's.
        return Ok(Action::Done);
    }
    let nodes = ctx.lister::<Node>();
    let zone = |node: &str| {
        let node = nodes.get(&Key::cluster(node))?;
        node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
    };
    let pods = super::selected_pods(&ctx, &service);
    let slices = slices_of(&ctx, &service);
    let trigger = triggers.take(&service, &pods);
    for mut op in plan(&service, &pods, &slices, &zone) {
        if let Some(slice) = op.slice_mut() {
            trigger::mark(&mut slice.metadata, trigger);
        }
        op.carry_out(&ctx).await?;
    }
    Ok(Action::Done)
}

fn slices_of(ctx: &Ctx, service: &Service) -> Vec<Arc<EndpointSlice>> {
    let mut slices = ctx
        .lister::<EndpointSlice>()
        .in_namespace(service.metadata.namespace.as_deref().unwrap_or_default());
    slices.retain(|slice| {
        is_ours(slice) && super::service_of_slice(slice).is_some_and(|key| key == Key::of(service))
    });
    slices
}

fn is_ours(slice: &EndpointSlice) -> bool {
    super::manager(slice) == Some(CONTROLLER)
}

// === decisions ===

/// Slices are grouped by what their endpoints have in common.
type Group = (Family, Vec<ResolvedPort>);

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Vec<SliceOp> {
    let mut wanted = wanted_endpoints(service, pods, zone);
    let mut present: BTreeMap<Group, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let mut ops = Vec::new();
    for slice in slices {
        match group_of(slice).filter(|group| wanted.contains_key(group)) {
            Some(group) => present.entry(group).or_default().push(slice.clone()),
            None => ops.push(SliceOp::Delete(slice.clone())),
        }
    }
    for (group, endpoints) in std::mem::take(&mut wanted) {
        let slices = present.remove(&group).unwrap_or_default();
        ops.extend(plan_group(service, &group, endpoints, slices));
    }
    ops
}

/// Endpoints by group and address. Without any pod, each family still has one empty slice, which says so.
fn wanted_endpoints(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<Group, BTreeMap<String, Endpoint>> {
    let mut wanted: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for family in super::families(service) {
        for pod in pods.iter().filter(|pod| super::is_endpoint(pod, true)) {
            let Some(address) = super::address(pod, family) else { continue };
            let group = (family, super::resolve_ports(service, pod));
            wanted
                .entry(group)
                .or_default()
                .insert(address.clone(), endpoint(service, pod, address, zone));
        }
        if !wanted.keys().any(|(known, _)| *known == family) {
            wanted.insert((family, Vec::new()), BTreeMap::new());
        }
    }
    wanted
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let serving = pod::is_ready(pod);
    let terminating = pod::is_terminating(pod);
    let ready = super::publishes_not_ready(service) || (serving && !terminating);
    let node = pod::node_name(pod);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: super::hostname(service, pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(super::target_ref(pod)),
        zone: node.and_then(zone),
        ..Endpoint::default()
    }
}

fn group_of(slice: &EndpointSlice) -> Option<Group> {
    let family = [Family::IPv4, Family::IPv6]
        .into_iter()
        .find(|family| family.name() == slice.address_type)?;
    let ports = slice.ports.iter().flatten().map(|port| ResolvedPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: port.port.unwrap_or(0),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        app_protocol: port.app_protocol.clone(),
    });
    Some((family, ports.collect()))
}

/// Keeps endpoints where they are, drops what is gone, fills up with what is new.
fn plan_group(
    service: &Service,
    group: &Group,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
) -> Vec<SliceOp> {
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let addresses =
            slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.addresses.first());
        let endpoints = addresses.filter_map(|address| wanted.remove(address)).collect();
        kept.push((slice, endpoints));
    }
    // The fullest slice with room first: few slices change, and sparse ones run empty.
    kept.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
    let mut left: Vec<Endpoint> = wanted.into_values().collect();
    for (_, endpoints) in &mut kept {
        let room = MAX_ENDPOINTS.saturating_sub(endpoints.len()).min(left.len());
        endpoints.extend(left.drain(..room));
    }
    let nothing_yet = kept.is_empty() && left.is_empty();
    let total: usize = kept.iter().map(|(_, endpoints)| endpoints.len()).sum();
    let mut ops = Vec::new();
    for (at, (slice, endpoints)) in kept.into_iter().enumerate() {
        // An empty slice goes, unless it is the last one and stands for "no endpoints".
        let needed = !endpoints.is_empty() || (total == 0 && at == 0);
        ops.extend(if needed {
            update(service, &slice, endpoints)
        } else {
            Some(SliceOp::Delete(slice))
        });
    }
    if nothing_yet {
        ops.push(SliceOp::Create(Box::new(new_slice(service, group, Vec::new()))));
    }
    while !left.is_empty() {
        let chunk = left.drain(..left.len().min(MAX_ENDPOINTS)).collect();
        ops.push(SliceOp::Create(Box::new(new_slice(service, group, chunk))));
    }
    ops
}

fn update(
    service: &Service,
    slice: &Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
) -> Option<SliceOp> {
    let mut updated = slice.as_ref().clone();
    let unchanged = updated.endpoints.as_deref().unwrap_or_default() == endpoints;
    if !unchanged {
        updated.endpoints = Some(endpoints);
    }
    updated.metadata.labels = Some(labels(service));
    (updated != **slice).then(|| SliceOp::Update(Box::new(updated)))
}

fn new_slice(
    service: &Service,
    (family, ports): &Group,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: super::owner(service).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.name().into(),
        endpoints: Some(endpoints),
        ports: Some(ports.iter().map(endpoint_port).collect()),
    }
}

fn endpoint_port(port: &ResolvedPort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone(),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

/// The Service's own labels, and ours over them.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if super::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn service(more: &str) -> Service {
        yaml(&format!(
            "{{metadata: {{name: web, namespace: ns, uid: s1, labels: {{team: a}}}},
               spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}], {more}}}}}"
        ))
    }

    fn pod(number: usize, more: &str) -> Arc<Pod> {
        let ip = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        let mut pod: Pod = yaml(&format!(
            "{{metadata: {{name: p{number}, namespace: ns, uid: u{number}, labels: {{app: web}}}},
               spec: {{nodeName: n1, containers: []}},
               status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}}}"
        ));
        k8s_openapi::DeepMerge::merge_from(&mut pod, yaml(more));
        Arc::new(pod)
    }

    fn run(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<SliceOp> {
        plan(service, pods, slices, &|_| None)
    }

    /// The state after the operations, as the API server would keep it.
    fn settle(
        service: &Service,
        pods: &[Arc<Pod>],
        slices: &[Arc<EndpointSlice>],
    ) -> Vec<Arc<EndpointSlice>> {
        let mut state: Vec<Arc<EndpointSlice>> = slices.to_vec();
        for (drawn, op) in run(service, pods, slices).into_iter().enumerate() {
            op.apply_to(&mut state, slices.len() + drawn);
        }
        assert_eq!(run(service, pods, &state), [], "a second look writes nothing");
        state
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect()
    }

    #[test]
    fn slices_fill_up_to_a_hundred_and_shrink_again() {
        let service = service("clusterIP: 10.96.0.1");
        let pods: Vec<_> = (0..250).map(|number| pod(number, "{}")).collect();
        let full = settle(&service, &pods, &[]);
        assert_eq!(sizes(&full), [100, 100, 50]);
        let fewer = settle(&service, &pods[..120], &full);
        assert_eq!(sizes(&fewer).iter().sum::<usize>(), 120);
        let none = settle(&service, &[], &fewer);
        assert_eq!(sizes(&none), [0]);
    }

    #[test]
    fn conditions_follow_the_pod() {
        let check = |service: &Service, more: &str| {
            let slices = settle(service, &[pod(1, more)], &[]);
            let conditions = slices[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
            (
                conditions.ready.unwrap(),
                conditions.serving.unwrap(),
                conditions.terminating.unwrap(),
            )
        };
        let plain = service("clusterIP: 10.96.0.1");
        assert_eq!(check(&plain, "{}"), (true, true, false));
        assert_eq!(
            check(&plain, "{status: {conditions: [{type: Ready, status: 'False'}]}}"),
            (false, false, false)
        );
        assert_eq!(
            check(&plain, "{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}}"),
            (false, true, true)
        );
        let eager = service("publishNotReadyAddresses: true");
        assert_eq!(
            check(&eager, "{status: {conditions: [{type: Ready, status: 'False'}]}}"),
            (true, false, false)
        );
    }

    #[test]
    fn finished_pods_and_pods_without_address_are_left_out() {
        let pods = [
            pod(1, "{status: {phase: Succeeded}}"),
            Arc::new(yaml("{metadata: {name: x, labels: {app: web}}}")),
        ];
        assert_eq!(sizes(&settle(&service("clusterIP: 10.96.0.1"), &pods, &[])), [0]);
    }

    #[test]
    fn headless_services_carry_hostnames_and_the_label() {
        let slices = settle(
            &service("clusterIP: None"),
            &[pod(1, "{spec: {hostname: p-1, subdomain: web, containers: []}}")],
            &[],
        );
        assert!(slices[0].metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
        assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].hostname.as_deref(), Some("p-1"));
        assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["team"], "a");
    }

    #[test]
    fn a_change_of_ports_replaces_the_slice() {
        let before = settle(&service("clusterIP: 10.96.0.1"), &[pod(1, "{}")], &[]);
        let mut changed = service("clusterIP: 10.96.0.1");
        changed.spec.as_mut().unwrap().ports = Some(yaml("[{port: 80, targetPort: 9090}]"));
        let after = settle(&changed, &[pod(1, "{}")], &before);
        assert_eq!(after.len(), 1);
        assert_eq!(after[0].ports.as_ref().unwrap()[0].port, Some(9090));
    }
}
