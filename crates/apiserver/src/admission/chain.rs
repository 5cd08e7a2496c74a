//! Which plugins run, and in which order.
//!
//! The flags `--enable-admission-plugins` and `--disable-admission-plugins` -> the chain of one server. Counterpart:
//! `pkg/kubeapiserver/options/plugins.go`. The order of [`PLUGINS`] is meaning: mutating plugins see what the ones before them
//! made; policies and webhooks stand near the end, and ResourceQuota counts what is finally stored.

use super::{
    Plugin, always, always_pull_images, certificates, claim_resize, default_class,
    default_toleration_seconds, external_ips, limit_ranger, namespace_lifecycle, namespaces,
    node_restriction, owner_references, placement, pod_resize, pod_security, pod_topology_labels,
    policies, priority, requester, resource_quota, runtime_class, service_account,
    storage_protection, taint_nodes_by_condition, webhooks,
};

type Entry = (&'static dyn Plugin, Use);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    On,
    Off,
    /// A part of the server that upstream keeps elsewhere; no flag names it.
    Always,
}

const PLUGINS: &[Entry] = &[
    (&namespaces::NamespaceAutoProvision, Use::Off),
    (&namespace_lifecycle::NamespaceLifecycle, Use::On),
    (&namespaces::NamespaceExists, Use::Off),
    (&placement::LimitPodHardAntiAffinityTopology, Use::Off),
    (&limit_ranger::LimitRanger, Use::On),
    (&service_account::ServiceAccount, Use::On),
    // Upstream leaves it off, and every installer turns it on.
    (&node_restriction::NodeRestriction, Use::On),
    (&taint_nodes_by_condition::TaintNodesByCondition, Use::On),
    (&always_pull_images::AlwaysPullImages, Use::Off),
    (&pod_security::PodSecurity, Use::On),
    (&placement::PodNodeSelector, Use::Off),
    (&priority::Priority, Use::On),
    (&default_toleration_seconds::DefaultTolerationSeconds, Use::On),
    (&placement::ExtendedResourceToleration, Use::Off),
    (&default_class::DefaultStorageClass, Use::On),
    (&storage_protection::StorageObjectInUseProtection, Use::On),
    (&owner_references::OwnerReferencesPermissionEnforcement, Use::Off),
    (&claim_resize::PersistentVolumeClaimResize, Use::On),
    (&runtime_class::RuntimeClass, Use::On),
    (&requester::CertificateRequester, Use::Always),
    (&certificates::CertificateApproval, Use::On),
    (&certificates::CertificateSigning, Use::On),
    (&certificates::CertificateSubjectRestriction, Use::On),
    (&default_class::DefaultIngressClass, Use::On),
    (&external_ips::DenyServiceExternalIPs, Use::Off),
    (&pod_topology_labels::PodTopologyLabels, Use::On),
    (&pod_resize::NodeDeclaredFeatureValidator, Use::On),
    (&pod_resize::PodResizeValidator, Use::On),
    (&policies::MutatingAdmissionPolicy, Use::On),
    (&webhooks::MutatingAdmissionWebhook, Use::On),
    (&policies::ValidatingAdmissionPolicy, Use::On),
    (&webhooks::ValidatingAdmissionWebhook, Use::On),
    (&resource_quota::ResourceQuota, Use::On),
    (&always::AlwaysDeny, Use::Off),
];

/// Names that upstream knows and that change nothing here: they are about kinds and fields no release serves by default.
const WITHOUT_EFFECT: &[&str] = &[
    "AlwaysAdmit",
    "ClusterTrustBundleAttest",
    "JobValidation",
    "PodGroupProtection",
    "PodGroupWorkloadExists",
];

/// Names that upstream knows and Skiff does not have.
const MISSING: &[&str] = &["EventRateLimit", "ImagePolicyWebhook", "PodTolerationRestriction"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    #[error("admission plugin {0:?} is unknown")]
    Unknown(String),
    #[error("admission plugin {0:?} is not part of skiff")]
    Missing(String),
    #[error("admission plugin {0:?} is both enabled and disabled")]
    Both(String),
}

/// The plugins of a server, in order.
pub fn of(enabled: &[String], disabled: &[String]) -> Result<Vec<&'static dyn Plugin>, ChainError> {
    for name in enabled.iter().chain(disabled) {
        check(name)?;
    }
    if let Some(name) = enabled.iter().find(|name| disabled.contains(name)) {
        return Err(ChainError::Both(name.clone()));
    }
    if let Some(name) = enabled.iter().find(|name| MISSING.contains(&name.as_str())) {
        return Err(ChainError::Missing(name.clone()));
    }
    let named = |list: &[String], plugin: &dyn Plugin| list.iter().any(|n| n == plugin.name());
    let runs = |(plugin, default): &&Entry| match default {
        Use::Always => true,
        Use::On => !named(disabled, *plugin),
        Use::Off => named(enabled, *plugin),
    };
    Ok(PLUGINS.iter().filter(runs).map(|(plugin, _)| *plugin).collect())
}

fn check(name: &str) -> Result<(), ChainError> {
    let listed = |(plugin, default): &Entry| *default != Use::Always && plugin.name() == name;
    let known =
        PLUGINS.iter().any(listed) || WITHOUT_EFFECT.contains(&name) || MISSING.contains(&name);
    if known { Ok(()) } else { Err(ChainError::Unknown(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(enabled: &[&str], disabled: &[&str]) -> Result<Vec<&'static str>, ChainError> {
        let owned =
            |list: &[&str]| -> Vec<String> { list.iter().map(|name| (*name).to_owned()).collect() };
        let chain = of(&owned(enabled), &owned(disabled))?;
        Ok(chain.into_iter().map(Plugin::name).collect())
    }

    #[test]
    fn flags_add_and_take_away_without_changing_the_order() {
        let chain = names(&["AlwaysPullImages"], &["LimitRanger"]).expect("known names");
        let at = |name: &str| chain.iter().position(|own| *own == name);
        assert_eq!(at("LimitRanger"), None);
        assert!(at("AlwaysPullImages").is_some_and(|own| Some(own) < at("PodSecurity")));
        assert!(!names(&[], &[]).expect("defaults").contains(&"AlwaysPullImages"));
    }

    #[test]
    fn names_that_cannot_be_followed_are_errors() {
        let unknown = ChainError::Unknown("Nonsense".to_owned());
        assert_eq!(names(&["Nonsense"], &[]), Err(unknown));
        let missing = ChainError::Missing("EventRateLimit".to_owned());
        assert_eq!(names(&["EventRateLimit"], &[]), Err(missing));
        assert!(names(&["AlwaysAdmit"], &["EventRateLimit"]).is_ok());
        let both = ChainError::Both("Priority".to_owned());
        assert_eq!(names(&["Priority"], &["Priority"]), Err(both));
    }
}
