//! Which devices a container may use: v1's `devices.allow` lines, or on v2 a BPF program saying the
//! same.
//!
//! Counterpart: runc's `cgroups/devices` and `ebpf/devicefilter`. Invariant: what no rule allows is
//! denied.

use std::{
    fmt, fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::error::{IoContext, Result};

/// Allows access to a class of devices; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeviceKind {
    Any,
    Char,
    Block,
}

// === impl DeviceRule ===

impl DeviceRule {
    pub const fn char(major: u32, minor: Option<u32>, access: String) -> Self {
        DeviceRule { kind: DeviceKind::Char, major: Some(major), minor, access }
    }

    pub fn everything() -> Self {
        DeviceRule { kind: DeviceKind::Any, major: None, minor: None, access: "rwm".to_owned() }
    }

    /// Nodes may be made of any kind; opened only these: null, zero, full, random, urandom, tty,
    /// console, ptmx, pts.
    pub fn defaults() -> Vec<Self> {
        let make = |kind| DeviceRule { kind, major: None, minor: None, access: "m".to_owned() };
        let used = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
        let used =
            used.map(|(major, minor)| DeviceRule::char(major, Some(minor), "rwm".to_owned()));
        let mut rules = vec![make(DeviceKind::Char), make(DeviceKind::Block)];
        rules.extend(used);
        rules.push(DeviceRule::char(136, None, "rwm".to_owned()));
        rules
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Any => return write!(f, "a *:* {}", self.access),
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let number =
            |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

// === the v2 program ===

/// One BPF instruction, as `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Insn {
    code: u8,
    /// Destination in the low half, source in the high.
    registers: u8,
    offset: i16,
    imm: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_IMM: u8 = 0xb7;
const MOVE_REG: u8 = 0xbf;
const AND_IMM: u8 = 0x57;
const SHIFT_RIGHT_IMM: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;

const R0: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const WANTED: u8 = 6;

const fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { code, registers: dst | src << 4, offset, imm }
}

/// Loads the context's fields, then one block per rule that answers 1 when all its tests pass, then
/// 0. A rule without a test answers for all that would follow it, so nothing follows: the kernel takes no program with
/// instructions that cannot be reached.
fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    let mut code = vec![
        insn(LOAD_WORD, KIND, CONTEXT, 0, 0),
        insn(AND_IMM, KIND, 0, 0, 0xffff),
        insn(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        insn(SHIFT_RIGHT_IMM, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        code.extend(block(rule));
        if *rule == DeviceRule::everything() {
            return code;
        }
    }
    code.extend([insn(MOVE_IMM, R0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    code
}

fn block(rule: &DeviceRule) -> Vec<Insn> {
    let mut code = Vec::new();
    match rule.kind {
        DeviceKind::Any => {}
        DeviceKind::Block => code.push(insn(JUMP_NOT_EQUAL, KIND, 0, 0, libc_kind::BLOCK)),
        DeviceKind::Char => code.push(insn(JUMP_NOT_EQUAL, KIND, 0, 0, libc_kind::CHAR)),
    }
    let allowed = access_bits(&rule.access);
    if allowed != access_bits("rwm") {
        // Everything wanted must be among what is allowed.
        code.push(insn(MOVE_REG, WANTED, ACCESS, 0, 0));
        code.push(insn(AND_IMM, WANTED, 0, 0, allowed));
        code.push(insn(JUMP_NOT_EQUAL_REG, WANTED, ACCESS, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        code.extend(number.map(|number| insn(JUMP_NOT_EQUAL, register, 0, 0, number as i32)));
    }
    code.extend([insn(MOVE_IMM, R0, 0, 0, 1), insn(EXIT, 0, 0, 0, 0)]);
    let end = code.len() as i16;
    for (at, insn) in code.iter_mut().enumerate() {
        if matches!(insn.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REG) {
            insn.offset = end - at as i16 - 1;
        }
    }
    code
}

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*` of linux/bpf.h.
mod libc_kind {
    pub const BLOCK: i32 = 1;
    pub const CHAR: i32 = 2;
}

fn access_bits(access: &str) -> i32 {
    [('m', 1), ('r', 2), ('w', 4)]
        .iter()
        .filter(|(letter, _)| access.contains(*letter))
        .map(|(_, bit)| bit)
        .sum()
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Attaches the program to a group; it lives as long as the group does.
pub(super) fn attach(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    let program = load(&program(rules)).at("load the device filter of", dir)?;
    let group = fs::File::open(dir).at("open cgroup", dir)?;
    let attr = AttachAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attr).at("attach the device filter to", dir)?;
    Ok(())
}

fn load(code: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_count: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: the kernel just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` is a live repr(C) prefix of union bpf_attr, and its size is passed along; the
    // pointers in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *const T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would, for the few instructions it uses.
    fn allows(rules: &[DeviceRule], kind: i32, access: &str, major: i32, minor: i32) -> bool {
        let context = [kind | access_bits(access) << 16, major, minor];
        let (code, mut registers, mut at) = (program(rules), [0i64; 8], 0usize);
        loop {
            let insn = code[at];
            let (dst, src) = ((insn.registers & 15) as usize, (insn.registers >> 4) as usize);
            at += 1;
            match insn.code {
                LOAD_WORD => registers[dst] = i64::from(context[insn.offset as usize / 4]),
                MOVE_IMM => registers[dst] = i64::from(insn.imm),
                MOVE_REG => registers[dst] = registers[src],
                AND_IMM => registers[dst] &= i64::from(insn.imm),
                SHIFT_RIGHT_IMM => registers[dst] >>= insn.imm,
                JUMP_NOT_EQUAL if registers[dst] != i64::from(insn.imm) => {
                    at += insn.offset as usize
                }
                JUMP_NOT_EQUAL_REG if registers[dst] != registers[src] => {
                    at += insn.offset as usize
                }
                JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REG => {}
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x} is not modelled"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_say() {
        let rules = DeviceRule::defaults();
        let (block, char) = (libc_kind::BLOCK, libc_kind::CHAR);
        assert!(allows(&rules, char, "rw", 1, 3), "null is usable");
        assert!(allows(&rules, char, "rw", 136, 7), "any pty is usable");
        assert!(allows(&rules, block, "m", 8, 0), "a disk node may be made");
        assert!(!allows(&rules, block, "r", 8, 0), "a disk may not be read");
        assert!(!allows(&rules, char, "r", 1, 1), "memory may not be read");
        assert!(!allows(&[], char, "r", 1, 3), "nothing is allowed without a rule");
        assert!(allows(&[DeviceRule::everything()], block, "rwm", 8, 0));
    }

    /// What the kernel's verifier asks of a program without loops.
    fn is_all_reachable(code: &[Insn]) -> bool {
        let mut reached = vec![false; code.len()];
        let mut ways = vec![0];
        while let Some(at) = ways.pop() {
            if std::mem::replace(&mut reached[at], true) || code[at].code == EXIT {
                continue;
            }
            ways.push(at + 1);
            if matches!(code[at].code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REG) {
                ways.push(at + 1 + code[at].offset as usize);
            }
        }
        reached.into_iter().all(|reached| reached)
    }

    #[test]
    fn a_privileged_containers_program_has_no_end_that_is_never_reached() {
        let null = DeviceRule::char(1, Some(3), "rwm".to_owned());
        let all = DeviceRule::everything();
        for rules in [
            vec![],
            DeviceRule::defaults(),
            vec![all.clone()],
            vec![null.clone(), all.clone(), null],
        ] {
            assert!(is_all_reachable(&program(&rules)), "{rules:?}");
        }
        assert!(allows(&[all], libc_kind::CHAR, "rw", 10, 200));
    }

    #[test]
    fn rules_print_as_the_kernel_reads_them() {
        assert_eq!(DeviceRule::char(136, None, "rwm".to_owned()).to_string(), "c 136:* rwm");
        assert_eq!(DeviceRule::everything().to_string(), "a *:* rwm");
    }
}
