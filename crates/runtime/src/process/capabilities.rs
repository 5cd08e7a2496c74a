//! Linux capabilities: names, the usual default, and the system calls that take them away.
//!
//! Counterpart: runc's `capabilities`. Invariant: inheritable stays empty, so nothing is regained
//! by exec of a plain file; ambient is filled only when the pod asked for it.

use std::io;

use nix::libc;
use serde::{Deserialize, Serialize};

/// In the kernel's order; the position is the number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has when nobody says anything; the set every common runtime grants.
pub(crate) const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Bit masks by capability number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilitySet {
    /// Bounding, permitted and effective.
    pub granted: u64,
    pub ambient: u64,
}

// === impl CapabilitySet ===

impl CapabilitySet {
    pub const SYS_ADMIN: u64 = 1 << 21;

    /// The mask of a name with or without `CAP_`, in any case; `ALL` is every capability. `None`:
    /// no such name.
    pub fn mask(name: &str) -> Option<u64> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match bare {
            "ALL" => Some(Self::all()),
            bare => NAMES.iter().position(|known| *known == bare).map(|number| 1 << number),
        }
    }

    pub fn all() -> u64 {
        (1 << NAMES.len()) - 1
    }

    /// Gives up everything outside the bounding set. Needs SETPCAP, so it goes before the user
    /// changes.
    pub fn limit_bounding(&self) -> io::Result<()> {
        for number in 0..64 {
            if self.granted & (1 << number) == 0 && !drop_bounding(number)? {
                break;
            }
        }
        Ok(())
    }

    /// Sets permitted and effective to what is granted *and* held, inheritable to nothing, then
    /// ambient.
    pub fn apply(&self) -> io::Result<()> {
        let granted = self.granted & held()?;
        // Ambient needs inheritable; it is given back right after.
        set(granted, granted, self.ambient & granted)?;
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
        for number in (0..64).filter(|number| self.ambient & granted & (1 << number) != 0) {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, number)?;
        }
        Ok(())
    }
}

/// False when the kernel knows no capability of this number, nor any higher.
fn drop_bounding(number: u64) -> io::Result<bool> {
    match prctl(libc::PR_CAPBSET_DROP, number, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        result => result.map(|()| true),
    }
}

fn prctl(option: i32, first: u64, second: u64) -> io::Result<()> {
    // SAFETY: none of the options used here takes a pointer.
    match unsafe { libc::prctl(option, first, second, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

fn held() -> io::Result<u64> {
    let mut halves = [Half::default(); 2];
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: version 3 fills exactly two halves.
    match unsafe { libc::syscall(libc::SYS_capget, &header, halves.as_mut_ptr()) } {
        0 => Ok(u64::from(halves[0].permitted) | u64::from(halves[1].permitted) << 32),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |shift: u32| Half {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let (header, halves) = (Header { version: VERSION_3, pid: 0 }, [half(0), half(32)]);
    // SAFETY: version 3 reads exactly two halves.
    match unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_masks() {
        for (name, mask) in [
            ("CHOWN", Some(1)),
            ("CAP_CHOWN", Some(1)),
            ("cap_sys_admin", Some(CapabilitySet::SYS_ADMIN)),
            ("CHECKPOINT_RESTORE", Some(1 << 40)),
            ("ALL", Some(CapabilitySet::all())),
            ("SUDO", None),
        ] {
            assert_eq!(CapabilitySet::mask(name), mask, "{name}");
        }
        assert!(DEFAULT_CAPABILITIES.iter().all(|name| CapabilitySet::mask(name).is_some()));
    }
}
