//! Amounts of compute resources as integers: quantities in, milli-CPU, bytes and units out.
//!
//! Counterpart: `framework.Resource` and `component-helpers/resource.PodRequests`.
//! Invariant: a quantity is parsed once, when its object is seen; a scheduling cycle only adds and compares integers.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

type Quantities = BTreeMap<String, Quantity>;

const NANO: i128 = 1_000_000_000;

/// What a container that asks for no CPU or memory counts as when nodes are compared (never when they are filtered).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Only of a node: how many pods it takes.
    pub pods: i64,
    /// Everything else (huge pages, devices), sorted by name. Most pods have none.
    pub scalars: Vec<(Arc<str>, i64)>,
}

// === impl Resources ===

impl Resources {
    pub fn of(quantities: &Quantities) -> Resources {
        let mut resources = Resources::default();
        for (name, quantity) in quantities {
            let nanos = nanos(&quantity.0).unwrap_or(0);
            match name.as_str() {
                "cpu" => resources.milli_cpu = rounded_up(nanos, NANO / 1000),
                "memory" => resources.memory = rounded_up(nanos, NANO),
                "ephemeral-storage" => resources.ephemeral_storage = rounded_up(nanos, NANO),
                "pods" => resources.pods = rounded_up(nanos, NANO),
                _ => resources.scalars.push((name.as_str().into(), rounded_up(nanos, NANO))),
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub fn sub(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    /// The larger of both, resource by resource.
    pub fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    /// Of any resource, by its name in the API.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            name => self.scalar(name),
        }
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalars {
            match self.scalars.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(at) => self.scalars[at].1 = with(self.scalars[at].1, *amount),
                Err(at) => self.scalars.insert(at, (name.clone(), with(0, *amount))),
            }
        }
    }
}

/// What a pod asks for: once as declared, once with the defaults that scoring assumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRequests {
    pub declared: Resources,
    pub assumed_milli_cpu: i64,
    pub assumed_memory: i64,
}

// === impl PodRequests ===

impl PodRequests {
    /// The status matters while a pod is resized in place: until the node has shrunk it, it holds what it had.
    pub fn of(spec: &PodSpec, status: &PodStatus) -> PodRequests {
        let declared = pod_total(spec, |container| requests(container, status));
        let assumed = pod_total(spec, |container| {
            let mut resources = requests(container, status);
            let asked = asked(container.resources.as_ref());
            let names = |name| asked.is_some_and(|asked| asked.contains_key(name));
            if !names("cpu") {
                resources.milli_cpu = DEFAULT_MILLI_CPU;
            }
            if !names("memory") {
                resources.memory = DEFAULT_MEMORY;
            }
            resources
        });
        PodRequests {
            declared,
            assumed_milli_cpu: assumed.milli_cpu,
            assumed_memory: assumed.memory,
        }
    }
}

fn asked(resources: Option<&ResourceRequirements>) -> Option<&Quantities> {
    resources.and_then(|resources| resources.requests.as_ref())
}

fn requests(container: &Container, status: &PodStatus) -> Resources {
    let mut resources = asked(container.resources.as_ref()).map(Resources::of).unwrap_or_default();
    // A size that the node will never grant takes nothing.
    if resize_is_infeasible(status) {
        resources = Resources::default();
    }
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses);
    if let Some(running) = statuses.flatten().find(|running| running.name == container.name) {
        let held = [asked(running.resources.as_ref()), running.allocated_resources.as_ref()];
        held.into_iter().flatten().for_each(|held| resources.raise_to(&Resources::of(held)));
    }
    resources
}

fn resize_is_infeasible(status: &PodStatus) -> bool {
    let pending =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodResizePending");
    pending.is_some_and(|condition| condition.reason.as_deref() == Some("Infeasible"))
}

/// Containers run together with the sidecars; an init container runs alone, beside the sidecars started before it.
/// The pod needs the larger of both, what it declares for itself as a whole comes first, and overhead is on top.
fn pod_total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut alone = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&alone);
            alone = Resources::default();
        }
        alone.add(&sidecars);
        starting.raise_to(&alone);
    }
    let mut total = sidecars;
    spec.containers.iter().for_each(|container| total.add(&of(container)));
    total.raise_to(&starting);
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        declare_whole(&mut total, whole);
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::of(overhead));
    }
    total
}

/// Pod-level requests replace the sum over containers for the resources they name.
fn declare_whole(total: &mut Resources, whole: &Quantities) {
    let declared = Resources::of(whole);
    if whole.contains_key("cpu") {
        total.milli_cpu = declared.milli_cpu;
    }
    if whole.contains_key("memory") {
        total.memory = declared.memory;
    }
    for (name, amount) in declared.scalars.iter().filter(|(name, _)| name.starts_with("hugepages-"))
    {
        match total.scalars.binary_search_by(|(known, _)| known.cmp(name)) {
            Ok(at) => total.scalars[at].1 = *amount,
            Err(at) => total.scalars.insert(at, (name.clone(), *amount)),
        }
    }
}

