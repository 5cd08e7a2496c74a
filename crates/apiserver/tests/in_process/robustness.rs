//! What odd, slow and failing clients may do to the server: nothing to others.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use serde_json::json;
use skiff_apiserver::{ApiServer, UserInfo};
use tokio::net::TcpStream;
use tower::Service;

use crate::common::serving::serving;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Well below what a drain may take: a test that gets here has hung.
const HUNG: Duration = Duration::from_secs(8);

/// A body that panics when it is read, or never comes.
enum Odd {
    Panics,
    NeverComes,
}

impl Body for Odd {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match *self {
            Odd::Panics => panic!("a fault below the request path"),
            Odd::NeverComes => Poll::Pending,
        }
    }
}

async fn send(server: &ApiServer, path: &str, body: Odd) -> (StatusCode, String) {
    let request = Request::post(path).body(body).expect("a request");
    let mut local = server.local(UserInfo::new("admin", &["system:masters"]));
    let response = local.call(request).await.expect("infallible");
    let status = response.status();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_panic_is_answered_and_the_server_lives() {
    let cluster = crate::common::cluster().await;
    let (status, text) = send(&cluster.server, CONFIG_MAPS, Odd::Panics).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.contains("this request caused apiserver to panic"), "{text}");
    let admin = cluster.admin();
    admin.get(CONFIG_MAPS).await.ok();
    let metrics = String::from_utf8(admin.get("/metrics").await.bytes.to_vec()).expect("text");
    assert!(metrics.contains("\napiserver_panics_total 1\n"));
}

#[tokio::test]
async fn a_request_ends_when_its_time_is_up() {
    let cluster = crate::common::cluster().await;
    let path = format!("{CONFIG_MAPS}?timeout=10ms");
    let (status, text) = send(&cluster.server, &path, Odd::NeverComes).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(
        text.contains("Timeout: request did not complete within the allotted timeout"),
        "{text}"
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let cluster = crate::common::cluster().await;
    let body = Bytes::from(vec![b' '; 3 * 1024 * 1024 + 1]);
    let answer = cluster.admin().send(Method::POST, CONFIG_MAPS, "application/json", body).await;
    let (code, reason, message) = answer.refused();
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(message, "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_nobody_back() {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}?watch=1");
    let _stuck = admin.watch(&path).await;
    let mut reader = admin.watch(&path).await;
    for at in 0..200 {
        let object =
            json!({ "metadata": { "name": format!("m-{at}") }, "data": { "x": "y".repeat(2000) } });
        admin.post(CONFIG_MAPS, &object).await.created();
    }
    for _ in 0..200 {
        assert_eq!(reader.next().await.0, "ADDED");
    }
}

// === over TLS ===

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://localhost{path}")).body(Empty::new()).expect("a request")
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let serving = serving().await;
    let mut connection = serving.connect().await;
    let response =
        connection.send_request(get(&format!("{CONFIG_MAPS}?watch=1"))).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let ready = serving.cluster.admin().get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    serving.stop.cancel();
    let rest =
        tokio::time::timeout(HUNG, response.into_body().collect()).await.expect("the watch ends");
    rest.expect("it ends in order");
    let served = tokio::time::timeout(HUNG, serving.served).await.expect("the server ends");
    served.expect("no panic").expect("no error");
    let ready = serving.cluster.admin().get("/readyz").await;
    assert_eq!(ready.status, StatusCode::INTERNAL_SERVER_ERROR, "a server that stops is not ready");
}

#[tokio::test]
async fn a_connection_that_never_speaks_holds_nobody_back() {
    let serving = serving().await;
    let silent = TcpStream::connect(("127.0.0.1", serving.port)).await.expect("a connection");
    let mut connection = serving.connect().await;
    let response = connection.send_request(get("/version")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    drop(silent);
}

// === what is open ===

#[tokio::test]
async fn single_checks_are_not_open_to_everyone() {
    let cluster = crate::common::cluster().await;
    let anonymous = cluster.user(UserInfo::anonymous());
    assert_eq!(anonymous.get("/healthz").await.status, StatusCode::OK);
    let (code, _, message) = anonymous.get("/healthz/ping").await.refused();
    assert_eq!(code, 403);
    assert_eq!(message, "forbidden: User \"system:anonymous\" cannot get path \"/healthz/ping\"");
}

#[tokio::test]
async fn documents_of_versions_answer_to_get_alone() {
    let cluster = crate::common::cluster().await;
    let admin = cluster.admin();
    let nothing = json!({});
    let put = |path: &'static str| admin.put(path, &nothing);
    assert_eq!(put("/apis").await.status, StatusCode::OK);
    assert_eq!(put("/apis/apps/v1").await.refused().0, 405);
    assert_eq!(put("/api/v1").await.refused().0, 405);
    assert_eq!(put("/version").await.refused().0, 405);
    let html = Request::get("/version")
        .header("accept", "text/html")
        .body(http_body_util::Full::default());
    let (code, _, message) = admin.request(html.expect("a request")).await.refused();
    assert_eq!(
        (code, message.as_str()),
        (406, "406: Not Acceptable\n\nAvailable representations: application/json")
    );
}
