//! Which devices a pod gets, by example: classes, slices and claims in YAML; the allocation in short, or why there is none.

use k8s_openapi::api::resource::v1::AllocationResult;

use crate::framework::{Filter, PreFilter, Reasons, Verdict};
use crate::listers::Allocating;
use crate::plugins::{PLUGINS, dynamic_resources};
use crate::testing::{Stage, stage, yaml};

/// Two nodes; node a has three GPUs, of which two share a root and two are large.
const CLUSTER: &str = "
nodes: [{metadata: {name: a, labels: {rack: one}}}, {metadata: {name: b, labels: {rack: two}}}]
deviceClasses:
- metadata: {name: gpu}
  spec: {selectors: [{cel: {expression: 'device.driver == \"gpu.example.com\"'}}]}
- metadata: {name: any}
  spec: {config: [{opaque: {driver: gpu.example.com, parameters: {mode: fast}}}]}
resourceSlices:
- metadata: {name: a-gpus}
  spec:
    driver: gpu.example.com
    nodeName: a
    pool: {name: a, generation: 1, resourceSliceCount: 1}
    devices:
    - {name: g0, attributes: {root: {int: 0}, model: {string: S}, driver: {version: 1.2.0}}, capacity: {memory: {value: 16Gi}}}
    - {name: g1, attributes: {root: {int: 1}, model: {string: L}, driver: {version: 2.0.1}}, capacity: {memory: {value: 64Gi}}}
    - {name: g2, attributes: {root: {int: 1}, model: {string: L}, driver: {version: 2.0.1}}, capacity: {memory: {value: 64Gi}}}
";

fn scene(more: &str, claim: &str) -> Stage {
    stage(&format!(
        "{CLUSTER}{more}
resourceClaims: [{{metadata: {{name: c}}, {claim}}}, {OTHER}]
pod: {{spec: {{containers: [], resourceClaims: [{{name: x, resourceClaimName: c}}]}}}}"
    ))
}

/// A claim of somebody else, with the first device.
const OTHER: &str = "{metadata: {name: other}, status: {allocation: {devices: {results: [{request: r, driver: gpu.example.com, pool: other, device: g0}]}}}}";

/// What the pod gets at a node: devices by request, and configuration; or why nothing.
#[track_caller]
fn gives_at(stage: &Stage, node: &str, expected: &str) {
    assert_eq!(given(stage, node).unwrap_or_else(|why| why), expected);
}

fn given(stage: &Stage, node: &str) -> Result<String, String> {
    let plugin = PLUGINS.iter().find(|known| known.name() == dynamic_resources::NAME).unwrap();
    let node = stage.cache.node(node).expect("a node of the scene");
    let filter: Box<dyn Filter> = match plugin.filter(stage.cycle()) {
        PreFilter::Skip => return Ok("anything".into()),
        PreFilter::Check(filter) => filter,
        PreFilter::Reject(why) => return Err(why.into_owned()),
    };
    let mut reasons = Reasons::default();
    if filter.check(node, &mut reasons) != Verdict::Fits {
        return Err(reasons.sentence().trim_start_matches("1 ").to_owned());
    }
    let reservations = dynamic_resources::reservations(&stage.pod, &stage.listers, node);
    let told =
        reservations.iter().map(|one| one.allocation.as_ref().map_or("shared".into(), short));
    Ok(told.collect::<Vec<_>>().join("; "))
}

fn short(allocation: &AllocationResult) -> String {
    let devices = allocation.devices.clone().unwrap_or_default();
    let results = devices.results.unwrap_or_default();
    let results = results.iter().map(|one| format!("{}={}", one.request, one.device));
    let configs = devices.config.unwrap_or_default();
    let configs = configs.iter().map(|one| {
        format!("{}:{}", one.source, one.requests.clone().unwrap_or_default().join("+"))
    });
    results.chain(configs).collect::<Vec<_>>().join(" ")
}

/// At node a, for one claim.
#[track_caller]
fn gives(claim: &str, expected: &str) {
    gives_at(&scene("", claim), "a", expected);
}

const NONE: &str = "cannot allocate all claims";

#[test]
fn as_many_devices_as_are_asked_for_or_none() {
    let count = |n: usize| {
        format!(
            "spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: gpu, count: {n}}}}}]}}}}"
        )
    };
    gives(&count(1), "r=g0");
    gives(&count(3), "r=g0 r=g1 r=g2");
    gives(&count(4), NONE);
    gives_at(&scene("", &count(1)), "b", NONE);
    let all = "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpu, allocationMode: All}}]}}";
    gives(all, "r=g0 r=g1 r=g2");
    gives_at(&scene("", all), "b", NONE);
    let first = "spec: {devices: {requests: [{name: q, exactly: {deviceClassName: gpu}}, {name: r, exactly: {deviceClassName: gpu, allocationMode: All}}]}}";
    gives(first, NONE);
}

