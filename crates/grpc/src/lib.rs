//! The gRPC that a node speaks with its runtimes and plugins: unary and server-streaming calls, both ends.
//!
//! A path and a `prost` message -> HTTP/2 through hyper -> messages, or the [`Status`] that was given instead. [`Channel`] is the
//! client's end, [`Router`] the server's. Counterpart: `google.golang.org/grpc`.
//! Differs from upstream: no client streams, no compression, no retries, no balancing; nothing here needs them.
//! Invariant: no message is larger than its receiver asked for, and every call ends with one status.

mod accept;
mod client;
mod message;
mod server;
mod status;

pub use accept::serve_each;
pub use client::{Channel, Streaming};
pub use server::{Answers, Router};
pub use status::{Code, Status};

/// What a receiver takes unless it says otherwise; upstream's figure.
pub const DEFAULT_MAX_MESSAGE: usize = 4 << 20;
