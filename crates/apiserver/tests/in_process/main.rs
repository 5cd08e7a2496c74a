//! The server in this process, asked as clients ask it: one binary, for each would link all of it again.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod admission;
mod aggregation;
mod audit;
mod component_statuses;
mod custom_resources;
mod encryption;
mod flow_control;
mod identity_lease;
mod legacy;
mod limits;
mod message_socket;
mod policies;
mod robustness;
mod storage;
mod typed;
mod verbs;
mod webhooks;
