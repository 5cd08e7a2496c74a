//! What was once let in, or refused in other words than upstream's.

use crate::kinds::at::tests::{check, check_status};

const CLAIMS: &str = "resource.k8s.io/v1/resourceclaims";
const CLASSES: &str = "resource.k8s.io/v1/deviceclasses";
const SLICES: &str = "resource.k8s.io/v1/resourceslices";
const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

fn claim(request: &str, rest: &str) -> String {
    format!("spec: {{devices: {{requests: [{{name: a, {request}}}]{rest}}}}}")
}

fn slice(devices: &str) -> String {
    format!(
        "spec: {{driver: d.example.com, pool: {{name: p, generation: 1, resourceSliceCount: 1}}, nodeName: node, devices: [{devices}]}}"
    )
}

#[test]
fn selectors_were_not_compiled() {
    let check_selector = |expression: &str, faults: &[&str]| {
        let class = format!("spec: {{selectors: [{{cel: {{expression: '{expression}'}}}}]}}");
        check(CLASSES, &class, faults);
    };
    check_selector(r#"device.attributes["a.com"].model == "x""#, &[]);
    check_selector(
        r#"device.capacity["a.com"].memory.isGreaterThan(quantity("1Gi")) && device.allowMultipleAllocations"#,
        &[],
    );
    check_selector(r#"device.attributes["a.com"].ready"#, &[]);
    check_selector(r#"cel.bind(a, device.attributes["a.com"], a.x && a.y)"#, &[]);
    check_selector(
        "device.nonsense",
        &[
            "spec.selectors[0].cel.expression: Invalid value: \"device.nonsense\": compilation failed: ERROR: <input>:1:7: undefined field 'nonsense'\n | device.nonsense\n | ......^",
        ],
    );
    check_selector(
        "device.driver",
        &[
            r#"spec.selectors[0].cel.expression: Invalid value: "device.driver": must evaluate to bool or the unknown type, not string"#,
        ],
    );
    let long = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a == b && c == d))))";
    check_selector(
        long,
        &["spec.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"],
    );
}

#[test]
fn configurations_and_tolerations_of_claims_were_not_looked_at() {
    let exactly = |rest: &str| format!("exactly: {{deviceClassName: c{rest}}}");
    check(CLAIMS, &claim(&exactly(""), ""), &[]);
    check(
        CLAIMS,
        &claim(
            &exactly(", tolerations: [{key: k, operator: Exists, value: v, effect: Never}]"),
            "",
        ),
        &[
            r#"spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: "v": must be empty for operator `Exists`"#,
            r#"spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: "Never": supported values: "NoExecute", "NoSchedule", "None""#,
        ],
    );
    let config = ", config: [{requests: [b, b], opaque: {driver: d.example.com, parameters: [1]}}]";
    let unknown =
        |at| format!("spec.devices.config[0].requests[{at}]: Invalid value: \"b\": {UNKNOWN}");
    check(
        CLAIMS,
        &claim(&exactly(""), config),
        &[
            &unknown(0),
            &unknown(1),
            r#"spec.devices.config[0].requests[1]: Duplicate value: "b""#,
            r#"spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object"#,
        ],
    );
    check(CLAIMS, &claim(&exactly(""), ", constraints: [{matchAttribute: 1a/b}]"), &[]);
}

#[test]
fn an_allocation_could_change_and_name_what_was_not_asked_for() {
    let status = |old: &str, new: &str, faults: &[&str]| {
        let claim = |status: &str| {
            let spec = claim("exactly: {deviceClassName: c}", "");
            format!("{spec}\nstatus: {{{status}}}")
        };
        check_status(CLAIMS, &claim(old), &claim(new), faults);
    };
    let allocation = |request: &str, device: &str| {
        format!(
            "allocation: {{devices: {{results: [{{request: {request}, driver: d.example.com, pool: p, device: {device}}}]}}}}"
        )
    };
    status("", &allocation("a", "one"), &[]);
    let unknown =
        format!("status.allocation.devices.results[0].request: Invalid value: \"b\": {UNKNOWN}");
    status("", &allocation("b", "one"), &[&unknown]);
    let changed = r#"status.allocation: Invalid value: {"Devices":{"Results":[{"Request":"a","Driver":"d.example.com","Pool":"p","Device":"two","AdminAccess":null,"Tolerations":null,"BindingConditions":null,"BindingFailureConditions":null,"ShareID":null,"ConsumedCapacity":null}],"Config":null},"NodeSelector":null,"AllocationTimestamp":null}: field is immutable"#;
    status(&allocation("a", "one"), &allocation("a", "two"), &[changed]);
    let device = "devices: [{driver: d.example.com, pool: p, device: one}]";
    status("", &format!("{}, {device}", allocation("a", "one")), &[]);
    let other = "status.devices[0]: Invalid value: {\"Driver\":\"d.example.com\",\"Pool\":\"p\",\"Device\":\"one\",\"ShareID\":\"\"}: must be an allocated device in the claim";
    status("", &format!("{}, {device}", allocation("a", "two")), &[other]);
    let user = "reservedFor: [{resource: pods, name: p, uid: u}]";
    status(
        "",
        user,
        &["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"],
    );
}

#[test]
fn devices_of_slices_were_let_in_by_their_name_alone() {
    check(SLICES, &slice("{name: a, attributes: {model: {string: x}}}"), &[]);
    check(
        SLICES,
        &slice(
            "{name: a, attributes: {1x: {version: '1'}, z: {}}, nodeName: node, bindingConditions: [c, c]}",
        ),
        &[
            r#"spec.devices[0].attributes: Invalid value: "1x": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"#,
            r#"spec.devices[0].attributes[1x].version: Invalid value: "1": must be a string compatible with semver.org spec 2.0.0"#,
            r#"spec.devices[0].attributes[z]: Invalid value: "": exactly one value must be specified"#,
            "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            r#"spec.devices[0].bindingConditions[1]: Duplicate value: "c""#,
            "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
        ],
    );
    check(
        SLICES,
        &slice(
            "{name: a, allowMultipleAllocations: true, capacity: {m: {value: 4Gi, requestPolicy: {default: 1Gi, validRange: {min: 2Gi, max: 5Gi, step: 2Gi}}}}}",
        ),
        &[
            r#"spec.devices[0].capacity[m].requestPolicy.validRange.min: Invalid value: "1Gi": default is less than min: 2Gi"#,
            r#"spec.devices[0].capacity[m].requestPolicy.validRange.max: Invalid value: "5Gi": max is larger than capacity value: 4Gi"#,
            r#"spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: "1Gi": value is not a multiple of a given step (2Gi) from (2Gi)"#,
            r#"spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: "5Gi": value is not a multiple of a given step (2Gi) from (2Gi)"#,
        ],
    );
}
