//! Every controller of the control plane, one file (or directory) each, on one shared runtime.
//!
//! Controllers are ordinary Kubernetes clients: they hold a `kube::Client` and nothing else, so they run unchanged
//! against any API server. Counterpart: kube-controller-manager.
//! Invariant: a controller knows neither the store nor the inside of a node.

mod attach_detach;
mod bootstrap_tokens;
mod certificates;
mod claims;
mod cluster_role_aggregation;
mod conditions;
mod config_map_root_ca;
mod cron_job;
mod daemon_set;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoints;
mod ephemeral_volume;
mod garbage_collector;
mod history;
mod horizontal_pod_autoscaler;
mod host_path_provisioner;
mod job;
mod namespace;
mod node;
mod node_lifecycle;
mod percentages;
mod persistent_volume;
mod pod;
mod pod_control;
mod pod_gc;
mod pod_template;
mod replica_set;
mod resource_claim;
mod resource_quota;
pub mod runtime;
mod scale;
mod service_account;
mod service_account_tokens;
mod service_cidr;
mod stateful_set;
mod storage_protection;
#[cfg(test)]
mod testing;
mod ttl;
mod validating_admission_policy_status;
mod volume_expand;

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;

use runtime::{Clock, ControllerDef, Metrics};

pub use certificates::{CertificateSigner, CertificateTerms};
pub use host_path_provisioner::{
    NAME as HOST_PATH_PROVISIONER_USER, PROVISIONER as HOST_PATH_PROVISIONER,
};
pub use service_account_tokens::TokenIssuer;

/// All per-key controllers. They run side by side: order has no meaning here.
const CONTROLLERS: &[ControllerDef] = &[
    attach_detach::DEF,
    bootstrap_tokens::SIGNER,
    bootstrap_tokens::CLEANER,
    certificates::DEF,
    cluster_role_aggregation::DEF,
    config_map_root_ca::DEF,
    cron_job::DEF,
    daemon_set::DEF,
    deployment::DEF,
    device_taint_eviction::DEF,
    disruption::DEF,
    disruption::STALE,
    endpoints::legacy::DEF,
    endpoints::mirroring::DEF,
    endpoints::slices::DEF,
    ephemeral_volume::DEF,
    horizontal_pod_autoscaler::DEF,
    host_path_provisioner::CLAIMS,
    host_path_provisioner::EXPANSION,
    host_path_provisioner::VOLUMES,
    job::DEF,
    job::ORPHANS,
    job::ttl::DEF,
    namespace::DEF,
    node_lifecycle::DEF,
    node_lifecycle::taint_eviction::DEF,
    persistent_volume::CLAIMS,
    persistent_volume::VOLUMES,
    pod_gc::DEF,
    replica_set::DEF,
    replica_set::REPLICATION_CONTROLLER,
    resource_claim::CLAIMS,
    resource_claim::PODS,
    resource_quota::DEF,
    service_account::DEF,
    service_account_tokens::DEF,
    service_cidr::DEF,
    stateful_set::DEF,
    storage_protection::CLAIMS,
    storage_protection::CLASSES,
    storage_protection::VOLUMES,
    ttl::DEF,
    validating_admission_policy_status::DEF,
    volume_expand::DEF,
];

/// What the wiring decides about the controllers.
#[derive(Clone)]
pub struct ControllersConfig {
    /// The cluster's CA certificate (PEM), published in every namespace.
    pub root_ca: String,
    /// Signs certificates for the cluster's own signers; without it they are left unsigned.
    pub certificate_signer: Option<CertificateSigner>,
    /// Signs the claims of tokens that are kept in Secrets; without it such Secrets stay empty.
    pub token_issuer: Option<TokenIssuer>,
    /// What time it is to them; they wait by it too.
    pub clock: Clock,
    pub metrics: Metrics,
}

impl ControllersConfig {
    pub fn new(root_ca: String) -> ControllersConfig {
        ControllersConfig {
            root_ca,
            certificate_signer: None,
            token_issuer: None,
            clock: Clock::default(),
            metrics: Metrics::default(),
        }
    }
}

/// Every controller there is; one that does several things may come more than once.
pub fn names() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|def| def.name).chain([garbage_collector::NAME])
}

/// The user name a controller acts as; RBAC's default roles are bound to these.
pub fn service_account(controller: &str) -> String {
    match controller {
        // Upstream's acts as the controller manager itself, whose role lets it write Secrets.
        service_account_tokens::NAME => READER.to_owned(),
        _ => format!("system:serviceaccount:kube-system:{controller}"),
    }
}

/// Who events of a controller say they are from, where that is not its own name.
fn event_source(controller: &'static str) -> &'static str {
    const SOURCES: &[(&str, &str)] = &[
        ("daemon-set-controller", "daemonset-controller"),
        ("disruption-controller", "controllermanager"),
        ("endpointslice-controller", "endpoint-slice-controller"),
        ("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller"),
        ("ephemeral-volume-controller", "ephemeral_volume"),
        ("expand-controller", "volume_expand"),
        ("persistent-volume-binder", "persistentvolume-controller"),
        ("resource-claim-controller", "resource_claim"),
        ("service-cidrs-controller", "service-cidr-controller"),
    ];
    SOURCES.iter().find(|(name, _)| *name == controller).map_or(controller, |(_, source)| source)
}

/// The user that the shared reflectors read as.
pub const READER: &str = "system:kube-controller-manager";

/// Runs every controller until `shutdown`. `client_for` gives the client that acts as the named user.
pub async fn run(
    client_for: impl Fn(&str) -> Client,
    config: ControllersConfig,
    shutdown: CancellationToken,
) {
    let reader = client_for(READER);
    let collector = client_for(&service_account(garbage_collector::NAME));
    tokio::join!(
        garbage_collector::run(collector, config.metrics.clone(), shutdown.clone()),
        runtime::run_all(CONTROLLERS, client_for, reader, Arc::new(config), shutdown),
    );
}