/// A quantity as a number of bytes or units, rounded up; `None` if it is not a quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    nanos(&quantity.0).map(|nanos| rounded_up(nanos, NANO))
}

/// Thousandths, rounded up: CPU is counted in these.
pub fn milli_value(quantity: &Quantity) -> Option<i64> {
    nanos(&quantity.0).map(|nanos| rounded_up(nanos, NANO / 1000))
}

fn rounded_up(nanos: i128, unit: i128) -> i64 {
    let whole = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) > 0);
    whole.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// `1.5Gi`, `250m`, `1e3`: the number in billionths, which every legal quantity is a whole count of.
fn nanos(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = multiplier(suffix)?;
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || digits.contains(['+', '-']) {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(9)];
    let parse = |digits: &str| match digits {
        "" => Some(0),
        digits => digits.parse::<i128>().ok(),
    };
    let scaled = parse(whole)?.checked_mul(NANO)?.checked_add(
        parse(fraction)?.checked_mul(10_i128.pow(9 - u32::try_from(fraction.len()).ok()?))?,
    )?;
    let value = scaled.checked_mul(numerator)? / denominator;
    Some(if negative { -value } else { value })
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |exponent: i32| match u32::try_from(exponent) {
        Ok(exponent) => Some((10_i128.checked_pow(exponent)?, 1)),
        Err(_) => Some((1, 10_i128.checked_pow(exponent.unsigned_abs())?)),
    };
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::yaml;

    #[test]
    fn quantities_are_read_in_every_notation() {
        for (text, milli) in [
            ("1", 1000),
            ("250m", 250),
            ("0.1", 100),
            ("1.5", 1500),
            ("1e3", 1_000_000),
            ("1Ki", 1_024_000),
            ("1u", 1),
            ("-2", -2000),
            (".5", 500),
        ] {
            assert_eq!(
                nanos(text).map(|nanos| rounded_up(nanos, NANO / 1000)),
                Some(milli),
                "{text}"
            );
        }
        for text in ["", "x", "1x", "1.2.3", "--1", "Ki"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[track_caller]
    fn check(spec: &str, milli_cpu: i64, memory: i64) {
        let requests = PodRequests::of(&yaml(spec), &PodStatus::default()).declared;
        assert_eq!((requests.milli_cpu, requests.memory), (milli_cpu, memory));
    }

    #[test]
    fn containers_add_up() {
        check(
            "containers:\n- {name: a, resources: {requests: {cpu: 100m, memory: 1Ki}}}\n- {name: b, resources: {requests: {cpu: '1'}}}",
            1100,
            1024,
        );
    }

    #[test]
    fn the_largest_init_container_counts_beside_earlier_sidecars() {
        check(
            "{containers: [{name: a, resources: {requests: {cpu: 100m}}}], initContainers: [
              {name: before, resources: {requests: {cpu: 1500m}}},
              {name: sidecar, restartPolicy: Always, resources: {requests: {cpu: 200m}}},
              {name: after, resources: {requests: {cpu: 1400m, memory: 10}}}]}",
            1600,
            10,
        );
    }

    #[test]
    fn the_pod_as_a_whole_comes_first_and_overhead_on_top() {
        check(
            "{containers: [{name: a, resources: {requests: {cpu: 100m, memory: 5}}}],
              resources: {requests: {cpu: 700m}}, overhead: {cpu: 50m}}",
            750,
            5,
        );
    }

    #[test]
    fn scoring_assumes_an_amount_where_none_is_declared() {
        let spec =
            "containers: [{name: a}, {name: b, resources: {requests: {cpu: '0', memory: 1}}}]";
        let requests = PodRequests::of(&yaml(spec), &PodStatus::default());
        assert_eq!(requests.assumed_milli_cpu, 100);
        assert_eq!(requests.assumed_memory, DEFAULT_MEMORY + 1);
        assert_eq!(requests.declared.milli_cpu, 0);
    }

    #[test]
    fn a_pod_that_shrinks_holds_what_it_had_until_the_node_says_otherwise() {
        let spec = yaml("containers: [{name: a, resources: {requests: {cpu: 100m}}}]");
        let status = yaml(
            "containerStatuses: [{name: a, image: i, imageID: i, ready: true, restartCount: 0, resources: {requests: {cpu: 300m}}}]",
        );
        assert_eq!(PodRequests::of(&spec, &status).declared.milli_cpu, 300);
    }
}
