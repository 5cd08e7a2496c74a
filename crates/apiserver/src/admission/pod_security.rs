//! PodSecurity: the three Pod Security Standards, chosen by labels of the namespace.
//!
//! Namespace labels -> level per mode; pod -> violations. `enforce` refuses pods, `warn` warns about pods and about what makes
//! them. Counterpart: `k8s.io/pod-security-admission`. The checks are in [`BASELINE`] and [`RESTRICTED`]: one function
//! per control, in the order violations are reported. Every version of the standard is judged as `latest`.

use futures::future::BoxFuture;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::meta;

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct PodSecurity;

const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        if request.operation == Operation::Delete {
            return false;
        }
        let pods = request.is("", "pods")
            || (request.kind.resource == "pods" && request.subresource == "ephemeralcontainers");
        pods || request.is("", "namespaces")
            || (request.subresource.is_empty() && template_pointer(request).is_some())
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            match request.kind.resource.as_str() {
                "namespaces" => check_labels(object),
                "pods" => on_pod(request, object).await,
                _ => on_template(request, object).await,
            }
        })
    }
}

async fn on_pod(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    // What a change leaves as it was needs no new permission.
    if request.old.is_some_and(|old| old["spec"] == pod["spec"]) {
        return Ok(());
    }
    let Some(namespace) =
        objects::find(request.server, "namespaces", "", request.namespace).await?
    else {
        return Ok(());
    };
    let (level, version) = chosen(&namespace, "enforce");
    let found = violations(&pod["spec"], level);
    if !found.is_empty() {
        let why =
            format!("violates PodSecurity \"{}:{version}\": {}", level.name(), found.join(", "));
        return Err(request.forbidden(pod, &why));
    }
    warn(request, &namespace, &pod["spec"]);
    Ok(())
}

async fn on_template(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let Some(template) = template_pointer(request).and_then(|pointer| object.pointer(pointer))
    else {
        return Ok(());
    };
    let Some(namespace) =
        objects::find(request.server, "namespaces", "", request.namespace).await?
    else {
        return Ok(());
    };
    warn(request, &namespace, &template["spec"]);
    Ok(())
}

fn warn(request: &Request<'_>, namespace: &Value, spec: &Value) {
    let (level, version) = chosen(namespace, "warn");
    let found = violations(spec, level);
    if !found.is_empty() {
        request.call.warn(format!(
            "would violate PodSecurity \"{}:{version}\": {}",
            level.name(),
            found.join(", ")
        ));
    }
}

/// Where a workload keeps its pod template.
fn template_pointer(request: &Request<'_>) -> Option<&'static str> {
    match (request.kind.group.as_str(), request.kind.resource.as_str()) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs")
        | ("", "replicationcontrollers") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        ("", "podtemplates") => Some("/template"),
        _ => None,
    }
}

// === levels ===

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    fn read(text: &str) -> Option<Level> {
        [Level::Privileged, Level::Baseline, Level::Restricted]
            .into_iter()
            .find(|level| level.name() == text)
    }
}

/// Level and version of a mode; a value that is no level is the strictest, as nobody knows what was meant.
fn chosen(namespace: &Value, mode: &str) -> (Level, String) {
    let label = |key: String| meta(namespace).label(&key).unwrap_or("").to_owned();
    let level = match label(format!("{PREFIX}{mode}")).as_str() {
        "" => Level::Privileged,
        text => Level::read(text).unwrap_or(Level::Restricted),
    };
    let version = label(format!("{PREFIX}{mode}-version"));
    (level, if version.is_empty() { "latest".to_owned() } else { version })
}

fn check_labels(namespace: &Value) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let at = Path::new("metadata");
    let at = at.child("labels");
    for mode in ["enforce", "audit", "warn"] {
        let (level, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
        if let Some(text) = meta(namespace).label(&level).filter(|text| Level::read(text).is_none())
        {
            errors.invalid(
                &at.key(&level),
                text,
                "must be one of privileged, baseline, restricted",
            );
        }
        if let Some(text) = meta(namespace).label(&version).filter(|text| !is_version(text)) {
            errors.invalid(&at.key(&version), text, "must be \"latest\" or \"v1.x\"");
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(
            &skiff_api::GroupKind::new("", "Namespace"),
            meta(namespace).name(),
            errors,
        )),
    }
}

fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("v1.");
    text == "latest"
        || minor.is_some_and(|minor| {
            !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())
        })
}

// === controls ===

struct Pod<'a> {
    spec: &'a Value,
}

type Control = fn(&Pod<'_>) -> Option<String>;

const BASELINE: &[Control] = &[
    host_namespaces,
    privileged,
    capabilities_baseline,
    host_path,
    host_ports,
    app_armor,
    se_linux,
    proc_mount,
    seccomp_baseline,
    sysctls,
    host_process,
];

/// What `restricted` asks beyond `baseline`; capabilities and seccomp replace their weaker forms.
const RESTRICTED: &[Control] = &[
    host_namespaces,
    privileged,
    host_path,
    host_ports,
    app_armor,
    se_linux,
    sysctls,
    host_process,
    allow_privilege_escalation,
    capabilities_restricted,
    proc_mount_any,
    volume_types,
    run_as_non_root,
    run_as_root,
    seccomp_restricted,
];

fn violations(spec: &Value, level: Level) -> Vec<String> {
    let controls = match level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => BASELINE,
        Level::Restricted => RESTRICTED,
    };
    let pod = Pod { spec };
    controls.iter().filter_map(|control| control(&pod)).collect()
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        let lists = ["initContainers", "containers", "ephemeralContainers"].into_iter();
        lists.flat_map(move |list| spec[list].as_array().into_iter().flatten())
    }

    /// Names, quoted, of the containers that are at fault.
    fn at_fault(&self, fault: impl Fn(&Value) -> bool) -> Vec<String> {
        self.containers()
            .filter(|container| fault(container))
            .map(|container| format!("{:?}", container["name"].as_str().unwrap_or("")))
            .collect()
    }

    fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }
}

/// `container "a"`, or `containers "a", "b"`.
fn containers(names: &[String]) -> String {
    format!("{} {}", plural("container", names.len()), names.join(", "))
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn quoted(list: &[String]) -> String {
    list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
}

fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let used =
        ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    let bad = pod.at_fault(|container| container["securityContext"]["privileged"] == true);
    (!bad.is_empty()).then(|| {
        format!("privileged ({} must not set securityContext.privileged=true)", containers(&bad))
    })
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container["securityContext"]["capabilities"]["add"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<String> {
    let foreign = |capability: &&str| !DEFAULT_CAPABILITIES.contains(capability);
    let bad = pod.at_fault(|container| added(container).any(|capability| foreign(&capability)));
    let mut named: Vec<String> =
        pod.containers().flat_map(added).filter(foreign).map(str::to_owned).collect();
    named.sort();
    named.dedup();
    (!bad.is_empty()).then(|| {
        format!(
            "non-default capabilities ({} must not include {} in securityContext.capabilities.add)",
            containers(&bad),
            quoted(&named)
        )
    })
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<String> {
    let drops_all = |container: &Value| {
        let dropped = container["securityContext"]["capabilities"]["drop"].as_array();
        dropped.is_some_and(|list| list.iter().any(|capability| capability == "ALL"))
    };
    let keeps = pod.at_fault(|container| !drops_all(container));
    let adds = pod
        .at_fault(|container| added(container).any(|capability| capability != "NET_BIND_SERVICE"));
    let mut named: Vec<String> = pod
        .containers()
        .flat_map(added)
        .filter(|name| *name != "NET_BIND_SERVICE")
        .map(str::to_owned)
        .collect();
    named.sort();
    named.dedup();
    let mut why = Vec::new();
    if !keeps.is_empty() {
        why.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers(&keeps)
        ));
    }
    if !adds.is_empty() {
        why.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adds),
            quoted(&named)
        ));
    }
    (!why.is_empty()).then(|| format!("unrestricted capabilities ({})", why.join("; ")))
}

fn host_path(pod: &Pod<'_>) -> Option<String> {
    let volumes = pod.spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| volume["hostPath"].is_object());
    let names: Vec<String> =
        volumes.map(|volume| format!("{:?}", volume["name"].as_str().unwrap_or(""))).collect();
    (!names.is_empty()).then(|| {
        format!("hostPath volumes ({} {})", plural("volume", names.len()), names.join(", "))
    })
}

