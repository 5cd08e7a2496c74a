//! Rules of PodSpecs as tables: what stands in the spec of a Pod, and the faults or warnings it has.

use crate::kinds::at::tests::{check, check_warnings};

const PATH: &str = "v1/pods";

/// A Pod with one plain container and more in its spec.
fn pod(more: &str) -> String {
    format!("metadata: {{name: p}}\nspec: {{containers: [{{name: c, image: i}}], {more}}}")
}

/// A Pod whose one container has more to say.
fn container(more: &str) -> String {
    format!("metadata: {{name: p}}\nspec: {{containers: [{{name: c, image: i, {more}}}]}}")
}

#[test]
fn resize_policies_are_reported_at_their_list() {
    check(
        PATH,
        &container("resizePolicy: [{resourceName: x, restartPolicy: z}, {resourceName: x}]"),
        &[
            "spec.containers[0].resizePolicy: Unsupported value: \"x\": supported values: \"cpu\", \"memory\"",
            "spec.containers[0].resizePolicy: Unsupported value: \"z\": supported values: \"NotRequired\", \"RestartContainer\"",
            "spec.containers[0].resizePolicy[1]: Duplicate value: \"x\"",
            "spec.containers[0].resizePolicy: Unsupported value: \"x\": supported values: \"cpu\", \"memory\"",
            "spec.containers[0].resizePolicy: Required value",
        ],
    );
}

#[test]
fn restart_rules_need_a_policy_and_exit_codes() {
    check(
        PATH,
        &container("restartPolicyRules: [{action: x}]"),
        &[
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"x\": supported values: \"Restart\", \"RestartAllContainers\"",
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
        ],
    );
}

#[test]
fn ephemeral_containers_do_without_most_fields() {
    check(
        PATH,
        &pod(
            "ephemeralContainers: [{name: c, image: i, ports: [{containerPort: 1}], targetContainerName: x}]",
        ),
        &[
            "spec.ephemeralContainers[0].name: Duplicate value: \"c\"",
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}

#[test]
fn sources_of_an_environment_are_counted_at_the_list() {
    check(
        PATH,
        &container("envFrom: [{}, {configMapRef: {name: a}, secretRef: {}}]"),
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            "spec.containers[0].envFrom[1].secretRef.name: Required value",
            "spec.containers[0].envFrom: Invalid value: \"\": may not have more than one field specified at a time",
        ],
    );
}

#[test]
fn claims_of_devices_are_named_once_and_used_by_name() {
    check(
        PATH,
        "spec: {containers: [{name: c, image: i, resources: {claims: [{name: b}, {name: a}, {name: a}]}}], resourceClaims: [{name: a, resourceClaimName: x}]}",
        &[
            "spec.containers[0].resources.claims[0]: Not found: \"b\": must be one of the names in pod.spec.resourceClaims: a",
            "spec.containers[0].resources.claims[2]: Duplicate value: \"a\"",
        ],
    );
}

#[test]
fn a_pod_asks_for_no_less_than_its_containers() {
    check(
        PATH,
        "spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 2}}}], resources: {requests: {cpu: 1, storage: 1}}}",
        &[
            "spec.resources.requests[storage]: Unsupported value: \"storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ],
    );
}

#[test]
fn a_second_source_of_a_volume_has_upstreams_name() {
    check(
        PATH,
        &pod(
            "volumes: [{name: v, hostPath: {path: /x}, cephfs: {monitors: [m]}, downwardAPI: {}}]",
        ),
        &[
            "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
        ],
    );
    check(
        PATH,
        &pod("volumes: [{name: v, gcePersistentDisk: {partition: 300}}]"),
        &[
            "spec.volumes[0].persistentDisk.pdName: Required value",
            "spec.volumes[0].persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive",
        ],
    );
}

#[test]
fn windows_users_have_a_form_of_their_own() {
    check(
        PATH,
        &pod("securityContext: {windowsOptions: {runAsUserName: 'a\\b\\c'}}"),
        &[
            "spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
        ],
    );
    check(
        PATH,
        &pod("securityContext: {windowsOptions: {runAsUserName: '..'}}"),
        &[
            "spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"..\": runAsUserName's User cannot contain only periods or spaces",
        ],
    );
}

#[test]
fn a_host_name_of_its_own_excludes_the_nodes() {
    check(
        PATH,
        &pod("hostNetwork: true, hostnameOverride: h"),
        &["spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true"],
    );
}

#[test]
fn label_keys_are_asked_for_one_way_only() {
    let term = "{topologyKey: t, labelSelector: {}, matchLabelKeys: [x], mismatchLabelKeys: [x]}";
    let affinity = format!(
        "affinity: {{podAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{term}]}}}}"
    );
    check(
        PATH,
        &pod(&affinity),
        &[
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid value: \"x\": exists in both matchLabelKeys and mismatchLabelKeys",
        ],
    );
}

#[test]
fn ports_that_meet_are_warned_of() {
    check_warnings(
        PATH,
        &container(
            "ports: [{containerPort: 80, hostIP: 10.0.0.1}, {containerPort: 80, hostPort: 80}, {containerPort: 80}]",
        ),
        &[
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}",
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
        ],
    );
}

#[test]
fn a_selector_that_is_not_there_selects_nothing() {
    check_warnings(
        PATH,
        &pod(
            "topologySpreadConstraints: [{maxSkew: 1, topologyKey: t, whenUnsatisfiable: DoNotSchedule}]",
        ),
        &[
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ],
    );
}

#[test]
fn templates_kept_fields_of_features_that_are_off() {
    let spec = "{initContainers: [{name: i, image: i, lifecycle: {stopSignal: SIGINT}}], containers: [{name: c, image: i}]}";
    let template = format!("{{metadata: {{labels: {{a: b}}}}, spec: {spec}}}");
    check(
        "apps/v1/deployments",
        &format!("spec: {{selector: {{matchLabels: {{a: b}}}}, template: {template}}}"),
        &[],
    );
}

#[test]
fn the_image_of_a_volume_may_be_left_out_of_a_template() {
    let spec = "{containers: [{name: c, image: i}], volumes: [{name: v, image: {}}]}";
    check("v1/podtemplates", &format!("template: {{spec: {spec}}}"), &[]);
    let fault = "spec.volumes[0].image.reference: Required value";
    check(
        PATH,
        &format!(
            "metadata: {{name: p}}
spec: {spec}"
        ),
        &[fault],
    );
}
