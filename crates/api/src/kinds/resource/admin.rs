//! Access to devices that are in use, for administrators: only in namespaces marked for it.
//!
//! Counterpart: `AuthorizedForAdmin` and `AuthorizedForAdminStatus`.

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kinds::fill::{flag, list};

/// The label of such namespaces, `true` in them.
pub const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The first request that asks for it.
pub fn faults_of_requests(spec: &Value) -> ErrorList {
    let requests = list(spec, "/devices/requests");
    let asking = requests.iter().position(|request| flag(request, "/exactly/adminAccess"));
    let spec = Path::new("spec");
    fault(&spec.child("devices"), "requests", asking)
}

/// The first device that is given with it, if none was before.
pub fn faults_of_results(claim: &Value, old: &Value) -> ErrorList {
    let given = |claim: &Value| {
        let results = list(claim, "/status/allocation/devices/results");
        results.iter().position(|result| flag(result, "/adminAccess"))
    };
    let (status, asking) = (Path::new("status"), given(claim).filter(|_| given(old).is_none()));
    let allocation = status.child("allocation");
    fault(&allocation.child("devices"), "results", asking)
}

fn fault(devices: &Path<'_>, list: &str, at: Option<usize>) -> ErrorList {
    let mut errors = ErrorList::default();
    if let Some(at) = at {
        let detail = format!(
            "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
        );
        let list = devices.child(list);
        errors.forbidden(&list.index(at).child("adminAccess"), detail);
    }
    errors
}
