//! Subresources that lead out of the server: logs, exec, attach, port-forward and proxies.
//!
//! Path -> the kubelet (or pod, or service) behind it -> one HTTP exchange handed through, upgrades spliced. Counterpart:
//! `pkg/registry/core/pod/rest`. Invariant: bytes of a stream are never looked at here.

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use skiff_api::Status;

use crate::call::Call;
use crate::reply::{Body, BoxError};
use crate::request_info::RequestInfo;

const CONNECT: &[(&str, &[&str])] = &[
    ("pods", &["log", "exec", "attach", "portforward", "proxy"]),
    ("nodes", &["proxy"]),
    ("services", &["proxy"]),
];

pub fn is_connect(info: &RequestInfo) -> bool {
    info.is_resource
        && info.group.is_empty()
        && CONNECT.iter().any(|(resource, subs)| {
            *resource == info.resource && subs.contains(&info.subresource.as_str())
        })
}

pub async fn run<B>(_call: &Call, _parts: Parts, _body: B) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Err(Status::unavailable("not yet"))
}
