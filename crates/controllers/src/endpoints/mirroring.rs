//! Mirrors Endpoints that a user keeps by hand into EndpointSlices, which is all the proxies read.
//!
//! Endpoints of a Service without selector in -> slices per subset and family. Counterpart:
//! `pkg/controller/endpointslicemirroring`. Invariant: only slices that this controller labelled are changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Family, MANAGED_BY, SERVICE_NAME};
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const MAX_PER_SUBSET: usize = 1000;

pub const DEF: ControllerDef = ControllerDef {
    name: "endpointslicemirroring-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<Endpoints>();
        edges.primary::<Service>();
        edges.mapped::<EndpointSlice>(|_, delta| {
            let ours = delta.sides().filter(|slice| is_ours(slice));
            ours.filter_map(|slice| service_key(slice)).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let endpoints = ctx.lister::<Endpoints>().get(&key);
    let service = ctx.lister::<Service>().get(&key);
    let mut present = ctx.lister::<EndpointSlice>().in_namespace(&key.namespace);
    present.retain(|slice| is_ours(slice) && service_key(slice).as_ref() == Some(&key));
    let wanted = wanted(service.as_deref(), endpoints.as_deref());
    for slice in &present {
        if !wanted.iter().any(|wanted| says_the_same(slice, wanted)) {
            match ctx.delete(slice.as_ref()).await {
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
    }
    for slice in
        wanted.iter().filter(|wanted| !present.iter().any(|slice| says_the_same(slice, wanted)))
    {
        ctx.create(slice).await?;
    }
    Ok(Action::Done)
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str)
        == Some(CONTROLLER)
}

fn service_key(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

fn says_the_same(slice: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    slice.address_type == wanted.address_type
        && slice.endpoints == wanted.endpoints
        && slice.ports == wanted.ports
        && slice.metadata.labels == wanted.metadata.labels
}

/// One slice per subset and family.
fn wanted(service: Option<&Service>, endpoints: Option<&Endpoints>) -> Vec<EndpointSlice> {
    let (Some(service), Some(endpoints)) = (service, endpoints) else { return Vec::new() };
    if !is_mirrored(service, endpoints) {
        return Vec::new();
    }
    let subsets = endpoints.subsets.iter().flatten();
    let by_family =
        subsets.flat_map(|subset| [Family::IPv4, Family::IPv6].map(|family| (subset, family)));
    by_family.filter_map(|(subset, family)| slice(endpoints, subset, family)).collect()
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

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, family: Family) -> Option<EndpointSlice> {
    let of = |list: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
        let addresses =
            list.iter().flatten().filter(|address| Family::of(&address.ip) == Some(family));
        addresses.map(|address| endpoint(address, ready)).collect()
    };
    let mut all = of(&subset.addresses, true);
    all.extend(of(&subset.not_ready_addresses, false));
    all.truncate(MAX_PER_SUBSET);
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut owner = kube::Resource::controller_owner_ref(endpoints, &())?;
    owner.block_owner_deletion = Some(true);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    (!all.is_empty()).then(|| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.name().into(),
        endpoints: Some(all),
        ports: Some(subset.ports.iter().flatten().map(endpoint_port).collect()),
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
        let manual: Service = yaml("{spec: {ports: [{port: 5432}]}}");
        let slices = wanted(Some(&manual), Some(&endpoints()));
        let shape: Vec<_> = slices
            .iter()
            .map(|slice| (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap().len()))
            .collect();
        assert_eq!(shape, [("IPv4", 2), ("IPv6", 1)]);
    }

    #[test]
    fn selected_endpoints_are_not_mirrored() {
        assert!(
            wanted(Some(&yaml("{spec: {selector: {app: db}}}")), Some(&endpoints())).is_empty()
        );
        assert!(wanted(None, Some(&endpoints())).is_empty());
    }
}
