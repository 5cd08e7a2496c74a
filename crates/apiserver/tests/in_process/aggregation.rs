//! Aggregation from both sides: a client, this server, and a server behind a Service.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::common::{Client, Cluster};

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.wardle.test";

/// An aggregated API server that takes users from whoever shows a front-proxy certificate, and repeats what it was told.
async fn backend(front_proxy_ca: &str) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(front_proxy_ca.as_bytes()).expect("PEM"))
        .expect("a CA");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let own = rcgen::generate_simple_self_signed(vec!["backend.test.svc".to_owned()])
        .expect("a certificate");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocols")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(answer);
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
    port
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let header = |name: &str| -> Vec<String> {
        let values = request.headers().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let told = json!({
        "method": request.method().as_str(), "path": path, "query": request.uri().query(),
        "user": header("x-remote-user"), "groups": header("x-remote-group"), "authorization": header("authorization"),
        "impersonate": header("impersonate-user"),
    });
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let value = match path.as_str() {
        "/apis/wardle.test/v1" => {
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.test/v1", "resources": [
            { "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "create"] } ] })
        }
        "/openapi/v3/apis/wardle.test/v1" => {
            json!({ "openapi": "3.0.0", "paths": { "/apis/wardle.test/v1/": {} } })
        }
        "/apis/wardle.test/v1/elsewhere" => {
            let moved = Response::builder()
                .status(StatusCode::FOUND)
                .header("location", "https://evil.test/");
            return Ok(moved.body(Full::default()).expect("a response"));
        }
        _ => json!({ "told": told, "body": String::from_utf8_lossy(&body) }),
    };
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::new(value.to_string().into())).expect("a response"))
}

fn api_service() -> Value {
    json!({ "metadata": { "name": NAME }, "spec": { "group": "wardle.test", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
        "service": { "namespace": "test", "name": "backend" }, "insecureSkipTLSVerify": true } })
}

async fn cluster_with_service() -> (Cluster, Client) {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces", &json!({ "metadata": { "name": "test" } })).await.created();
    let service = json!({ "metadata": { "name": "backend" }, "spec": { "ports": [{ "name": "https", "port": 443 }] } });
    admin.post("/api/v1/namespaces/test/services", &service).await.created();
    (cluster, admin)
}

async fn add_endpoints(admin: &Client, port: u16) {
    let slice = json!({ "metadata": { "name": "backend-1", "labels": { "kubernetes.io/service-name": "backend" } }, "addressType": "FQDN",
        "endpoints": [{ "addresses": ["127.0.0.1"] }], "ports": [{ "name": "https", "port": port }] });
    admin.post("/apis/discovery.k8s.io/v1/namespaces/test/endpointslices", &slice).await.created();
}

