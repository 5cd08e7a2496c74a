//! Who may bind a ResourceClaim, and who may report on its devices: more is asked for than its status.
//!
//! Changes of a claim's status -> the faults of a user who lacks `resourceclaims/binding` in the whole cluster (for the allocation and
//! who uses it) or `resourceclaims/driver` by the driver's name (for its devices). Counterpart: `AuthorizedForBinding` and
//! `AuthorizedForDeviceStatus`. Invariant: what does not change needs no right.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_api::field::{ErrorList, Path};
use skiff_api::{KindDef, Status};

use super::{Attributes, require};
use crate::call::Call;
use crate::user::{NODE_NAME_EXTRA, UserInfo, split_service_account};

const ON_THE_NODE: &str = "associated-node:";
const ON_ANY_NODE: &str = "arbitrary-node:";

/// Whether writes of this part of a kind are asked about.
pub fn guards(kind: &KindDef, subresource: &str) -> bool {
    subresource == "status" && kind.resource == "resourceclaims" && kind.group == "resource.k8s.io"
}

pub async fn faults(call: &Call, claim: &Value, old: &Value) -> Result<ErrorList, Status> {
    let mut errors = ErrorList::default();
    let [new, old] = [claim, old].map(|claim| &claim["status"]);
    if ["allocation", "reservedFor"].iter().any(|field| given(new, field) != given(old, field)) {
        may_bind(call, &mut errors).await?;
    }
    if new["allocation"].is_object() {
        may_report(call, new, old, &mut errors).await?;
    }
    Ok(errors)
}

/// A field's value, or null where it is empty.
fn given<'v>(status: &'v Value, field: &str) -> &'v Value {
    match &status[field] {
        Value::Array(list) if list.is_empty() => &Value::Null,
        value => value,
    }
}

async fn may_bind(call: &Call, errors: &mut ErrorList) -> Result<(), Status> {
    let verb = call.info.verb.as_str();
    if let Some(refusal) = refusal(call, verb, "binding", "", "").await? {
        let detail = format!(
            r#"changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="{verb}" permission: {refusal}"#
        );
        errors.forbidden(&Path::new("status").child("allocation"), detail);
    }
    Ok(())
}

/// One of the verbs is enough for a driver.
async fn may_report(
    call: &Call,
    new: &Value,
    old: &Value,
    errors: &mut ErrorList,
) -> Result<(), Status> {
    let drivers = changed_drivers(new, old);
    if drivers.is_empty() {
        return Ok(());
    }
    let verbs = verbs(&call.user, &new["allocation"], &call.info.verb);
    for driver in drivers {
        let mut refusals = Vec::new();
        for verb in &verbs {
            refusals.push(refusal(call, verb, "driver", &call.info.namespace, driver).await?);
        }
        if refusals.iter().all(Option::is_some)
            && let Some(Some(first)) = refusals.first()
        {
            let detail = format!(
                r#"changing status.devices requires resource="resourceclaims/driver", verb="[{}]" permission: {first}"#,
                verbs.join(" ")
            );
            errors.forbidden(&Path::new("status").child("devices"), detail);
        }
    }
    Ok(())
}

/// Why the user may not, if so.
async fn refusal(
    call: &Call,
    verb: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, Status> {
    let attributes = Attributes {
        verb: verb.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::of(&call.info, &call.query)
    };
    match require(&call.server, &call.user, &attributes).await {
        Ok(_) => Ok(None),
        Err(refused) if refused.code == 403 => Ok(Some(refused.message)),
        Err(failed) => Err(failed),
    }
}

/// The drivers of the devices about which something else is said than before.
fn changed_drivers<'v>(new: &'v Value, old: &'v Value) -> BTreeSet<&'v str> {
    let [new, old] =
        [new, old].map(|status| status["devices"].as_array().map_or(&[][..], Vec::as_slice));
    let id = |device: &Value| {
        ["driver", "pool", "device", "shareID"]
            .map(|field| device[field].as_str().unwrap_or("").to_owned())
    };
    let has =
        |list: &[Value], one: &Value| list.iter().any(|other| id(other) == id(one) && other == one);
    let told = new.iter().filter(|device| !has(old, device));
    let gone = old.iter().filter(|device| !new.iter().any(|other| id(other) == id(device)));
    told.chain(gone).map(|device| device["driver"].as_str().unwrap_or("")).collect()
}

/// A service account on the node of the devices needs less than one anywhere.
fn verbs(user: &UserInfo, allocation: &Value, verb: &str) -> Vec<String> {
    let node = node_of(allocation).filter(|node| is_account_on(user, node));
    let prefixes = [node.map(|_| ON_THE_NODE), Some(ON_ANY_NODE)];
    prefixes.into_iter().flatten().map(|prefix| format!("{prefix}{verb}")).collect()
}

fn is_account_on(user: &UserInfo, node: &str) -> bool {
    let on = user.extra.get(NODE_NAME_EXTRA).map_or(&[][..], Vec::as_slice);
    split_service_account(&user.name).is_some() && matches!(on, [one] if one == node)
}

/// The one node that an allocation selects by name.
fn node_of(allocation: &Value) -> Option<&str> {
    let [term] = allocation["nodeSelector"]["nodeSelectorTerms"].as_array()?.as_slice() else {
        return None;
    };
    let by_label = term["matchExpressions"].as_array().is_some_and(|list| !list.is_empty());
    let [field] = term["matchFields"].as_array()?.as_slice() else { return None };
    let [node] = field["values"].as_array()?.as_slice() else { return None };
    let by_name = field["key"] == "metadata.name" && field["operator"] == "In";
    node.as_str().filter(|_| by_name && !by_label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_drivers_of_which_something_new_is_said_are_asked_about() {
        let device = |driver: &str, ready: bool| json!({"driver": driver, "pool": "p", "device": "d", "data": ready});
        let old = json!({"devices": [device("a", true), device("b", true), device("c", true)]});
        let new = json!({"devices": [device("a", true), device("b", false), device("d", true)]});
        assert_eq!(changed_drivers(&new, &old), BTreeSet::from(["b", "c", "d"]));
        assert!(changed_drivers(&old, &old).is_empty());
    }

    #[test]
    fn an_account_on_the_node_of_the_devices_has_a_verb_of_its_own() {
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        let allocation = json!({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}});
        let mut user = UserInfo::new("system:serviceaccount:ns:driver", &[]);
        assert_eq!(verbs(&user, &allocation, "update"), ["arbitrary-node:update"]);
        user.extra.insert(NODE_NAME_EXTRA.to_owned(), vec!["n1".to_owned()]);
        let both = ["associated-node:update", "arbitrary-node:update"];
        assert_eq!(verbs(&user, &allocation, "update"), both);
        assert_eq!(verbs(&user, &json!({}), "update"), ["arbitrary-node:update"]);
    }
}
