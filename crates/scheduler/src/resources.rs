//! Amounts of resources as integers, parsed once: cpu in thousandths, everything else in units.
//!
//! Counterpart: `framework.Resource` and `resource.Quantity`. Invariant: requests round up and never down, so a node is
//! never promised more than it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What scoring assumes of a container that asks for nothing, so that such pods spread too.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, sorted by name; usually empty.
    pub scalar: Vec<(Arc<str>, i64)>,
}

// === impl Resources ===

impl Resources {
    pub fn parse(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
        let mut resources = Resources::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resources.milli_cpu = parse_quantity(&quantity.0, 1000),
                "memory" => resources.memory = parse_quantity(&quantity.0, 1),
                "ephemeral-storage" => resources.ephemeral_storage = parse_quantity(&quantity.0, 1),
                "pods" => {}
                name => *resources.scalar_mut(name) = parse_quantity(&quantity.0, 1),
            }
        }
        resources
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalar.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |mine, theirs| mine.saturating_add(theirs));
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |mine, theirs| mine - theirs);
    }

    /// The larger of each amount.
    pub fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar_mut(name);
            *mine = with(*mine, *amount);
        }
    }

    fn scalar_mut(&mut self, name: &str) -> &mut i64 {
        let at = match self.scalar.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.scalar.insert(at, (name.into(), 0));
                at
            }
        };
        &mut self.scalar[at].1
    }
}

/// What a pod asks of its node: containers and sidecars together, or the hungriest init container if that is more.
pub fn pod_requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = sum_containers(spec, requests);
    if let Some(whole_pod) =
        spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())
    {
        override_with(&mut total, whole_pod);
    }
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total
}

/// Like `pod_requests`, with an assumed size for containers that do not say.
pub fn pod_requests_for_scoring(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = sum_containers(spec, assumed_requests);
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total
}

fn sum_containers(spec: &PodSpec, of: fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        now.add(&of(container));
        peak.raise_to(&now);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = now;
        }
    }
    running.add(&sidecars);
    running.raise_to(&peak);
    running
}

/// Requests of the pod as a whole replace the sum of its containers'.
fn override_with(total: &mut Resources, whole_pod: &BTreeMap<String, Quantity>) {
    let whole = Resources::parse(Some(whole_pod));
    if whole_pod.contains_key("cpu") {
        total.milli_cpu = whole.milli_cpu;
    }
    if whole_pod.contains_key("memory") {
        total.memory = whole.memory;
    }
    for (name, amount) in whole.scalar {
        *total.scalar_mut(&name) = amount;
    }
}

fn requests(container: &Container) -> Resources {
    Resources::parse(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn assumed_requests(container: &Container) -> Resources {
    let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut resources = Resources::parse(asked);
    let says = |name: &str| asked.is_some_and(|asked| asked.contains_key(name));
    if !says("cpu") {
        resources.milli_cpu = DEFAULT_MILLI_CPU;
    }
    if !says("memory") {
        resources.memory = DEFAULT_MEMORY;
    }
    resources
}

/// A quantity in units of one `per_unit`-th, rounded up. The API server has validated it; nonsense counts as zero.
pub fn parse_quantity(text: &str, per_unit: i64) -> i64 {
    exact(text, per_unit).unwrap_or(0)
}

fn exact(text: &str, per_unit: i64) -> Option<i64> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = scale_of(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor =
        10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(denominator)?;
    let amount = digits.checked_mul(numerator)?.checked_mul(i128::from(per_unit))?;
    let rounded = amount.div_euclid(divisor) + i128::from(amount.rem_euclid(divisor) != 0);
    Some(i64::try_from(rounded).unwrap_or(i64::MAX))
}

fn scale_of(suffix: &str) -> Option<(i128, i128)> {
    const BINARY: &str = "KMGTPE";
    const DECIMAL: [(&str, i128, i128); 10] = [
        ("n", 1, 1_000_000_000),
        ("u", 1, 1_000_000),
        ("m", 1, 1000),
        ("", 1, 1),
        ("k", 1000, 1),
        ("M", 1_000_000, 1),
        ("G", 1_000_000_000, 1),
        ("T", 1_000_000_000_000, 1),
        ("P", 1_000_000_000_000_000, 1),
        ("E", 1_000_000_000_000_000_000, 1),
    ];
    if let Some((_, numerator, denominator)) = DECIMAL.iter().find(|(known, ..)| *known == suffix) {
        return Some((*numerator, *denominator));
    }
    if let Some(prefix) = suffix.strip_suffix('i') {
        let power = BINARY.find(prefix)? + 1;
        return Some((1i128 << (10 * power), 1));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, per_unit, expected) in [
            ("100m", 1000, 100),
            ("1", 1000, 1000),
            ("0.1", 1000, 100),
            ("1.5", 1000, 1500),
            ("128Mi", 1, 128 << 20),
            ("1G", 1, 1_000_000_000),
            ("1e3", 1, 1000),
            ("12E-1", 1, 2),
            ("0.5m", 1000, 1),
            ("2E", 1, 2_000_000_000_000_000_000),
            ("100E", 1, i64::MAX),
            ("nonsense", 1, 0),
        ] {
            assert_eq!(parse_quantity(text, per_unit), expected, "{text}");
        }
    }

    #[test]
    fn sidecars_run_beside_the_containers_and_init_containers_before_them() {
        let pod: Pod = serde_saphyr::from_str(
            "spec:
               initContainers:
               - {name: side, restartPolicy: Always, resources: {requests: {cpu: 100m}}}
               - {name: init, resources: {requests: {cpu: '1', example.com/gpu: 1}}}
               containers:
               - {name: a, resources: {requests: {cpu: 300m, memory: 1Gi}}}
               - {name: b, resources: {requests: {cpu: 300m}}}",
        )
        .unwrap();
        let requests = pod_requests(&pod);
        assert_eq!((requests.milli_cpu, requests.memory), (1100, 1 << 30));
        assert_eq!(requests.scalar("example.com/gpu"), 1);
        assert_eq!(pod_requests_for_scoring(&pod).memory, (1 << 30) + 2 * DEFAULT_MEMORY);
    }
}
