//! The Pod Security Standards: which control holds at which level, from which release on.
//!
//! Level and version + pod -> violations, in upstream's order. Counterpart: `pod-security-admission/policy/registry.go`.

use super::controls::{self as c, Control, Pod};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A release of the standard by its minor version; none is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(Option<u32>);

/// A level as of a release. Prints as `baseline:v1.24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    pub version: Version,
}

/// One form of a control. A later one of the same name takes its place, and a restricted one the place of what it `replaces`.
struct Rule {
    name: &'static str,
    from: u32,
    control: Control,
    replaces: &'static str,
}

const fn rule(name: &'static str, from: u32, control: Control) -> Rule {
    Rule { name, from, control, replaces: "" }
}

const fn replacing(
    name: &'static str,
    from: u32,
    control: Control,
    replaces: &'static str,
) -> Rule {
    Rule { name, from, control, replaces }
}

/// In the order violations are reported.
const BASELINE: &[Rule] = &[
    rule("appArmorProfile", 0, c::app_armor),
    rule("capabilities_baseline", 0, c::capabilities_baseline),
    rule("hostNamespaces", 0, c::host_namespaces),
    rule("hostPathVolumes", 0, c::host_path),
    rule("hostPorts", 0, c::host_ports),
    rule("hostProbesAndHostLifecycle", 34, c::probe_hosts),
    rule("privileged", 0, c::privileged),
    rule("procMount", 0, c::proc_mount),
    rule("procMount", 35, |pod| c::unless_user_namespace(pod, c::proc_mount)),
    rule("seLinuxOptions", 0, c::se_linux::<0>),
    rule("seLinuxOptions", 31, c::se_linux::<31>),
    rule("seccompProfile_baseline", 0, c::seccomp_annotations),
    rule("seccompProfile_baseline", 19, c::seccomp_baseline),
    rule("sysctls", 0, c::sysctls::<0>),
    rule("sysctls", 27, c::sysctls::<27>),
    rule("sysctls", 29, c::sysctls::<29>),
    rule("sysctls", 32, c::sysctls::<32>),
    rule("windowsHostProcess", 0, c::host_process),
];

/// Reported after what baseline finds.
const RESTRICTED: &[Rule] = &[
    rule("allowPrivilegeEscalation", 8, c::allow_privilege_escalation),
    rule("allowPrivilegeEscalation", 25, |pod| {
        c::unless_windows(pod, c::allow_privilege_escalation)
    }),
    replacing("capabilities_restricted", 22, c::capabilities_restricted, "capabilities_baseline"),
    replacing(
        "capabilities_restricted",
        25,
        |pod| c::unless_windows(pod, c::capabilities_restricted),
        "capabilities_baseline",
    ),
    replacing("procMount_restricted", 35, c::proc_mount, "procMount"),
    replacing("restrictedVolumes", 0, c::volume_types, "hostPathVolumes"),
    rule("runAsNonRoot", 0, c::run_as_non_root),
    rule("runAsNonRoot", 35, |pod| c::unless_user_namespace(pod, c::run_as_non_root)),
    rule("runAsUser", 23, c::run_as_root),
    rule("runAsUser", 35, |pod| c::unless_user_namespace(pod, c::run_as_root)),
    replacing("seccompProfile_restricted", 19, c::seccomp_restricted, "seccompProfile_baseline"),
    replacing(
        "seccompProfile_restricted",
        25,
        |pod| c::unless_windows(pod, c::seccomp_restricted),
        "seccompProfile_baseline",
    ),
];

// === impl Level ===

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    pub fn read(text: &str) -> Option<Level> {
        let all = [Level::Privileged, Level::Baseline, Level::Restricted];
        all.into_iter().find(|level| level.name() == text)
    }
}

// === impl Version ===

impl Version {
    pub const LATEST: Version = Version(None);

    /// `latest`, or `v1.` and a number written as Go would.
    pub fn read(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::LATEST);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor.bytes().all(|byte| byte.is_ascii_digit())
            && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(|minor| Version(Some(minor)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(minor) => write!(f, "v1.{minor}"),
            None => f.write_str("latest"),
        }
    }
}

// === impl Standard ===

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.level.name(), self.version)
    }
}

impl Standard {
    /// What the standard objects to, each as `reason (detail)`.
    pub fn violations(&self, pod: &Pod<'_>) -> Vec<String> {
        self.rules().into_iter().filter_map(|rule| (rule.control)(pod)).collect()
    }

    fn rules(&self) -> Vec<&'static Rule> {
        let minor = self.version.0.unwrap_or(u32::MAX);
        let current = |rules: &'static [Rule]| {
            let known = rules.iter().filter(move |rule| rule.from <= minor);
            known.clone().filter(move |rule| {
                !known.clone().any(|other| other.name == rule.name && other.from > rule.from)
            })
        };
        match self.level {
            Level::Privileged => Vec::new(),
            Level::Baseline => current(BASELINE).collect(),
            Level::Restricted => {
                let own: Vec<&Rule> = current(RESTRICTED).collect();
                let kept = |rule: &&Rule| !own.iter().any(|other| other.replaces == rule.name);
                current(BASELINE).filter(kept).chain(own.iter().copied()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(level: Level, version: &str, spec: Value) -> Vec<String> {
        let version = Version::read(version).expect("a version");
        let pod = Pod { metadata: &Value::Null, spec: &spec };
        Standard { level, version }.violations(&pod)
    }

    fn check(level: Level, spec: Value, expected: &[&str]) {
        assert_eq!(found(level, "latest", spec), expected);
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
        let bare = json!({ "containers": [{ "name": "c" }] });
        assert_eq!(found(Level::Restricted, "latest", bare.clone()).len(), 4);
        assert_eq!(found(Level::Restricted, "v1.21", bare.clone()).len(), 3, "no capabilities yet");
        assert_eq!(found(Level::Restricted, "v1.7", bare.clone()).len(), 1, "only runAsNonRoot");
    }

    #[test]
    fn releases_differ_in_what_they_allow() {
        let sysctl = json!({ "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem", "value": "1" }] } });
        check(Level::Baseline, sysctl.clone(), &[]);
        let old = found(Level::Baseline, "v1.31", sysctl);
        assert_eq!(old, ["forbidden sysctls (net.ipv4.tcp_rmem)"]);
        let probing = json!({ "containers": [{ "name": "c", "livenessProbe": { "tcpSocket": { "host": "10.0.0.1", "port": 1 } } }] });
        assert_eq!(found(Level::Baseline, "v1.33", probing.clone()), Vec::<String>::new());
        let why =
            r#"probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")"#;
        check(Level::Baseline, probing, &[why]);
        let remapped = json!({ "hostUsers": false, "containers": [{ "name": "c", "securityContext": { "procMount": "Unmasked" } }] });
        check(Level::Baseline, remapped.clone(), &[]);
        assert_eq!(found(Level::Baseline, "v1.34", remapped).len(), 1);
    }

    #[test]
    fn versions_are_written_one_way() {
        for (text, fine) in [
            ("latest", true),
            ("v1.0", true),
            ("v1.36", true),
            ("v1.01", false),
            ("v2.0", false),
            ("1.2", false),
        ] {
            assert_eq!(Version::read(text).is_some(), fine, "{text}");
        }
    }
}
