//! Which kinds upstream's schemes know, for refusing a body of a kind that the path does not take.
//!
//! Group, version and kind -> whether that is a kind at all, in the scheme of the server part that
//! answers. Counterpart: `runtime.Scheme` and its registrations, of which there are three.

use crate::schema::type_of_kind;

/// A registry of types, named in errors by where upstream makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Legacy,
    ApiExtensions,
    Aggregator,
}

/// Kinds without a version of their own: known in every one.
const UNVERSIONED: &[&str] =
    &["Status", "APIVersions", "APIGroup", "APIGroupList", "APIResourceList"];

/// Known in every version of every group.
const EVERYWHERE: &[&str] = &[
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "UpdateOptions",
    "WatchEvent",
];

/// Kinds that are still known and no longer, or never, served.
const UNSERVED: &[(&str, &[&str])] = &[
    ("admission.k8s.io/v1", &["AdmissionReview"]),
    ("admission.k8s.io/v1beta1", &["AdmissionReview"]),
    (
        "admissionregistration.k8s.io/v1alpha1",
        &["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"],
    ),
    (
        "admissionregistration.k8s.io/v1beta1",
        &[
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ],
    ),
    ("apiextensions.k8s.io/v1", &["ConversionReview"]),
    ("apiextensions.k8s.io/v1beta1", &["ConversionReview", "CustomResourceDefinition"]),
    ("apiregistration.k8s.io/v1beta1", &["APIService"]),
    (
        "apps/v1beta1",
        &["ControllerRevision", "Deployment", "DeploymentRollback", "Scale", "StatefulSet"],
    ),
    (
        "apps/v1beta2",
        &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "Scale", "StatefulSet"],
    ),
    ("authentication.k8s.io/v1alpha1", &["SelfSubjectReview"]),
    ("authentication.k8s.io/v1beta1", &["SelfSubjectReview", "TokenReview"]),
    (
        "authorization.k8s.io/v1beta1",
        &[
            "LocalSubjectAccessReview",
            "SelfSubjectAccessReview",
            "SelfSubjectRulesReview",
            "SubjectAccessReview",
        ],
    ),
    ("batch/v1beta1", &["CronJob"]),
    ("certificates.k8s.io/v1beta1", &["CertificateSigningRequest"]),
    ("coordination.k8s.io/v1beta1", &["Lease"]),
    ("discovery.k8s.io/v1beta1", &["EndpointSlice"]),
    ("events.k8s.io/v1beta1", &["Event"]),
    (
        "extensions/v1beta1",
        &[
            "DaemonSet",
            "Deployment",
            "DeploymentRollback",
            "Ingress",
            "NetworkPolicy",
            "ReplicaSet",
            "Scale",
        ],
    ),
    ("flowcontrol.apiserver.k8s.io/v1beta1", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("flowcontrol.apiserver.k8s.io/v1beta2", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("flowcontrol.apiserver.k8s.io/v1beta3", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("imagepolicy.k8s.io/v1alpha1", &["ImageReview"]),
    ("networking.k8s.io/v1beta1", &["Ingress", "IngressClass"]),
    ("node.k8s.io/v1alpha1", &["RuntimeClass"]),
    ("node.k8s.io/v1beta1", &["RuntimeClass"]),
    ("policy/v1beta1", &["Eviction", "PodDisruptionBudget"]),
    (
        "rbac.authorization.k8s.io/v1alpha1",
        &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    ),
    (
        "rbac.authorization.k8s.io/v1beta1",
        &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    ),
    ("scheduling.k8s.io/v1beta1", &["PriorityClass"]),
    (
        "storage.k8s.io/v1alpha1",
        &["CSIStorageCapacity", "VolumeAttachment", "VolumeAttributesClass"],
    ),
    (
        "storage.k8s.io/v1beta1",
        &["CSIDriver", "CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment"],
    ),
    (
        "v1",
        &[
            "List",
            "NodeProxyOptions",
            "PodAttachOptions",
            "PodExecOptions",
            "PodLogOptions",
            "PodPortForwardOptions",
            "PodProxyOptions",
            "PodStatusResult",
            "RangeAllocation",
            "SerializedReference",
            "ServiceProxyOptions",
        ],
    ),
];

// === impl Scheme ===

impl Scheme {
    /// The scheme that holds the kinds of a group.
    pub fn of_group(group: &str) -> Scheme {
        match group {
            "apiextensions.k8s.io" => Scheme::ApiExtensions,
            "apiregistration.k8s.io" => Scheme::Aggregator,
            _ => Scheme::Legacy,
        }
    }

    pub fn knows(self, api_version: &str, kind: &str) -> bool {
        if UNVERSIONED.contains(&kind) {
            return true;
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let object = kind.strip_suffix("List").unwrap_or(kind);
        let unserved = || {
            let of_version = UNSERVED.iter().find(|(version, _)| *version == api_version);
            of_version.is_some_and(|(_, kinds)| kinds.contains(&kind) || kinds.contains(&object))
        };
        let served = |kind| type_of_kind(group, version, kind).is_some();
        match EVERYWHERE.contains(&kind) {
            // The core version is the one that every scheme has for these.
            true => self == Scheme::of_group(group) || api_version == "v1",
            false => {
                self == Scheme::of_group(group) && (served(kind) || served(object) || unserved())
            }
        }
    }

    /// The refusal of a kind that this scheme does not know.
    pub fn not_registered(self, api_version: &str, kind: &str) -> String {
        let place = match self {
            Scheme::Legacy => "pkg/api/legacyscheme/scheme.go:30",
            Scheme::ApiExtensions => "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:55",
            Scheme::Aggregator => "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:28",
        };
        format!("no kind {kind:?} is registered for version {api_version:?} in scheme {place:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_to_the_scheme_of_its_group_alone() {
        for (scheme, version, kind, known) in [
            (Scheme::Legacy, "apps/v1", "Deployment", true),
            (Scheme::Legacy, "apps/v1", "DeploymentList", true),
            (Scheme::Legacy, "apps/v1beta1", "Deployment", true),
            (Scheme::Legacy, "apps/v1beta1", "DaemonSet", false),
            (Scheme::Legacy, "v1", "List", true),
            (Scheme::Legacy, "apps/v1", "Pod", false),
            (Scheme::Aggregator, "v1", "Pod", false),
            (Scheme::Aggregator, "v1", "DeleteOptions", true),
            (Scheme::ApiExtensions, "none/v7", "Status", true),
            (Scheme::ApiExtensions, "apiextensions.k8s.io/v1", "ConversionReview", true),
            (Scheme::Legacy, "apiextensions.k8s.io/v1", "CustomResourceDefinition", false),
        ] {
            assert_eq!(scheme.knows(version, kind), known, "{scheme:?} {version} {kind}");
        }
    }
}
