//! What each control of the Pod Security Standards finds in a pod.
//!
//! Pod -> `reason (detail)`, or nothing. Counterpart: `pod-security-admission/policy/check_*.go`. Which control
//! applies at which level and version is the table in `standard.rs`.

use std::collections::BTreeSet;

use serde_json::Value;

pub type Control = fn(&Pod<'_>) -> Option<String>;

/// A pod, or a template of one.
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
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

    fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.metadata["annotations"].as_object().into_iter().flatten();
        all.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
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
    list.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ")
}

pub fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let used =
        ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

pub fn privileged(pod: &Pod<'_>) -> Option<String> {
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

pub fn capabilities_baseline(pod: &Pod<'_>) -> Option<String> {
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

pub fn capabilities_restricted(pod: &Pod<'_>) -> Option<String> {
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

pub fn host_path(pod: &Pod<'_>) -> Option<String> {
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

pub fn host_ports(pod: &Pod<'_>) -> Option<String> {
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

/// Annotations of older clients count as much as the fields.
pub fn app_armor(pod: &Pod<'_>) -> Option<String> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let (mut who, mut values) = setters(pod, "/appArmorProfile/type", |text| {
        !matches!(text, "RuntimeDefault" | "Localhost")
    });
    let allowed =
        |text: &str| matches!(text, "" | "runtime/default") || text.starts_with("localhost/");
    let annotations = pod.annotations().filter(|(key, _)| key.starts_with(ANNOTATION));
    let annotations = annotations.filter(|(_, text)| !allowed(text));
    let mut forbidden: Vec<String> =
        annotations.map(|(key, text)| format!("{key}={text:?}")).collect();
    forbidden.sort();
    if !forbidden.is_empty() {
        who.push(plural("annotation", forbidden.len()));
        values.extend(forbidden);
    }
    (!who.is_empty()).then(|| {
        format!(
            "forbidden AppArmor {} ({} must not set AppArmor profile type to {})",
            plural("profile", values.len()),
            who.join(" and "),
            quoted(&values)
        )
    })
}

const SE_LINUX_TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t"];

/// Engines in containers came with 1.31.
pub fn se_linux<const MINOR: u32>(pod: &Pod<'_>) -> Option<String> {
    let allowed = |text: &str| {
        SE_LINUX_TYPES.contains(&text) || (MINOR >= 31 && text == "container_engine_t")
    };
    let (by_type, types) = setters(pod, "/seLinuxOptions/type", |text| !allowed(text));
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

pub fn proc_mount(pod: &Pod<'_>) -> Option<String> {
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

pub fn seccomp_baseline(pod: &Pod<'_>) -> Option<String> {
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

pub fn seccomp_restricted(pod: &Pod<'_>) -> Option<String> {
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

/// Minor version from which each is safe.
const SAFE_SYSCTLS: &[(u32, &[&str])] = &[
    (
        0,
        &[
            "kernel.shm_rmid_forced",
            "net.ipv4.ip_local_port_range",
            "net.ipv4.ip_unprivileged_port_start",
            "net.ipv4.tcp_syncookies",
            "net.ipv4.ping_group_range",
        ],
    ),
    (27, &["net.ipv4.ip_local_reserved_ports"]),
    (
        29,
        &[
            "net.ipv4.tcp_keepalive_time",
            "net.ipv4.tcp_fin_timeout",
            "net.ipv4.tcp_keepalive_intvl",
            "net.ipv4.tcp_keepalive_probes",
        ],
    ),
    (32, &["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]),
];

pub fn sysctls<const MINOR: u32>(pod: &Pod<'_>) -> Option<String> {
    let known = SAFE_SYSCTLS.iter().filter(|(from, _)| *from <= MINOR);
    let safe: Vec<&str> = known.flat_map(|(_, names)| names.iter().copied()).collect();
    let all = pod.context()["sysctls"].as_array().into_iter().flatten();
    let all = all.filter_map(|sysctl| sysctl["name"].as_str());
    let bad: Vec<&str> = all.filter(|name| !safe.contains(name)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

pub fn host_process(pod: &Pod<'_>) -> Option<String> {
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

pub fn allow_privilege_escalation(pod: &Pod<'_>) -> Option<String> {
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

pub fn volume_types(pod: &Pod<'_>) -> Option<String> {
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

pub fn run_as_non_root(pod: &Pod<'_>) -> Option<String> {
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

pub fn run_as_root(pod: &Pod<'_>) -> Option<String> {
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

/// Before there were fields, annotations chose the profile.
pub fn seccomp_annotations(pod: &Pod<'_>) -> Option<String> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let allowed = |text: &str| {
        matches!(text, "runtime/default" | "docker/default") || text.starts_with("localhost/")
    };
    let concerns = |key: &str| {
        let of = key.strip_prefix(CONTAINER);
        key == POD || pod.containers().any(|container| of.is_some_and(|of| container["name"] == of))
    };
    let bad = pod.annotations().filter(|(key, text)| concerns(key) && !allowed(text));
    let mut bad: Vec<String> = bad.map(|(key, text)| format!("{key}={text:?}")).collect();
    bad.sort();
    (!bad.is_empty()).then(|| {
        format!("seccompProfile (forbidden {} {})", plural("annotation", bad.len()), bad.join(", "))
    })
}

/// A probe or hook of another host is a way to look around from the node.
pub fn probe_hosts(pod: &Pod<'_>) -> Option<String> {
    let mut names = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for container in pod.containers() {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
        let probes = probes.iter().map(|field| &container[*field]);
        let hooks = ["postStart", "preStop"].iter().map(|field| &container["lifecycle"][*field]);
        for handler in probes.chain(hooks) {
            let asked = ["httpGet", "tcpSocket"].iter();
            let asked = asked.filter_map(|way| handler[*way]["host"].as_str());
            for host in asked.filter(|host| !host.is_empty()) {
                hosts.insert(host.to_owned());
                names.insert(container["name"].as_str().unwrap_or("").to_owned());
            }
        }
    }
    let (names, hosts): (Vec<String>, Vec<String>) =
        (names.into_iter().collect(), hosts.into_iter().collect());
    (!names.is_empty()).then(|| {
        format!(
            "probe or lifecycle host ({} {} {} {} {})",
            plural("container", names.len()),
            quoted(&names),
            if names.len() == 1 { "uses" } else { "use" },
            plural("probe or lifecycle host", hosts.len()),
            quoted(&hosts)
        )
    })
}

// === relaxations ===

/// In a user namespace of its own, root is nobody and /proc its own.
pub fn unless_user_namespace(pod: &Pod<'_>, control: Control) -> Option<String> {
    if pod.spec["hostUsers"] == false { None } else { control(pod) }
}

/// Windows knows no capabilities, privilege escalation or seccomp.
pub fn unless_windows(pod: &Pod<'_>, control: Control) -> Option<String> {
    if pod.spec["os"]["name"] == "windows" { None } else { control(pod) }
}
