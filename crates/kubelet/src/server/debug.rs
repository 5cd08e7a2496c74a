//! What the agent knows and how it is set up, for people who look.

use http::Response;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Body, Refusal, json as json_response};
use crate::{config::KubeletConfig, configuration, pod::manager::PodIndex};

pub fn pods(index: &PodIndex) -> Result<Response<Body>, Refusal> {
    let index = index.read().expect("no writer panics");
    let items: Vec<Value> = index.values().map(|pod: &std::sync::Arc<Pod>| json!(&**pod)).collect();
    json_response(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}

pub fn configz(config: &KubeletConfig) -> Result<Response<Body>, Refusal> {
    json_response(&json!({ "kubeletconfig": configuration::shown(config) }))
}