/// The condition once its reason is the wanted one.
async fn reason(admin: &Client, wanted: &str) -> Value {
    for _ in 0..500 {
        let object = admin.get(&format!("{API_SERVICES}/{NAME}")).await.ok();
        let condition = object["status"]["conditions"][0].clone();
        if condition["reason"] == wanted {
            return condition;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the reason never becomes {wanted}");
}

#[tokio::test]
async fn requests_reach_the_server_behind_the_service_as_their_user() {
    let (cluster, admin) = cluster_with_service().await;
    let port = backend(cluster.server.pki().front_proxy_ca_pem()).await;
    admin.post(API_SERVICES, &api_service()).await.created();
    reason(&admin, "EndpointsNotFound").await;
    add_endpoints(&admin, port).await;
    assert_eq!(reason(&admin, "Passed").await["status"], "True");

    let ann = cluster.user(UserInfo::new("ann", &["system:masters", "devs"]));
    let request = Request::post("/apis/wardle.test/v1/namespaces/test/flunders?dryRun=All")
        .header("authorization", "Bearer secret")
        .header("x-remote-user", "root");
    let answer = ann.request(request.body(Full::new("{}".into())).expect("a request")).await.ok();
    let told = &answer["told"];
    assert_eq!(told["user"], json!(["ann"]));
    assert_eq!(told["groups"], json!(["system:masters", "devs"]));
    assert_eq!(told["authorization"], json!([]), "credentials must stay here");
    assert_eq!((&told["method"], &told["query"]), (&json!("POST"), &json!("dryRun=All")));
    assert_eq!(answer["body"], "{}");
}

#[tokio::test]
async fn what_it_serves_is_part_of_discovery() {
    let (cluster, admin) = cluster_with_service().await;
    let port = backend(cluster.server.pki().front_proxy_ca_pem()).await;
    add_endpoints(&admin, port).await;
    admin.post(API_SERVICES, &api_service()).await.created();
    reason(&admin, "Passed").await;
    assert_eq!(admin.get("/apis/wardle.test").await.ok()["preferredVersion"]["version"], "v1");
    assert_eq!(admin.get("/apis/wardle.test/v1").await.ok()["resources"][0]["name"], "flunders");
    let request = Request::get("/apis")
        .header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let list = admin.request(request.body(Full::default()).expect("a request")).await.ok();
    let items = list["items"].as_array().expect("a list");
    let item = items.iter().find(|item| item["metadata"]["name"] == "wardle.test").expect("merged");
    assert_eq!(item["versions"][0]["freshness"], "Current");
    assert_eq!(item["versions"][0]["resources"][0]["resource"], "flunders");
    let index = admin.get("/openapi/v3").await.ok();
    assert!(index["paths"]["apis/wardle.test/v1"].is_object(), "{index}");
    let document = admin.get("/openapi/v3/apis/wardle.test/v1").await.ok();
    assert!(document["paths"]["/apis/wardle.test/v1/"].is_object());
}

#[tokio::test]
async fn a_redirect_is_not_followed_nor_handed_on() {
    let (cluster, admin) = cluster_with_service().await;
    let port = backend(cluster.server.pki().front_proxy_ca_pem()).await;
    add_endpoints(&admin, port).await;
    admin.post(API_SERVICES, &api_service()).await.created();
    reason(&admin, "Passed").await;
    let answer = admin.get("/apis/wardle.test/v1/elsewhere").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.headers.get("location").is_none());
}

#[tokio::test]
async fn a_dead_server_is_unavailable_and_says_why() {
    let (_cluster, admin) = cluster_with_service().await;
    let closed =
        TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    add_endpoints(&admin, closed.port()).await;
    admin.post(API_SERVICES, &api_service()).await.created();
    let condition = reason(&admin, "FailedDiscoveryCheck").await;
    let message = condition["message"].as_str().expect("a message");
    assert!(message.starts_with("failing or missing response from https://10.96."), "{message}");
    let answer = admin.get("/apis/wardle.test/v1/namespaces/test/flunders").await;
    assert_eq!(
        (answer.status, &answer.bytes[..]),
        (StatusCode::SERVICE_UNAVAILABLE, &b"service unavailable\n"[..])
    );
}

#[tokio::test]
async fn a_group_of_a_deleted_api_service_is_gone() {
    let (_cluster, admin) = cluster_with_service().await;
    admin.post(API_SERVICES, &api_service()).await.created();
    assert_eq!(admin.get("/apis/wardle.test").await.status, StatusCode::OK);
    admin.delete(&format!("{API_SERVICES}/{NAME}")).await.ok();
    let answer = admin.get("/apis/wardle.test/v1").await;
    assert_eq!(
        (answer.status, &answer.bytes[..]),
        (StatusCode::NOT_FOUND, &b"404 page not found\n"[..])
    );
}

#[tokio::test]
async fn an_api_service_that_ceases_to_name_a_service_is_local() {
    let (_cluster, admin) = cluster_with_service().await;
    admin.post(API_SERVICES, &api_service()).await.created();
    let path = format!("{API_SERVICES}/{NAME}");
    let local = json!({ "spec": { "service": null, "insecureSkipTLSVerify": null } });
    admin.patch(&path, "merge-patch+json", &local).await.ok();
    assert_eq!(reason(&admin, "Local").await["status"], "True");
}
