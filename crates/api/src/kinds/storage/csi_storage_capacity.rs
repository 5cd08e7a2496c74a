//! CSIStorageCapacity: how much of a class a driver still has in one part of the cluster.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::resources::validate_not_negative;
use crate::kinds::selectors::validate_label_selector;
use crate::validation::dns_subdomain;

pub struct CSIStorageCapacity;

impl Strategy for CSIStorageCapacity {
    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_label_selector(&root.child("nodeTopology"), errors);
        let class = root.child("storageClassName");
        for fault in dns_subdomain(class.text()) {
            class.invalid_as(errors, class.text(), fault);
        }
        validate_not_negative(&root.child("capacity"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        for field in ["nodeTopology", "storageClassName"] {
            root.child(field).unchanged(errors, &old.child(field));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check_update;

    #[test]
    fn a_changed_topology_may_be_no_selector_either() {
        check_update(
            "storage.k8s.io/v1/csistoragecapacities",
            "storageClassName: s",
            "storageClassName: s\nnodeTopology: {matchLabels: {/x: z}}",
            &[
                "nodeTopology.matchLabels: Invalid value: \"/x\": prefix part must be non-empty",
                "nodeTopology: Invalid value: {\"matchLabels\":{\"/x\":\"z\"}}: field is immutable",
            ],
        );
    }
}
