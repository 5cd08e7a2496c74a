//! Every plugin by example: nodes, placed pods and a pod in YAML; where it may go, how nodes score, or what is said.

use super::volume_binding::claim_steps;
use super::{PLUGINS, volume_binding::ClaimStep};
use crate::cycle::{Chance, Outcome, Scheduling};
use crate::framework::{PreFilter, Reasons, Verdict};
use crate::node_info::NodeInfo;
use crate::testing::stage;

/// Which nodes one plugin lets the pod go to, and what it says of the others.
#[track_caller]
fn filters(plugin: &str, scene: &str, feasible: &[&str], reasons: &str) {
    let stage = stage(scene);
    let cycle = stage.cycle();
    let plugin = PLUGINS.iter().find(|known| known.name() == plugin).expect("a listed plugin");
    let mut said = Reasons::default();
    let all = stage.cache.nodes().iter();
    let fits: Vec<_> = match plugin.filter(cycle) {
        PreFilter::Skip => all.map(NodeInfo::name).collect(),
        PreFilter::Check(filter) => {
            let fits = all.filter(|node| filter.check(node, &mut said) == Verdict::Fits);
            fits.map(NodeInfo::name).collect()
        }
        PreFilter::Reject(reason) => {
            said.add(reason);
            Vec::new()
        }
    };
    assert_eq!(fits, feasible);
    assert_eq!(said.sentence(), reasons);
}

/// The normalised score that one plugin gives each node; empty if it has no preference.
#[track_caller]
fn scores(plugin: &str, scene: &str, expected: &[i64]) {
    let stage = stage(scene);
    let cycle = stage.cycle();
    let plugin = PLUGINS.iter().find(|known| known.name() == plugin).expect("a listed plugin");
    let nodes: Vec<_> = stage.cache.nodes().iter().collect();
    let given = plugin.score(cycle, &nodes).map(|score| {
        let mut scores: Vec<_> = nodes.iter().map(|node| score.score(node)).collect();
        score.normalise(&mut scores, &nodes);
        scores
    });
    assert_eq!(given.unwrap_or_default(), expected);
}

/// The outcome of a whole cycle: a node, or the message.
#[track_caller]
fn decides(scene: &str, expected: &str) {
    let stage = stage(scene);
    let mut scheduling = Scheduling { start: 0, chance: Chance(7) };
    let decided = match scheduling.schedule(stage.cycle()) {
        Outcome::Placed { node } => node,
        Outcome::ToBeJudged { nodes } => panic!("nobody asked for {nodes:?}"),
        Outcome::Unschedulable { message, .. } => message,
    };
    assert_eq!(decided, expected);
}

const TWO: &str = "
nodes:
- {metadata: {name: a, labels: {zone: one, kubernetes.io/hostname: a}}}
- {metadata: {name: b, labels: {zone: two, kubernetes.io/hostname: b}}}
";

#[test]
fn cordoned_nodes_take_only_pods_that_tolerate_it() {
    let nodes =
        "nodes: [{metadata: {name: a}, spec: {unschedulable: true}}, {metadata: {name: b}}]";
    filters("NodeUnschedulable", nodes, &["b"], "1 node(s) were unschedulable");
    let tolerant = "pod: {spec: {containers: [], tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]}}";
    filters("NodeUnschedulable", &format!("{nodes}\n{tolerant}"), &["a", "b"], "");
}

#[test]
fn a_pod_that_names_its_node_goes_there() {
    let scene = format!("{TWO}pod: {{spec: {{containers: [], nodeName: b}}}}");
    filters("NodeName", &scene, &["b"], "1 node(s) didn't match the requested node name");
}

const TAINTED: &str = "
nodes:
- {metadata: {name: a}, spec: {taints: [{key: k, value: v, effect: NoSchedule}]}}
- {metadata: {name: b}, spec: {taints: [{key: k, value: v, effect: NoExecute}]}}
- {metadata: {name: c}, spec: {taints: [{key: k, value: v, effect: PreferNoSchedule}]}}
- {metadata: {name: d}}
";