fn host_ports(pod: &Pod<'_>) -> Option<String> {
    let ports = |container: &Value| -> Vec<String> {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports
            .filter_map(|port| port["hostPort"].as_u64())
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect()
    };
    let bad = pod.at_fault(|container| !ports(container).is_empty());
    let mut all: Vec<String> = pod.containers().flat_map(ports).collect();
    all.sort();
    all.dedup();
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    (!bad.is_empty()).then(|| {
        format!(
            "hostPort ({} {verb} {} {})",
            containers(&bad),
            plural("hostPort", all.len()),
            all.join(", ")
        )
    })
}

/// Who sets a field of the security context to something that is not allowed: the pod, containers, and to what.
fn setters(pod: &Pod<'_>, pointer: &str, bad: impl Fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
    let value = |context: &Value| {
        context.pointer(pointer).and_then(Value::as_str).filter(|text| bad(text)).map(str::to_owned)
    };
    let own = value(pod.context());
    let names = pod.at_fault(|container| value(&container["securityContext"]).is_some());
    let mut values: Vec<String> = own
        .iter()
        .cloned()
        .chain(pod.containers().filter_map(|container| value(&container["securityContext"])))
        .collect();
    values.sort();
    values.dedup();
    let mut who = Vec::new();
    if own.is_some() {
        who.push("pod".to_owned());
    }
    if !names.is_empty() {
        who.push(containers(&names));
    }
    (who, values)
}

fn app_armor(pod: &Pod<'_>) -> Option<String> {
    let (who, values) = setters(pod, "/appArmorProfile/type", |text| {
        !matches!(text, "RuntimeDefault" | "Localhost")
    });
    let what = plural("profile type", values.len());
    (!who.is_empty()).then(|| {
        format!(
            "forbidden AppArmor {} ({} must not set AppArmor {what} to {})",
            plural("profile", values.len()),
            who.join(" and "),
            quoted(&values)
        )
    })
}

const SE_LINUX_TYPES: &[&str] =
    &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn se_linux(pod: &Pod<'_>) -> Option<String> {
    let (by_type, types) =
        setters(pod, "/seLinuxOptions/type", |text| !SE_LINUX_TYPES.contains(&text));
    let (by_user, _) = setters(pod, "/seLinuxOptions/user", |text| !text.is_empty());
    let (by_role, _) = setters(pod, "/seLinuxOptions/role", |text| !text.is_empty());
    let mut who: Vec<String> = Vec::new();
    for one in by_type.iter().chain(&by_user).chain(&by_role) {
        if !who.contains(one) {
            who.push(one.clone());
        }
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    if !by_user.is_empty() {
        what.push("user may not be set".to_owned());
    }
    if !by_role.is_empty() {
        what.push("role may not be set".to_owned());
    }
    (!who.is_empty()).then(|| {
        format!(
            "seLinuxOptions ({} set forbidden securityContext.seLinuxOptions: {})",
            who.join(" and "),
            what.join("; ")
        )
    })
}

/// In a user namespace of its own, a pod may see the whole of /proc.
fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    if pod.spec["hostUsers"] == false { None } else { proc_mount_any(pod) }
}

