//! SPDY/3.1: header blocks, frames, and sessions of multiplexed streams.
//!
//! Bytes of a connection in, accepted and opened streams out. Counterpart: `moby/spdystream`.
//! Nothing in here knows which Kubernetes protocol the streams serve.

mod frame;
mod headers;
mod session;

pub(crate) use headers::value_of;
pub(crate) use session::{NewStream, Session, Side, Stream};