#[test]
fn hard_taints_need_tolerations() {
    filters("TaintToleration", TAINTED, &["c", "d"], "2 node(s) had untolerated taint(s)");
    for (toleration, feasible) in [
        ("{key: k, operator: Equal, value: v, effect: NoSchedule}", &["a", "c", "d"][..]),
        ("{key: k, operator: Exists}", &["a", "b", "c", "d"]),
        ("{operator: Exists}", &["a", "b", "c", "d"]),
        ("{key: k, value: other}", &["c", "d"]),
    ] {
        let scene =
            format!("{TAINTED}pod: {{spec: {{containers: [], tolerations: [{toleration}]}}}}");
        let said = match feasible.len() {
            4 => String::new(),
            fits => format!("{} node(s) had untolerated taint(s)", 4 - fits),
        };
        filters("TaintToleration", &scene, feasible, &said);
    }
}

#[test]
fn soft_taints_count_against_a_node() {
    scores("TaintToleration", TAINTED, &[100, 100, 0, 100]);
}

#[test]
fn node_selectors_and_affinity_filter() {
    let none = "1 node(s) didn't match Pod's node affinity/selector";
    let by = |spec: &str| format!("{TWO}pod: {{spec: {{containers: [], {spec}}}}}");
    filters("NodeAffinity", &by("nodeSelector: {zone: one}"), &["a"], none);
    let required = |term: &str| {
        by(&format!(
            "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{term}]}}}}}}"
        ))
    };
    filters(
        "NodeAffinity",
        &required("{matchExpressions: [{key: zone, operator: In, values: [two]}]}"),
        &["b"],
        none,
    );
    filters(
        "NodeAffinity",
        &required("{matchFields: [{key: metadata.name, operator: In, values: [a]}]}"),
        &["a"],
        none,
    );
    filters("NodeAffinity", &by(""), &["a", "b"], "");
}

#[test]
fn preferred_nodes_score() {
    let scene = format!(
        "{TWO}pod: {{spec: {{containers: [], affinity: {{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [
          {{weight: 2, preference: {{matchExpressions: [{{key: zone, operator: Exists}}]}}}},
          {{weight: 6, preference: {{matchExpressions: [{{key: zone, operator: In, values: [two]}}]}}}}]}}}}}}}}"
    );
    scores("NodeAffinity", &scene, &[25, 100]);
    scores("NodeAffinity", TWO, &[]);
}

#[test]
fn host_ports_are_taken_once_per_address_and_protocol() {
    let scene = |port: &str| {
        format!(
            "{TWO}placed: [{{spec: {{nodeName: a, containers: [{{name: c, ports: [{{containerPort: 1, hostPort: 80, hostIP: 10.0.0.1}}]}}]}}}}]
pod: {{spec: {{containers: [{{name: c, ports: [{{containerPort: 1, {port}}}]}}]}}}}"
        )
    };
    let taken = "1 node(s) didn't have free ports for the requested pod ports";
    filters("NodePorts", &scene("hostPort: 80"), &["b"], taken);
    filters("NodePorts", &scene("hostPort: 80, hostIP: 10.0.0.1"), &["b"], taken);
    filters("NodePorts", &scene("hostPort: 80, hostIP: 10.0.0.2"), &["a", "b"], "");
    filters("NodePorts", &scene("hostPort: 80, protocol: UDP"), &["a", "b"], "");
    filters("NodePorts", &scene("hostPort: 81"), &["a", "b"], "");
}

#[test]
fn every_resource_must_be_left() {
    let scene = |requests: &str| {
        format!(
            "nodes:
- {{metadata: {{name: small}}, status: {{allocatable: {{cpu: '1', memory: 1Gi, pods: '1', ephemeral-storage: 1Gi}}}}}}
- {{metadata: {{name: large}}, status: {{allocatable: {{cpu: '4', memory: 4Gi, pods: '2', example.com/gpu: '2'}}}}}}
placed: [{{spec: {{nodeName: large, containers: [{{name: c, resources: {{requests: {{cpu: '1', example.com/gpu: '1'}}}}}}]}}}}]
pod: {{spec: {{containers: [{{name: c, resources: {{requests: {{{requests}}}}}}}]}}}}"
        )
    };
    let check = |requests: &str, feasible: &[&str], said: &str| {
        filters("NodeResourcesFit", &scene(requests), feasible, said);
    };
    check("cpu: '1'", &["small", "large"], "");
    check("cpu: 1001m", &["large"], "1 Insufficient cpu");
    check("cpu: '3', memory: 4Gi", &["large"], "1 Insufficient cpu, 1 Insufficient memory");
    check("cpu: 3001m", &[], "2 Insufficient cpu");
    check("ephemeral-storage: 1Gi", &["small"], "1 Insufficient ephemeral-storage");
    check("example.com/gpu: '1'", &["large"], "1 Insufficient example.com/gpu");
    check("example.com/gpu: '2'", &[], "2 Insufficient example.com/gpu");
}

