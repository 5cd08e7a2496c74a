//! Between the wire and the trait: every type in one place, each way.
//!
//! [`crate::api`] messages <-> `skiff_runtime` types. Counterpart: `pkg/kubelet/kuberuntime/convert.go` on one side,
//! `internal/cri/server` of containerd on the other.
//! Invariant: what one way writes the other reads back, but for what CRI has no words for; those are named where they are lost.

mod container;
mod image;
mod sandbox;
mod signal;
mod stats;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use sandbox::info_of;
use skiff_runtime::{
    ContainerState, MountPropagation, NamespaceMode, PodSandboxState, Protocol,
    SupplementalGroupsPolicy,
};

use crate::api;

/// A number that CRI gives no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not a {what}")]
pub struct Unknown {
    pub what: &'static str,
    pub value: i32,
}

/// An enumeration of CRI; a variant's place is its number.
pub trait Enumeration: Copy + PartialEq + 'static {
    const NAME: &'static str;
    const ALL: &'static [Self];

    fn number(self) -> i32 {
        let place = Self::ALL.iter().position(|one| *one == self);
        place.and_then(|place| i32::try_from(place).ok()).expect("every variant is listed")
    }

    fn named(value: i32) -> Result<Self, Unknown> {
        let found = usize::try_from(value).ok().and_then(|place| Self::ALL.get(place));
        found.copied().ok_or(Unknown { what: Self::NAME, value })
    }
}

macro_rules! enumerations {
    ($($kind:ident: $($variant:ident),+;)+) => {$(
        impl Enumeration for $kind {
            const NAME: &'static str = stringify!($kind);
            const ALL: &'static [Self] = &[$($kind::$variant),+];
        }
    )+};
}

enumerations! {
    NamespaceMode: Pod, Container, Node, Target;
    Protocol: Tcp, Udp, Sctp;
    PodSandboxState: Ready, NotReady;
    ContainerState: Created, Running, Exited, Unknown;
    MountPropagation: Private, HostToContainer, Bidirectional;
    SupplementalGroupsPolicy: Merge, Strict;
}

// === what both sides write in other words ===

pub fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub fn time(nanos: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

/// Zero is how CRI says that something has not happened yet.
fn time_if_any(nanos: i64) -> Option<SystemTime> {
    (nanos > 0).then(|| time(nanos))
}

/// Rounded up: a container must not get less than it was granted.
pub fn whole_seconds(duration: Duration) -> i64 {
    let more = u64::from(duration.subsec_nanos() > 0);
    i64::try_from(duration.as_secs().saturating_add(more)).unwrap_or(i64::MAX)
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn int64(value: i64) -> api::Int64Value {
    api::Int64Value { value }
}

fn uint64(value: u64) -> Option<api::UInt64Value> {
    Some(api::UInt64Value { value })
}

fn count(value: Option<api::UInt64Value>) -> u64 {
    value.unwrap_or_default().value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_specifications() {
        assert_eq!(NamespaceMode::Target.number(), 3);
        assert_eq!(ContainerState::named(2), Ok(ContainerState::Exited));
        assert_eq!(Protocol::named(7), Err(Unknown { what: "Protocol", value: 7 }));
    }

    #[test]
    fn seconds_are_never_fewer() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(30)), 30);
        assert_eq!(whole_seconds(Duration::MAX), i64::MAX);
    }
}
