//! Amounts by resource name, and what a pod as a whole needs.
//!
//! Counterpart: `resourcehelper.PodRequests`. Amounts that cannot be read are left out: validation has refused them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::quantity::Quantity;

pub type Amounts = BTreeMap<String, Quantity>;

pub fn amounts(list: &Value) -> Amounts {
    let parse = |(resource, amount): (&String, &Value)| {
        Some((resource.clone(), amount.as_str()?.parse().ok()?))
    };
    list.as_object().into_iter().flatten().filter_map(parse).collect()
}

/// What a pod needs at most at once: its containers and sidecars together, or one init container beside
/// the sidecars that run by then.
pub fn pod_total(pod: &Value, field: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][field]);
    let list = |name: &str| pod["spec"][name].as_array().cloned().unwrap_or_default();
    let (mut running, mut peak) = (Amounts::new(), Amounts::new());
    for container in list("initContainers") {
        let own = of(&container);
        let mut then = running.clone();
        add(&mut then, &own);
        raise(&mut peak, &then);
        if container["restartPolicy"] == "Always" {
            running = then;
        }
    }
    list("containers").iter().for_each(|container| add(&mut running, &of(container)));
    raise(&mut running, &peak);
    // What a pod as a whole is given goes before the sum of its containers.
    running.extend(amounts(&pod["spec"]["resources"][field]));
    add(&mut running, &amounts(&pod["spec"]["overhead"]));
    running
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (resource, amount) in more {
        let sum = total.get(resource).map_or(*amount, |have| *have + *amount);
        total.insert(resource.clone(), sum);
    }
}

fn raise(total: &mut Amounts, to: &Amounts) {
    let names: BTreeSet<&String> = to.keys().collect();
    for resource in names {
        if total.get(resource).is_none_or(|have| *have < to[resource]) {
            total.insert(resource.clone(), to[resource]);
        }
    }
}
