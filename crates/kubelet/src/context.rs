//! What every part of the node agent shares: who we are, whom we talk to, what is cached.
//!
//! Invariant: handed around as one `Arc`; holds no state of any single pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::{Client, runtime::reflector::Store};
use skiff_runtime::Runtime;

use crate::{
    allocation::Allocations,
    config::KubeletConfig,
    csi::Drivers,
    device_plugin::DeviceManager,
    dra::ClaimManager,
    events::EventRecorder,
    eviction::{Conditions, Evicted},
    image::{credential_provider::CredentialProviders, garbage::ImageCollector, pull::PullSlots},
    node::machine::Machine,
    objects::ReferencedObjects,
    pod::ending::Endings,
    shutdown::Going,
    user_namespaces::UserNamespaces,
    volume::token::TokenSource,
};

pub struct NodeContext {
    pub config: KubeletConfig,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub recorder: EventRecorder,
    /// ConfigMaps and Secrets that pods here refer to.
    pub objects: ReferencedObjects,
    /// For the service environment variables.
    pub services: Store<Service>,
    pub tokens: TokenSource,
    pub machine: Machine,
    pub pull_slots: PullSlots,
    pub credential_providers: CredentialProviders,
    pub csi: Drivers,
    pub devices: DeviceManager,
    /// Of dynamic resource allocation.
    pub claims: ClaimManager,
    pub allocations: Allocations,
    pub images: ImageCollector,
    /// What the node is short of.
    pub conditions: Conditions,
    pub evicted: Evicted,
    pub users: UserNamespaces,
    pub endings: Endings,
    pub going: Going,
}
