//! Which address families a Service speaks: what it leaves open is decided, what this cluster does not have is refused.
//!
//! Counterpart: `initIPFamilyFields`. Differs from upstream: clusters have one family, IPv4.

use serde_json::{Map, Value, json};
use skiff_api::Status;
use skiff_api::field::{ErrorList, Path};
use skiff_api::kinds::service_addresses;

use super::{NONE, invalid, is_external_name, texts};

const FAMILY: &str = "IPv4";

pub fn settle(service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if is_external_name(service) {
        return Ok(());
    }
    let spec = &service["spec"];
    let free = spec["clusterIP"] == NONE
        && spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty);
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let kept = old.and_then(|old| old["spec"].get("ipFamilyPolicy")).cloned();
        let policy = if free { "RequireDualStack" } else { "SingleStack" };
        service["spec"]["ipFamilyPolicy"] = kept.unwrap_or_else(|| policy.into());
    }
    let mut errors = ErrorList::default();
    service_addresses(service, &mut errors);
    refuse(service, errors)?;
    let mut errors = ErrorList::default();
    several(service, &mut errors);
    families_of_addresses(service, &mut errors);
    refuse(service, errors)?;
    if free {
        without_selector(service);
        return Ok(());
    }
    let mut errors = ErrorList::default();
    unknown(service, &mut errors);
    refuse(service, errors)?;
    if texts(&service["spec"], "ipFamilies").is_empty() {
        service["spec"]["ipFamilies"] = json!([FAMILY]);
    }
    Ok(())
}

fn refuse(service: &Value, errors: ErrorList) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(invalid(service, errors)) }
}

fn policy(service: &Value) -> &str {
    service["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default()
}

fn several(service: &Value, errors: &mut ErrorList) {
    let spec = Path::new("spec");
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        let many = service["spec"][field].as_array().is_some_and(|list| list.len() == 2);
        if policy(service) == "SingleStack" && many {
            let why = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            );
            errors.invalid(&spec.child("ipFamilyPolicy"), policy(service), why);
        }
    }
}

/// Addresses tell the families that are left open.
fn families_of_addresses(service: &mut Value, errors: &mut ErrorList) {
    let addresses = texts(&service["spec"], "clusterIPs");
    let mut families = texts(&service["spec"], "ipFamilies");
    for (index, address) in addresses.iter().enumerate().skip(families.len()) {
        if address == NONE {
            break;
        }
        if address.contains(':') {
            let why = "IPv6 is not configured on this cluster";
            let spec = Path::new("spec");
            errors.invalid(&spec.child("clusterIPs").index(index), json!(addresses), why);
        } else {
            families.push(FAMILY.to_owned());
            service["spec"]["ipFamilies"] = json!(families);
        }
    }
}

/// Whoever keeps its endpoints may have them of any family.
fn without_selector(service: &mut Value) {
    let mut families = texts(&service["spec"], "ipFamilies");
    if families.is_empty() {
        families.push(FAMILY.to_owned());
    }
    if families.len() < 2 && policy(service) != "SingleStack" {
        let other = if families[0] == FAMILY { "IPv6" } else { FAMILY };
        families.push(other.to_owned());
    }
    service["spec"]["ipFamilies"] = json!(families);
}

fn unknown(service: &Value, errors: &mut ErrorList) {
    let spec = Path::new("spec");
    if policy(service) == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid(&spec.child("ipFamilyPolicy"), policy(service), why);
    }
    let families = texts(&service["spec"], "ipFamilies");
    for (index, family) in families.iter().enumerate().filter(|(_, family)| *family != FAMILY) {
        let place = spec.child("ipFamilies");
        errors.invalid(&place.index(index), family.as_str(), "not configured on this cluster");
    }
}