#[test]
fn a_node_takes_so_many_pods() {
    let scene = "{nodes: [{metadata: {name: a}, status: {allocatable: {cpu: '1', pods: '1'}}}],
        placed: [{spec: {nodeName: a, containers: []}}]}";
    filters("NodeResourcesFit", scene, &[], "1 Too many pods");
}

#[test]
fn emptier_and_balanced_nodes_score_higher() {
    let scene = "
nodes:
- {metadata: {name: a}, status: {allocatable: {cpu: '4', memory: 4Gi, pods: '9'}}}
- {metadata: {name: b}, status: {allocatable: {cpu: '4', memory: 4Gi, pods: '9'}}}
placed: [{spec: {nodeName: a, containers: [{name: c, resources: {requests: {cpu: '2', memory: 1Gi}}}]}}]
pod: {spec: {containers: [{name: c, resources: {requests: {cpu: '1', memory: 1Gi}}}]}}";
    // a: cpu 1/4 and memory 2/4 would be left; b: 3/4 of both.
    scores("NodeResourcesFit", scene, &[37, 75]);
    // a: used 3/4 and 2/4 after 2/4 and 1/4, as uneven as before; b: even before and after.
    scores("NodeResourcesBalancedAllocation", scene, &[75, 75]);
}

#[test]
fn present_images_draw() {
    let scene = "
nodes:
- {metadata: {name: a}, status: {allocatable: {pods: '9'}, images: [{names: ['web:latest'], sizeBytes: 1073741824}]}}
- {metadata: {name: b}, status: {allocatable: {pods: '9'}}}
pod: {spec: {containers: [{name: c, image: web}]}}";
    // 1 GiB on one node of two counts as 512 MiB, of the range from 23 to 1000 MiB.
    scores("ImageLocality", scene, &[50, 0]);
    scores("ImageLocality", TWO, &[]);
}

fn spread(constraint: &str) -> String {
    format!(
        "{TWO}placed:
- {{metadata: {{labels: {{app: web}}}}, spec: {{nodeName: a, containers: []}}}}
- {{metadata: {{labels: {{app: web}}}}, spec: {{nodeName: a, containers: []}}}}
- {{metadata: {{labels: {{app: web}}}}, spec: {{nodeName: b, containers: []}}}}
pod: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [], topologySpreadConstraints: [
  {{labelSelector: {{matchLabels: {{app: web}}}}, {constraint}}}]}}}}"
    )
}

#[test]
fn spread_constraints_filter_by_skew() {
    let plugin = "PodTopologySpread";
    let skewed = "1 node(s) didn't match pod topology spread constraints";
    let hard = "whenUnsatisfiable: DoNotSchedule, topologyKey: zone";
    filters(plugin, &spread(&format!("{hard}, maxSkew: 1")), &["b"], skewed);
    filters(plugin, &spread(&format!("{hard}, maxSkew: 2")), &["a", "b"], "");
    // The third domain that is asked for is missing, so the emptiest holds nothing.
    let both = "2 node(s) didn't match pod topology spread constraints";
    filters(plugin, &spread(&format!("{hard}, maxSkew: 1, minDomains: 3")), &[], both);
    let missing = "2 node(s) didn't match pod topology spread constraints (missing required label)";
    let rack = "whenUnsatisfiable: DoNotSchedule, topologyKey: rack, maxSkew: 1";
    filters(plugin, &spread(rack), &[], missing);
}

#[test]
fn soft_spread_constraints_score() {
    let soft = "whenUnsatisfiable: ScheduleAnyway, topologyKey: zone, maxSkew: 1";
    // 2 and 1 siblings times ln 4: 3 and 1 after rounding.
    scores("PodTopologySpread", &spread(soft), &[33, 100]);
}

