//! A seccomp profile in the OCI JSON form, as `Localhost` profiles are written.
//!
//! Counterpart: `LinuxSeccomp` of the OCI runtime specification. Actions that need a listener
//! (`SCMP_ACT_NOTIFY`) are refused. Names this kernel's table does not have are skipped, as
//! upstream does: they cannot be called by name anyway.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule,
};
use serde::{Deserialize, Serialize};

use super::{Rules, compile, number};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Syscalls>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

// === impl Profile ===

impl Profile {
    /// One program that sends everything unnamed to the default, and one for each action that is
    /// not `allow`.
    pub fn filters(&self) -> Result<Vec<BpfProgram>, String> {
        let default = action(&self.default_action, self.default_errno_ret)?;
        let mut by_action: Vec<(SeccompAction, Rules)> = Vec::new();
        let mut named = Rules::new();
        for group in &self.syscalls {
            let wanted = action(&group.action, group.errno_ret)?;
            if wanted == default {
                continue;
            }
            let at =
                by_action.iter().position(|(known, _)| *known == wanted).unwrap_or_else(|| {
                    by_action.push((wanted, Rules::new()));
                    by_action.len() - 1
                });
            group.add_to(&mut by_action[at].1)?;
            group.add_to(&mut named)?;
        }
        let mut filters = Vec::new();
        if default != SeccompAction::Allow {
            filters.push(compile(named, default, SeccompAction::Allow)?);
        }
        for (wanted, rules) in
            by_action.into_iter().filter(|(wanted, _)| *wanted != SeccompAction::Allow)
        {
            filters.push(compile(rules, SeccompAction::Allow, wanted)?);
        }
        Ok(filters)
    }
}

impl Syscalls {
    fn add_to(&self, rules: &mut Rules) -> Result<(), String> {
        let conditions =
            self.args.iter().flatten().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        for number in self.names.iter().filter_map(|name| number(name)) {
            match conditions.as_slice() {
                // Once unconditional, always so.
                [] => drop(rules.insert(number, vec![])),
                conditions => add_rule(rules, number, conditions)?,
            }
        }
        Ok(())
    }
}

fn add_rule(rules: &mut Rules, number: i64, conditions: &[SeccompCondition]) -> Result<(), String> {
    let rule = SeccompRule::new(conditions.to_vec()).map_err(|error| error.to_string())?;
    match rules.get_mut(&number) {
        Some(existing) if existing.is_empty() => {}
        Some(existing) => existing.push(rule),
        None => drop(rules.insert(number, vec![rule])),
    }
    Ok(())
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, String> {
        let (operator, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, self.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, self.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, self.value),
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, self.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, self.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, self.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
            other => return Err(format!("operator {other:?} is not known")),
        };
        SeccompCondition::new(self.index, SeccompCmpArgLen::Qword, operator, value)
            .map_err(|error| error.to_string())
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, String> {
    const EPERM: u32 = 1;
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(EPERM)),
        other => return Err(format!("action {other:?} is not supported")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(json: &str) -> Result<usize, String> {
        let profile: Profile = serde_json::from_str(json).unwrap();
        profile.filters().map(|filters| filters.len())
    }

    #[test]
    fn profiles_become_stacks() {
        for (json, programs) in [
            (r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#, 0),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","nosuch"],"action":"SCMP_ACT_ALLOW"}]}"#,
                1,
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
                1,
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                    {"names":["read"],"action":"SCMP_ACT_ALLOW"},
                    {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
                    {"names":["mkdir"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
                2,
            ),
        ] {
            assert_eq!(filters(json), Ok(programs), "{json}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        assert!(filters(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).is_err());
        assert!(filters(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"LIKE"}]}]}"#
        )
        .is_err());
    }
}