fn proc_mount_any(pod: &Pod<'_>) -> Option<String> {
    let value = |container: &Value| {
        container["securityContext"]["procMount"]
            .as_str()
            .filter(|text| *text != "Default")
            .map(str::to_owned)
    };
    let bad = pod.at_fault(|container| value(container).is_some());
    let mut values: Vec<String> = pod.containers().filter_map(value).collect();
    values.sort();
    values.dedup();
    (!bad.is_empty()).then(|| {
        format!(
            "procMount ({} must not set securityContext.procMount to {})",
            containers(&bad),
            quoted(&values)
        )
    })
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<String> {
    let (who, values) = setters(pod, "/seccompProfile/type", |text| {
        !matches!(text, "RuntimeDefault" | "Localhost")
    });
    (!who.is_empty()).then(|| {
        format!(
            "seccompProfile ({} must not set securityContext.seccompProfile.type to {})",
            who.join(" and "),
            quoted(&values)
        )
    })
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<String> {
    if let Some(weaker) = seccomp_baseline(pod) {
        return Some(weaker);
    }
    let set = |context: &Value| context["seccompProfile"]["type"].is_string();
    if set(pod.context()) {
        return None;
    }
    let bad = pod.at_fault(|container| !set(&container["securityContext"]));
    (!bad.is_empty()).then(|| {
        format!("seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")", containers(&bad))
    })
}

const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod<'_>) -> Option<String> {
    let all = pod.context()["sysctls"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|sysctl| sysctl["name"].as_str());
    let bad: Vec<&str> = all.filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let set = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = pod.at_fault(|container| set(&container["securityContext"]));
    let mut who = Vec::new();
    if set(pod.context()) {
        who.push("pod".to_owned());
    }
    if !names.is_empty() {
        who.push(containers(&names));
    }
    (!who.is_empty()).then(|| {
        format!(
            "hostProcess ({} must not set securityContext.windowsOptions.hostProcess=true)",
            who.join(" and ")
        )
    })
}

fn allow_privilege_escalation(pod: &Pod<'_>) -> Option<String> {
    let bad =
        pod.at_fault(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    (!bad.is_empty()).then(|| format!("allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)", containers(&bad)))
}

const SAFE_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volume_types(pod: &Pod<'_>) -> Option<String> {
    let (mut names, mut types) = (Vec::new(), Vec::new());
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        let sources = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, _)| field)
            .filter(|field| *field != "name");
        let bad: Vec<String> =
            sources.filter(|field| !SAFE_VOLUMES.contains(&field.as_str())).cloned().collect();
        if !bad.is_empty() {
            names.push(format!("{:?}", volume["name"].as_str().unwrap_or("")));
            types.extend(bad);
        }
    }
    types.sort();
    types.dedup();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    (!names.is_empty()).then(|| {
        format!(
            "restricted volume types ({} {} {verb} restricted volume {} {})",
            plural("volume", names.len()),
            names.join(", "),
            plural("type", types.len()),
            quoted(&types)
        )
    })
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<String> {
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let explicit = pod.at_fault(|container| container["securityContext"]["runAsNonRoot"] == false);
    let mut why = Vec::new();
    if pod.context()["runAsNonRoot"] == false {
        why.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    if !explicit.is_empty() {
        why.push(format!(
            "{} must not set securityContext.runAsNonRoot=false",
            containers(&explicit)
        ));
    }
    if why.is_empty() && pod.context()["runAsNonRoot"] != true {
        let silent = pod.at_fault(|container| container["securityContext"]["runAsNonRoot"] != true);
        if !silent.is_empty() {
            why.push(format!(
                "pod or {} must set securityContext.runAsNonRoot=true",
                containers(&silent)
            ));
        }
    }
    (!why.is_empty()).then(|| format!("runAsNonRoot != true ({})", why.join("; ")))
}

fn run_as_root(pod: &Pod<'_>) -> Option<String> {
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let names = pod.at_fault(|container| container["securityContext"]["runAsUser"] == 0);
    let mut who = Vec::new();
    if pod.context()["runAsUser"] == 0 {
        who.push("pod".to_owned());
    }
    if !names.is_empty() {
        who.push(containers(&names));
    }
    (!who.is_empty())
        .then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(level: Level, pod: Value, expected: &[&str]) {
        assert_eq!(violations(&pod, level), expected);
    }

    #[test]
    fn baseline_names_what_is_wrong_and_where() {
        let container = json!({ "name": "c" });
        check(Level::Baseline, json!({ "containers": [container] }), &[]);
        check(
            Level::Baseline,
            json!({ "hostPID": true, "hostIPC": true }),
            &["host namespaces (hostPID=true, hostIPC=true)"],
        );
        let net_raw = json!({ "name": "c", "securityContext": { "capabilities": { "add": ["NET_RAW", "CHOWN"] } } });
        let why = r#"non-default capabilities (container "c" must not include "NET_RAW" in securityContext.capabilities.add)"#;
        check(Level::Baseline, json!({ "containers": [net_raw] }), &[why]);
        check(Level::Privileged, json!({ "hostNetwork": true }), &[]);
    }

    #[test]
    fn restricted_asks_for_what_is_missing() {
        let pod = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "c", "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
        });
        check(Level::Restricted, pod, &[]);
        assert_eq!(
            violations(&json!({ "containers": [{ "name": "c" }] }), Level::Restricted).len(),
            4
        );
    }
}