#[test]
fn pods_of_a_service_are_spread_by_default() {
    let scene = format!(
        "{TWO}services: [{{metadata: {{name: web, namespace: default}}, spec: {{selector: {{app: web}}}}}}]
placed: [{{metadata: {{labels: {{app: web}}}}, spec: {{nodeName: a, containers: []}}}}]
pod: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: []}}}}"
    );
    // One sibling times ln 4, and 2 for the allowed skew of 3: 3 against 2.
    scores("PodTopologySpread", &scene, &[66, 100]);
    decides(&scene, "b");
    scores("PodTopologySpread", TWO, &[]);
}

fn affinity(placed: &str, own: &str) -> String {
    format!(
        "{TWO}namespaces: [{{metadata: {{name: default, labels: {{team: red}}}}}}]
placed: [{placed}]
pod: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [], affinity: {{{own}}}}}}}"
    )
}

fn term(kind: &str, app: &str) -> String {
    format!(
        "{kind}: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: zone, labelSelector: {{matchLabels: {{app: {app}}}}}}}]}}"
    )
}

const DB_ON_B: &str = "{metadata: {labels: {app: db}}, spec: {nodeName: b, containers: []}}";

#[test]
fn pods_go_near_and_away_from_others() {
    let plugin = "InterPodAffinity";
    let near = affinity(DB_ON_B, &term("podAffinity", "db"));
    filters(plugin, &near, &["b"], "1 node(s) didn't match pod affinity rules");
    let alone = affinity("", &term("podAffinity", "db"));
    filters(plugin, &alone, &[], "2 node(s) didn't match pod affinity rules");
    let first = affinity("", &term("podAffinity", "web"));
    filters(plugin, &first, &["a", "b"], "");
    let away = affinity(DB_ON_B, &term("podAntiAffinity", "db"));
    filters(plugin, &away, &["a"], "1 node(s) didn't match pod anti-affinity rules");
    filters(plugin, &affinity(DB_ON_B, ""), &["a", "b"], "");
}

#[test]
fn placed_pods_keep_others_away() {
    let hermit = format!(
        "{{spec: {{nodeName: a, containers: [], affinity: {{{}}}}}}}",
        term("podAntiAffinity", "web")
    );
    let said = "1 node(s) didn't satisfy existing pods anti-affinity rules";
    filters("InterPodAffinity", &affinity(&hermit, ""), &["b"], said);
}

#[test]
fn terms_reach_other_namespaces_by_label() {
    let by_label = |team: &str| {
        format!(
            "podAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: zone,
            labelSelector: {{}}, namespaceSelector: {{matchLabels: {{team: {team}}}}}}}]}}"
        )
    };
    filters(
        "InterPodAffinity",
        &affinity(DB_ON_B, &by_label("red")),
        &["b"],
        "1 node(s) didn't match pod affinity rules",
    );
    filters(
        "InterPodAffinity",
        &affinity(DB_ON_B, &by_label("blue")),
        &[],
        "2 node(s) didn't match pod affinity rules",
    );
}

#[test]
fn preferences_of_either_side_score() {
    let preferred = |kind: &str, app: &str| {
        format!(
            "{kind}: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 5, podAffinityTerm: {{
            topologyKey: zone, labelSelector: {{matchLabels: {{app: {app}}}}}}}}}]}}"
        )
    };
    scores("InterPodAffinity", &affinity(DB_ON_B, &preferred("podAffinity", "db")), &[0, 100]);
    scores("InterPodAffinity", &affinity(DB_ON_B, &preferred("podAntiAffinity", "db")), &[100, 0]);
    let fan = format!(
        "{{spec: {{nodeName: a, containers: [], affinity: {{{}}}}}}}",
        preferred("podAffinity", "web")
    );
    scores("InterPodAffinity", &affinity(&fan, ""), &[100, 0]);
}

const DATA: &str =
    "pod: {spec: {containers: [], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}";

