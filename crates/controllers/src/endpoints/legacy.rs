//! Keeps the legacy Endpoints object of every Service with a selector.
//!
//! Service and pods in -> one Endpoints with subsets by port set. Counterpart: `pkg/controller/endpoint`.
//! Invariant: at most `MAX_ADDRESSES` addresses; a truncated object says so in an annotation.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::trigger::{self, Triggers};
use super::{HEADLESS, ResolvedPort};
use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

pub const DEF: ControllerDef = ControllerDef {
    name: CONTROLLER,
    workers: 5,
    watches: |edges| {
        edges.primary::<Service>();
        edges.primary::<Endpoints>();
        edges.mapped::<Pod>(super::services_of_pod);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

#[derive(Debug, PartialEq)]
enum Op {
    Create(Endpoints),
    Update(Endpoints),
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let present = ctx.lister::<Endpoints>().get(&key);
    let triggers = ctx.memory::<Triggers>();
    let Some(service) = ctx.lister::<Service>().get(&key) else {
        triggers.forget(&key);
        return remove_leftover(&ctx, present).await;
    };
    if super::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
        return Ok(Action::Done);
    }
    let pods = super::selected_pods(&ctx, &service);
    let trigger = triggers.take(&service, &pods);
    let mut op = plan(&service, &pods, present.as_deref());
    if let Some(Op::Create(endpoints) | Op::Update(endpoints)) = &mut op {
        trigger::mark(&mut endpoints.metadata, trigger);
    }
    match op {
        Some(Op::Create(endpoints)) => drop(ctx.create(&endpoints).await?),
        Some(Op::Update(endpoints)) => drop(ctx.update(&endpoints).await?),
        None => {}
    }
    Ok(Action::Done)
}

/// Without its Service, an Endpoints that we made is garbage; one that a user made is the user's.
async fn remove_leftover(ctx: &Ctx, present: Option<Arc<Endpoints>>) -> Result<Action> {
    let ours = |endpoints: &Arc<Endpoints>| {
        endpoints
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(MANAGED_BY))
            .is_some_and(|by| by == CONTROLLER)
    };
    if let Some(endpoints) = present.filter(ours) {
        match ctx.delete(endpoints.as_ref()).await {
            Err(error) if error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(Action::Done)
}

fn plan(service: &Service, pods: &[Arc<Pod>], present: Option<&Endpoints>) -> Option<Op> {
    let (subsets, truncated) = subsets(service, pods);
    let mut wanted = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels(service));
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    match truncated {
        true => drop(annotations.insert(OVER_CAPACITY.into(), "truncated".into())),
        false => drop(annotations.remove(OVER_CAPACITY)),
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    match present {
        None => Some(Op::Create(wanted)),
        Some(present) if *present != wanted => Some(Op::Update(wanted)),
        Some(_) => None,
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if super::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels
}

/// Addresses by port set and readiness, sorted, ready ones first to survive truncation.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let family = super::families(service)[0];
    let publish = super::publishes_not_ready(service);
    let mut entries: Vec<(bool, Vec<ResolvedPort>, EndpointAddress)> = Vec::new();
    for pod in pods.iter().filter(|pod| super::is_endpoint(pod, publish)) {
        let Some(ip) = super::address(pod, family) else { continue };
        let ports = super::resolve_ports(service, pod);
        if ports.is_empty() && !super::is_headless(service) {
            continue;
        }
        entries.push((publish || pod::is_ready(pod), ports, address(service, pod, ip)));
    }
    entries.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.ip.cmp(&b.2.ip)));
    let truncated = entries.len() > MAX_ADDRESSES;
    entries.truncate(MAX_ADDRESSES);
    let mut grouped: BTreeMap<Vec<ResolvedPort>, EndpointSubset> = BTreeMap::new();
    for (ready, ports, address) in entries {
        let listed = (!ports.is_empty()).then(|| ports.iter().map(endpoint_port).collect());
        let subset = grouped
            .entry(ports)
            .or_insert(EndpointSubset { ports: listed, ..EndpointSubset::default() });
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    (grouped.into_values().collect(), truncated)
}

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: super::hostname(service, pod),
        node_name: pod::node_name(pod).map(str::to_owned),
        target_ref: Some(super::target_ref(pod)),
    }
}

fn endpoint_port(port: &ResolvedPort) -> EndpointPort {
    EndpointPort {
        // The legacy API leaves the empty name out.
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn service() -> Service {
        yaml(
            "{metadata: {name: web, namespace: ns}, spec: {selector: {app: web}, ports: [{port: 80}]}}",
        )
    }

    fn pod(number: usize, ready: &str) -> Arc<Pod> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: p{number}, namespace: ns}}, status: {{podIP: 10.0.{}.{},
               conditions: [{{type: Ready, status: '{ready}'}}]}}}}",
            number / 250,
            number % 250 + 1
        )))
    }

    #[test]
    fn ready_and_unready_addresses_are_apart_and_then_nothing_changes() {
        let pods = [pod(1, "True"), pod(2, "False")];
        let Some(Op::Create(endpoints)) = plan(&service(), &pods, None) else {
            panic!("missing endpoints are created")
        };
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.3");
        assert_eq!(plan(&service(), &pods, Some(&endpoints)), None);
    }

    #[test]
    fn too_many_addresses_are_cut_and_said_so() {
        let mut pods: Vec<_> = (0..1000).map(|number| pod(number, "False")).collect();
        pods.push(pod(1200, "True"));
        let Some(Op::Create(endpoints)) = plan(&service(), &pods, None) else {
            panic!("missing endpoints are created")
        };
        assert_eq!(endpoints.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY], "truncated");
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(
            subset.addresses.as_ref().unwrap().len(),
            1,
            "ready addresses are the last to go"
        );
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 999);
    }
}
