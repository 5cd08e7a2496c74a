//! Seccomp: which system calls a container may make.
//!
//! Consumes a [`Policy`] (the default, or a profile in the OCI JSON form) and the granted
//! capabilities, emits BPF programs in the kernel. Counterpart: runc's `seccomp` with the profile
//! of `containerd/contrib/seccomp`. seccompiler builds programs with one action each, so a profile
//! becomes a stack of them: the kernel takes the strictest answer. Loaded with seccomp(2) directly,
//! because `no_new_privs` is the pod's choice, not ours.
//! Differs from upstream: programs for another ABI (32-bit on a 64-bit node) are killed under any
//! profile.

mod oci;
mod syscalls;

use std::{collections::BTreeMap, fs, io, path::Path};

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::{Deserialize, Serialize};

use super::capabilities::CapabilitySet;
pub(crate) use oci::Profile;

/// Rules by system call number; an empty list of rules means: whatever the arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A profile with its file read: the child that loads it no longer sees the node's files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Policy {
    Unconfined,
    RuntimeDefault,
    Custom(Profile),
}

// === impl Policy ===

impl Policy {
    pub fn read(path: &Path) -> Result<Self, String> {
        let content = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let profile: Profile = serde_json::from_slice(&content)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        // What cannot be compiled is refused at create, not by a child at start.
        profile.filters().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Policy::Custom(profile))
    }

    /// Installs the filters in the calling process, for good.
    pub fn load(&self, capabilities: u64) -> io::Result<()> {
        let filters = match self {
            Policy::Unconfined => return Ok(()),
            Policy::RuntimeDefault => default_filters(capabilities),
            Policy::Custom(profile) => profile.filters(),
        };
        filters.map_err(io::Error::other)?.iter().try_for_each(install)
    }
}

fn default_filters(capabilities: u64) -> Result<Vec<BpfProgram>, String> {
    let mut allowed: Rules =
        syscalls::ALWAYS.iter().filter_map(|name| number(name)).map(|n| (n, vec![])).collect();
    for (capability, names) in syscalls::WITH_CAPABILITY {
        let mask = CapabilitySet::mask(capability).expect("the table names real capabilities");
        if capabilities & mask != 0 {
            allowed.extend(
                names.iter().filter_map(|name| number(name)).map(|number| (number, vec![])),
            );
        }
    }
    let mut filters = Vec::new();
    if capabilities & CapabilitySet::SYS_ADMIN == 0 {
        allowed.extend(restricted()?);
        // clone3 hides its flags behind a pointer. ENOSYS sends the C library back to clone.
        let hidden = Rules::from([(libc::SYS_clone3, vec![])]);
        filters.push(compile(hidden, SeccompAction::Allow, errno(libc::ENOSYS))?);
    }
    filters.push(compile(allowed, errno(libc::EPERM), SeccompAction::Allow)?);
    Ok(filters)
}

/// Calls allowed with certain arguments only, when the container may not administrate the system.
fn restricted() -> Result<Rules, String> {
    const NEW_NAMESPACES: u64 = 0x7E02_0000;
    /// Vsock reaches the hypervisor; no namespace confines it.
    const AF_VSOCK: u64 = 40;
    let personalities = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    let personality = personalities.map(|value| rule(0, SeccompCmpOp::Eq, value));
    Ok(Rules::from([
        (libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?]),
        (libc::SYS_clone3, vec![]),
        (libc::SYS_personality, personality.into_iter().collect::<Result<_, _>>()?),
        (libc::SYS_socket, vec![rule(0, SeccompCmpOp::Ne, AF_VSOCK)?]),
    ]))
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map_err(|error| error.to_string())
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number as u32)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| "no seccomp on this architecture".to_owned())?;
    let filter =
        SeccompFilter::new(rules, otherwise, on_match, arch).map_err(|error| error.to_string())?;
    filter.try_into().map_err(|error: seccompiler::BackendError| error.to_string())
}

fn number(name: &str) -> Option<i64> {
    syscalls::NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn install(filter: &BpfProgram) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr() as *mut libc::sock_filter,
    };
    // SAFETY: `program` points to `filter`, which outlives the call; sock_filter has seccompiler's
    // layout, the kernel's.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_tables_is_a_system_call() {
        let conditional = syscalls::WITH_CAPABILITY.iter().flat_map(|(_, names)| names.iter());
        for name in syscalls::ALWAYS.iter().chain(conditional) {
            assert!(number(name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_default_profile_compiles_for_any_capabilities() {
        for capabilities in [0, CapabilitySet::SYS_ADMIN, CapabilitySet::all()] {
            assert!(!default_filters(capabilities).unwrap().is_empty());
        }
    }
}