#[test]
fn pods_follow_their_volumes() {
    let plugin = "VolumeBinding";
    let missing = "1 persistentvolumeclaim \"data\" not found";
    filters(plugin, &format!("{TWO}{DATA}"), &[], missing);
    let unbound = format!("{TWO}{DATA}\nclaims: [{{metadata: {{name: data}}}}]");
    filters(plugin, &unbound, &[], "1 pod has unbound immediate PersistentVolumeClaims");
    let bound = "claims: [{metadata: {name: data, annotations: {pv.kubernetes.io/bind-completed: 'yes'}}, spec: {volumeName: pv}}]";
    let local =
        "volumes: [{metadata: {name: pv}, spec: {nodeAffinity: {required: {nodeSelectorTerms: [
        {matchExpressions: [{key: zone, operator: In, values: [two]}]}]}}}}]";
    let conflict = "1 node(s) didn't match PersistentVolume's node affinity";
    filters(plugin, &format!("{TWO}{DATA}\n{bound}\n{local}"), &["b"], conflict);
    let lost = "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
    filters(plugin, &format!("{TWO}{DATA}\n{bound}"), &[], lost);
}

#[test]
fn claims_that_wait_are_given_a_volume_with_the_node() {
    let waiting = "claims: [{metadata: {name: data}, spec: {storageClassName: late, resources: {requests: {storage: 1Gi}}}}]";
    let class = |provisioner: &str| {
        format!(
            "classes: [{{metadata: {{name: late}}, provisioner: {provisioner}, volumeBindingMode: WaitForFirstConsumer}}]"
        )
    };
    let volume = |name: &str, size: &str| {
        format!("{{metadata: {{name: {name}, resourceVersion: '7'}}, spec: {{storageClassName: late, capacity: {{storage: {size}}},
          nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: zone, operator: In, values: [one]}}]}}]}}}}}}, status: {{phase: Available}}}}")
    };
    let volumes = format!(
        "volumes: [{}, {}, {}]",
        volume("small", "512Mi"),
        volume("large", "4Gi"),
        volume("right", "2Gi")
    );
    let fixed =
        format!("{TWO}{DATA}\n{waiting}\n{}\n{volumes}", class("kubernetes.io/no-provisioner"));
    filters(
        "VolumeBinding",
        &fixed,
        &["a"],
        "1 node(s) didn't find available persistent volumes to bind",
    );
    let on = stage(&fixed);
    let node = on.cache.node("a").expect("a node of the scene");
    let promise = ClaimStep::Promise {
        volume: "right".into(),
        version: "7".into(),
        claim: "data".into(),
        uid: String::new(),
    };
    assert_eq!(claim_steps(&on.pod, &on.listers, node), [promise]);

    let made = format!("{TWO}{DATA}\n{waiting}\n{}", class("example.com/disk"));
    filters("VolumeBinding", &made, &["a", "b"], "");
    let on = stage(&made);
    let node = on.cache.node("b").expect("a node of the scene");
    assert_eq!(
        claim_steps(&on.pod, &on.listers, node),
        [ClaimStep::Provision { claim: "data".into() }]
    );
}

#[test]
fn a_message_counts_every_reason_and_says_what_preemption_found() {
    decides(
        "{nodes: [
          {metadata: {name: a}, spec: {unschedulable: true}},
          {metadata: {name: b}, spec: {taints: [{key: k, effect: NoSchedule}]}},
          {metadata: {name: c}, status: {allocatable: {cpu: '2', pods: '9'}}}],
         placed: [{spec: {nodeName: c, containers: [{name: c, resources: {requests: {cpu: '1'}}}]}}],
         pod: {spec: {containers: [{name: c, resources: {requests: {cpu: '2'}}}]}}}",
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
         no new claims to deallocate, preemption: 0/3 nodes are available: \
         1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
    );
    decides("pod: {spec: {containers: []}}", "no nodes available to schedule pods");
}

#[test]
fn a_daemon_pod_is_only_tried_on_its_node() {
    let scene = |cpu: &str| {
        format!(
        "{TWO}pod: {{spec: {{containers: [{{name: c, resources: {{requests: {{cpu: '{cpu}'}}}}}}], affinity: {{nodeAffinity:
          {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchFields: [{{key: metadata.name, operator: In, values: [b]}}]}}]}}}}}}}}}}"
    )
    };
    decides(&scene("1"), "b");
    decides(
        &scene("9"),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
         no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
}

