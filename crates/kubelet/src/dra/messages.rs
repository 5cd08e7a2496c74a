//! Messages of drivers that prepare devices for claims, as far as they are used.
//!
//! Counterpart: `dra/v1`, which `dra/v1beta1` is alike; field numbers are those of the specification. Invariant: fields we do not know
//! are passed over; a default value is not written.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Serialize};

/// `NodePrepareResourcesRequest` and `NodeUnprepareResourcesRequest` say the same.
#[derive(Clone, PartialEq, Message)]
pub struct Claims {
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Claim {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub name: String,
}

/// By uid.
#[derive(Clone, PartialEq, Message)]
pub struct Prepared {
    #[prost(btree_map = "string, message", tag = "1")]
    pub claims: BTreeMap<String, PreparedClaim>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PreparedClaim {
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
    #[prost(string, tag = "2")]
    pub error: String,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// None: of every request.
    #[prost(string, repeated, tag = "1")]
    pub request_names: Vec<String>,
    #[prost(string, tag = "2")]
    pub pool_name: String,
    #[prost(string, tag = "3")]
    pub device_name: String,
    #[prost(string, repeated, tag = "4")]
    pub cdi_device_ids: Vec<String>,
}

/// By uid.
#[derive(Clone, PartialEq, Message)]
pub struct Unprepared {
    #[prost(btree_map = "string, message", tag = "1")]
    pub claims: BTreeMap<String, UnpreparedClaim>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UnpreparedClaim {
    #[prost(string, tag = "1")]
    pub error: String,
}