#[track_caller]
fn selects(expression: &str, expected: &str) {
    let expression = serde_json::to_string(expression).unwrap();
    gives(
        &format!(
            "spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: gpu, selectors: [{{cel: {{expression: {expression}}}}}]}}}}]}}}}"
        ),
        expected,
    );
}

#[test]
fn selectors_look_at_attributes_and_capacities() {
    selects(r#"device.attributes["gpu.example.com"].model == "L""#, "r=g1");
    selects(r#"device.attributes["gpu.example.com"].root > 1"#, NONE);
    selects(r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("32Gi")) > 0"#, "r=g1");
    selects(
        r#"device.attributes["gpu.example.com"].driver.isGreaterThan(semver("1.9.0"))"#,
        "r=g1",
    );
    selects("!device.allowMultipleAllocations", "r=g0");
}

/// A domain that the device knows nothing of is empty: asking it is no error, and it is not there.
#[test]
fn an_unknown_domain_is_empty() {
    selects(r#""x" in device.attributes["other.example.com"]"#, NONE);
    selects(r#"!has(device.attributes["other.example.com"].x)"#, "r=g0");
    selects(r#""other.example.com" in device.attributes"#, NONE);
    selects(r#"cel.bind(d, device.attributes["gpu.example.com"], d.model == "S")"#, "r=g0");
}

#[test]
fn a_selector_that_fails_says_why() {
    let said = "claim default/c: selector #0: CEL runtime error: no such key: absent";
    selects(r#"device.attributes["gpu.example.com"].absent"#, said);
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let small =
        "selectors: [{cel: {expression: 'device.attributes[\"gpu.example.com\"].model == \"S\"'}}]";
    let claim = |count: usize| {
        format!(
            "spec: {{devices: {{requests: [{{name: r, firstAvailable: [{{name: small, deviceClassName: gpu, count: {count}, {small}}}, {{name: two, deviceClassName: any, count: 2}}]}}]}}}}"
        )
    };
    gives(&claim(1), "r/small=g0");
    gives(&claim(2), "r/two=g0 r/two=g1 FromClass:r/two");
}

#[test]
fn constraints_hold_among_the_devices_of_a_claim() {
    let two = |constraint: &str| {
        format!(
            "spec: {{devices: {{constraints: [{constraint}], requests: [{{name: q, exactly: {{deviceClassName: gpu}}}}, {{name: r, exactly: {{deviceClassName: gpu}}}}]}}}}"
        )
    };
    gives(&two("{matchAttribute: gpu.example.com/root}"), "q=g1 r=g2");
    gives(&two("{distinctAttribute: gpu.example.com/root}"), "q=g0 r=g1");
    gives(&two("{matchAttribute: gpu.example.com/absent}"), NONE);
    gives(&two("{requests: [q], matchAttribute: gpu.example.com/root}"), "q=g0 r=g1");
}

#[test]
fn what_somebody_has_nobody_else_gets_but_for_admin_access() {
    let claim = |more: &str| {
        format!(
            "spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: gpu{more}}}}}]}}}}"
        )
    };
    let mut stage = scene("", &claim(""));
    let first =
        super::DeviceId { driver: "gpu.example.com".into(), pool: "a".into(), device: "g0".into() };
    let allocating = Allocating { claim: "other".into(), devices: vec![first] };
    stage.listers.allocating.insert(("default".into(), "other".into()), allocating);
    gives_at(&stage, "a", "r=g1");
    // It is never counted twice: its claim says so now.
    stage.listers.settle_allocating();
    assert!(stage.listers.allocating.is_empty());
    let taken = "resourceSlices: [{metadata: {name: s}, spec: {driver: gpu.example.com, allNodes: true, pool: {name: other, generation: 1, resourceSliceCount: 1}, devices: [{name: g0}]}}]";
    let alone = |claim: &str| {
        let classes =
            "deviceClasses: [{metadata: {name: gpu}, spec: {}}]\nnodes: [{metadata: {name: a}}]";
        stage_of(&format!("{classes}\n{taken}"), claim)
    };
    gives_at(&alone(&claim("")), "a", NONE);
    gives_at(&alone(&claim(", adminAccess: true")), "a", "r=g0");
}

fn stage_of(cluster: &str, claim: &str) -> Stage {
    stage(&format!(
        "{cluster}
resourceClaims: [{{metadata: {{name: c}}, {claim}}}, {OTHER}]
pod: {{spec: {{containers: [], resourceClaims: [{{name: x, resourceClaimName: c}}]}}}}"
    ))
}

const ONE: &str = "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}";

/// A cluster of two nodes and these slices of one driver.
fn with_slices(slices: &str, claim: &str) -> Stage {
    let nodes = "nodes: [{metadata: {name: a, labels: {rack: one}}}, {metadata: {name: b, labels: {rack: two}}}]";
    let class = "deviceClasses: [{metadata: {name: c}, spec: {}}]";
    stage_of(&format!("{nodes}\n{class}\nresourceSlices: [{slices}]"), claim)
}

fn slice(name: &str, generation: i64, slices: usize, more: &str) -> String {
    let pool = format!("pool: {{name: p, generation: {generation}, resourceSliceCount: {slices}}}");
    format!("{{metadata: {{name: {name}}}, spec: {{driver: d.example.com, {pool}, {more}}}}}")
}

#[test]
fn only_the_newest_generation_of_a_pool_counts_and_only_when_it_is_complete() {
    let old = slice("s1", 1, 1, "nodeName: a, devices: [{name: old}]");
    let new = slice("s2", 2, 1, "nodeName: a, devices: [{name: new}]");
    gives_at(&with_slices(&format!("{old}, {new}"), ONE), "a", "r=new");
    gives_at(&with_slices(&format!("{new}, {old}"), ONE), "a", "r=new");
    let half = slice("s2", 2, 2, "nodeName: a, devices: [{name: new}]");
    gives_at(&with_slices(&format!("{old}, {half}"), ONE), "a", NONE);
    let all = "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All}}]}}";
    let said = "claim default/c, request r: asks for all devices, but resource pool d.example.com/p is currently being updated";
    gives_at(&with_slices(&half, all), "a", said);
    let twice = slice("s2", 2, 1, "nodeName: a, devices: [{name: new}, {name: new}]");
    gives_at(&with_slices(&twice, ONE), "a", "invalid resource pools were encountered");
}

#[track_caller]
fn reaches(slice_: &str, node: &str, expected: Option<&str>, selector: &str) {
    let stage = with_slices(&slice("s", 1, 1, slice_), ONE);
    gives_at(&stage, node, expected.unwrap_or(NONE));
    if expected.is_some() {
        let node = stage.cache.node(node).unwrap();
        let made = dynamic_resources::reservations(&stage.pod, &stage.listers, node);
        let made = made[0].allocation.as_ref().unwrap().node_selector.clone();
        let wanted: Option<k8s_openapi::api::core::v1::NodeSelector> = yaml(selector);
        assert_eq!(made, wanted);
    }
}

#[test]
fn devices_reach_one_node_all_nodes_or_those_that_are_selected() {
    let only_a =
        "{nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [a]}]}]}";
    let rack =
        "{nodeSelectorTerms: [{matchExpressions: [{key: rack, operator: In, values: [two]}]}]}";
    reaches("nodeName: a, devices: [{name: g}]", "a", Some("r=g"), only_a);
    reaches("nodeName: a, devices: [{name: g}]", "b", None, "");
    reaches("allNodes: true, devices: [{name: g}]", "b", Some("r=g"), "null");
    let selected = format!("nodeSelector: {rack}, devices: [{{name: g}}]");
    reaches(&selected, "b", Some("r=g"), rack);
    reaches(&selected, "a", None, "");
    let each =
        "perDeviceNodeSelection: true, devices: [{name: g, nodeName: b}, {name: h, nodeName: a}]";
    reaches(each, "a", Some("r=h"), only_a);
    reaches("allNodes: true, devices: [{name: g, bindsToNode: true}]", "a", Some("r=g"), only_a);
}

#[test]
fn tainted_devices_go_to_those_who_tolerate_them() {
    let tainted = slice(
        "s",
        1,
        1,
        "nodeName: a, devices: [{name: g, taints: [{key: worn, value: y, effect: NoSchedule}]}]",
    );
    gives_at(&with_slices(&tainted, ONE), "a", NONE);
    for (toleration, fits) in [
        ("{key: worn, operator: Exists}", true),
        ("{operator: Exists}", true),
        ("{key: worn, operator: Equal, value: y, effect: NoSchedule}", true),
        ("{key: worn, operator: Equal, value: n}", false),
        ("{key: worn, operator: Exists, effect: NoExecute}", false),
    ] {
        let claim = format!(
            "spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: c, tolerations: [{toleration}]}}}}]}}}}"
        );
        gives_at(&with_slices(&tainted, &claim), "a", if fits { "r=g" } else { NONE });
    }
}

#[test]
fn devices_that_share_counters_do_not_take_more_than_there_is() {
    let consumes = |n| {
        format!("consumesCounters: [{{counterSet: card, counters: {{memory: {{value: {n}Gi}}}}}}]")
    };
    let counters = slice(
        "counters",
        1,
        2,
        "sharedCounters: [{name: card, counters: {memory: {value: 10Gi}}}]",
    );
    let devices = slice(
        "devices",
        1,
        2,
        &format!(
            "nodeName: a, devices: [{{name: big, {}}}, {{name: half, {}}}, {{name: rest, {}}}]",
            consumes(8),
            consumes(5),
            consumes(5)
        ),
    );
    let slices = format!("{counters}, {devices}");
    gives_at(&with_slices(&slices, ONE), "a", "r=big");
    let two = "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c, count: 2}}]}}";
    gives_at(&with_slices(&slices, two), "a", "r=half r=rest");
    let three = "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c, count: 3}}]}}";
    gives_at(&with_slices(&slices, three), "a", NONE);
}

#[test]
fn configuration_comes_from_the_class_once_and_from_the_claim_where_it_applies() {
    let claim = "spec: {devices: {requests: [{name: q, exactly: {deviceClassName: any}}, {name: r, exactly: {deviceClassName: any}}], \
        config: [{requests: [r], opaque: {driver: gpu.example.com, parameters: {a: b}}}, {opaque: {driver: gpu.example.com, parameters: {}}}]}}";
    gives(claim, "q=g0 r=g1 FromClass:q+r FromClaim:r FromClaim:");
}

#[test]
fn an_allocated_claim_is_shared_where_it_can_be_used() {
    let claim = "spec: {devices: {}}, status: {allocation: {nodeSelector: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [b]}]}]}}}";
    gives_at(&scene("", claim), "b", "shared");
    gives_at(&scene("", claim), "a", "resourceclaim not available on the node");
}

#[test]
fn a_pod_whose_claim_is_not_as_it_should_be_waits_and_says_why() {
    let missing = "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: nope}}]}}";
    gives(missing, "request r: device class nope does not exist");
    let pod = |claim: &str, status: &str| {
        stage(&format!("{CLUSTER}
resourceClaims: [{{metadata: {{name: c, uid: u}}, spec: {{}}}}]
pod: {{metadata: {{name: p}}, spec: {{containers: [], resourceClaims: [{{name: x, {claim}}}]}}, status: {{{status}}}}}"))
    };
    let awaited = pod("resourceClaimTemplateName: t", "");
    gives_at(&awaited, "a", "pod \"default/p\": ResourceClaim not created yet");
    let absent = pod("resourceClaimName: absent", "");
    gives_at(&absent, "a", "could not find ResourceClaim \"default/absent\"");
    let told = "resourceClaimStatuses: [{name: x, resourceClaimName: c}]";
    let stolen = pod("resourceClaimTemplateName: t", told);
    let said = "ResourceClaim default/c was not created for Pod default/p (Pod is not owner)";
    gives_at(&stolen, "a", said);
    let unneeded = pod("resourceClaimTemplateName: t", "resourceClaimStatuses: [{name: x}]");
    gives_at(&unneeded, "a", "anything");
    let twice =
        scene("", "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpu}}]}}");
    let mut twice = twice;
    let allocating = Allocating { claim: "c".into(), devices: Vec::new() };
    twice.listers.allocating.insert(("default".into(), "c".into()), allocating);
    gives_at(&twice, "a", "resource claim default/c is in the process of being allocated");
}

#[test]
fn a_claim_that_ties_an_idle_pod_to_a_full_node_is_given_up() {
    let reserved = |who: &str| {
        let tied = "nodeSelector: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [b]}]}]}";
        scene("", &format!("spec: {{}}, status: {{allocation: {{{tied}}}, reservedFor: [{who}]}}"))
    };
    let mine = reserved("{resource: pods, name: incoming, uid: incoming}");
    let key = ("default".to_owned(), "c".to_owned());
    assert_eq!(dynamic_resources::to_deallocate(mine.cycle()), Some(key.clone()));
    assert_eq!(dynamic_resources::to_deallocate(reserved("").cycle()), Some(key));
    let shared = reserved("{resource: pods, name: other, uid: other}");
    assert_eq!(dynamic_resources::to_deallocate(shared.cycle()), None);
}