const ZONED: &str = "
nodes:
- {metadata: {name: a, labels: {topology.kubernetes.io/zone: one}}}
- {metadata: {name: b, labels: {topology.kubernetes.io/zone: two}}}
- {metadata: {name: nowhere}}
pod: {spec: {containers: [], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}
";

const BOUND: &str = "
claims: [{metadata: {name: data, annotations: {pv.kubernetes.io/bind-completed: 'yes'}}, spec: {volumeName: v, accessModes: [ReadWriteOncePod]}}]
";

#[test]
fn a_labelled_volume_ties_its_pod_to_its_zones() {
    let volume = |zones: &str| {
        format!(
            "{ZONED}{BOUND}volumes: [{{metadata: {{name: v, labels: {{failure-domain.beta.kubernetes.io/zone: {zones}}}}}, spec: {{}}}}]"
        )
    };
    let said = "1 node(s) had no available volume zone";
    filters("VolumeZone", &volume("one"), &["a", "nowhere"], said);
    filters("VolumeZone", &volume("one__two"), &["a", "b", "nowhere"], "");
}

#[test]
fn a_claim_for_one_pod_only_is_refused_to_a_second() {
    let user = "{metadata: {name: user}, spec: {nodeName: b, containers: [], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}";
    let scene = format!("{ZONED}{BOUND}placed: [{user}]");
    let said = "3 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    filters("VolumeRestrictions", &scene, &[], said);
    filters("VolumeRestrictions", &format!("{ZONED}{BOUND}"), &["a", "b", "nowhere"], "");
    filters("VolumeRestrictions", ZONED, &[], "1 persistentvolumeclaim \"data\" not found");
}

#[test]
fn a_disk_is_shared_on_a_node_only_for_reading() {
    let disk = |name: &str, node: &str, read_only: bool| {
        format!(
            "{{metadata: {{name: {name}}}, spec: {{nodeName: {node}, containers: [], volumes: [{{name: d, gcePersistentDisk: {{pdName: d, readOnly: {read_only}}}}}]}}}}"
        )
    };
    let scene = |placed, incoming| {
        let (placed, pod) = (disk("p", "a", placed), disk("i", "''", incoming));
        format!("{TWO}placed: [{placed}]\npod: {pod}")
    };
    filters("VolumeRestrictions", &scene(true, false), &["b"], "1 node(s) had no available disk");
    filters("VolumeRestrictions", &scene(true, true), &["a", "b"], "");
}

#[test]
fn no_driver_attaches_more_volumes_than_it_can() {
    let scene = |limit: i32, attached: &str| {
        format!(
            "{ZONED}{BOUND}
volumes: [{{metadata: {{name: v}}, spec: {{csi: {{driver: disk.example.com, volumeHandle: h}}}}}},
  {{metadata: {{name: other}}, spec: {{csi: {{driver: disk.example.com, volumeHandle: o}}}}}}]
csiNodes: [{{metadata: {{name: a}}, spec: {{drivers: [{{name: disk.example.com, nodeID: a, allocatable: {{count: {limit}}}}}]}}}}]
attachments: [{{metadata: {{name: x}}, spec: {{attacher: disk.example.com, nodeName: a, source: {{persistentVolumeName: {attached}}}}}}}]"
        )
    };
    let said = "1 node(s) exceed max volume count";
    filters("NodeVolumeLimits", &scene(1, "other"), &["b", "nowhere"], said);
    filters("NodeVolumeLimits", &scene(2, "other"), &["a", "b", "nowhere"], "");
    // The volume is there already: one more user makes no difference.
    filters("NodeVolumeLimits", &scene(1, "v"), &["a", "b", "nowhere"], "");
}

#[test]
fn a_driver_that_publishes_its_room_must_have_enough() {
    let scene = |room: &str| {
        format!(
            "{ZONED}
claims: [{{metadata: {{name: data}}, spec: {{storageClassName: late, resources: {{requests: {{storage: 5Gi}}}}}}}}]
classes: [{{metadata: {{name: late}}, provisioner: disk.example.com, volumeBindingMode: WaitForFirstConsumer}}]
csiDrivers: [{{metadata: {{name: disk.example.com}}, spec: {{storageCapacity: true}}}}]
capacities: [{{metadata: {{name: c, namespace: default}}, storageClassName: late, capacity: {room}, nodeTopology: {{matchLabels: {{topology.kubernetes.io/zone: one}}}}}}]"
        )
    };
    let short = |nodes| format!("{nodes} node(s) did not have enough free storage");
    filters("VolumeBinding", &scene("10Gi"), &["a"], &short(2));
    filters("VolumeBinding", &scene("1Gi"), &[], &short(3));
}
