//! The messages of CRI v1, as far as they are used; names and field numbers are the specification's.
//!
//! Counterpart: `k8s.io/cri-api/pkg/apis/runtime/v1`. Enumerations are plain numbers here; [`crate::convert`] names them.
//! Messages that are one text or nothing at all go by what they say ([`Id`], `()`) rather than by the verb they belong to.
//! Invariant: knows nothing but the wire.

mod container;
mod image;
mod runtime;
mod sandbox;
mod stats;

use std::collections::BTreeMap;

use prost::Message;

pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use stats::*;

pub type Texts = BTreeMap<String, String>;

pub const RUNTIME_SERVICE: &str = "/runtime.v1.RuntimeService/";
pub const IMAGE_SERVICE: &str = "/runtime.v1.ImageService/";

/// Larger than gRPC's usual limit: nodes list hundreds of containers, and `ExecSync` answers all output at once.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The requests that name one sandbox or container, and the answers that name a new one.
#[derive(Clone, PartialEq, Message)]
pub struct Id {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Int64Value {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct UInt64Value {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

/// The state that a filter asks for.
#[derive(Clone, PartialEq, Message)]
pub struct StateValue {
    #[prost(int32, tag = "1")]
    pub state: i32,
}
