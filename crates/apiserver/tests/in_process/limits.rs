//! What a connection may cost: sizes that are refused, and peers that are cut because they are slow, silent or stuck.
//!
//! Where time must pass it is the runtime's clock that passes it: nothing here waits for a real limit.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::serving::{Serving, serving};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Longer than any limit.
const LONG: Duration = Duration::from_secs(600);

fn get(path: &str) -> Request<Empty<bytes::Bytes>> {
    let uri = format!("https://localhost{path}");
    Request::get(uri).body(Empty::new()).expect("a request")
}

/// Others are served.
async fn check_others(serving: &Serving) {
    let mut connection = serving.connect().await;
    let response = connection.send_request(get("/version")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
}

/// What a peer says until it hangs up; all limits pass meanwhile.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    tokio::time::pause();
    // An end without a TLS farewell is an end.
    let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut said)).await;
    tokio::time::resume();
    let _ = ended.expect("the connection is cut");
    said
}

/// The status line of the answer to some bytes of HTTP/1.1, to a client that reads once it has written all it can.
async fn answer(serving: &Serving, request: &[u8]) -> String {
    let mut stream = serving.dial("http/1.1").await;
    let _ = stream.write_all(request).await;
    let mut said = vec![0; 1024];
    let length = stream.read(&mut said).await.expect("an answer");
    String::from_utf8_lossy(&said[..length]).lines().next().unwrap_or_default().to_owned()
}

/// The head of the next answer on a connection, without its body.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.expect("the connection goes on"));
    }
    let said = String::from_utf8(said).expect("ASCII").to_ascii_lowercase();
    let length = said.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    stream.read_exact(&mut body).await.expect("the body");
    said
}

// === bodies that nobody reads ===

/// A request that is refused by its head alone.
fn refused(body: usize) -> String {
    format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: localhost\r\nImpersonate-User: jane\r\nContent-Length: {body}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_refusal_that_came_before_the_body_did_not_leave_the_connection_usable() {
    let serving = serving().await;
    let mut stream = serving.dial("http/1.1").await;
    for _ in 0..2 {
        stream.write_all(refused(3).as_bytes()).await.expect("a head");
        stream.flush().await.expect("sent");
        // Time to be refused in.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"{} ").await.expect("a body");
        let head = head(&mut stream).await;
        assert!(head.starts_with("http/1.1 403"), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_not_waited_for() {
    let serving = serving().await;
    let mut stream = serving.dial("http/1.1").await;
    let waits = refused(3).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    stream.write_all(waits.as_bytes()).await.expect("a head");
    let head = head(&mut stream).await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
}

#[tokio::test]
async fn a_connection_that_ends_after_its_answer_says_so() {
    let serving = serving().await;
    for body in [300 << 10, 4 << 20] {
        let mut stream = serving.dial("http/1.1").await;
        stream.write_all(refused(body).as_bytes()).await.expect("a head");
        let head = head(&mut stream).await;
        assert!(head.contains("connection: close"), "{head}");
    }
}

// === sizes ===

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_comes() {
    let serving = serving().await;
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3145729\r\n\r\n"
    );
    assert_eq!(answer(&serving, head.as_bytes()).await, "HTTP/1.1 413 Payload Too Large");
    check_others(&serving).await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_refused_where_it_exceeds_the_limit() {
    let serving = serving().await;
    let mut request = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..4 {
        request.extend_from_slice(b"100000\r\n");
        request.resize(request.len() + 0x10_0000, b' ');
        request.extend_from_slice(b"\r\n");
    }
    assert_eq!(answer(&serving, &request).await, "HTTP/1.1 413 Payload Too Large");
    check_others(&serving).await;
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let serving = serving().await;
    let head = "GET /version HTTP/1.1\r\nHost: localhost\r\n";
    let long = format!("{head}X-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    let refused = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(answer(&serving, long.as_bytes()).await, refused);
    let many = format!("{head}{}\r\n", "X-Many: x\r\n".repeat(1000));
    assert_eq!(answer(&serving, many.as_bytes()).await, refused);

    let mut connection = serving.connect().await;
    let mut request = get("/version");
    let value = http::HeaderValue::from_str(&"x".repeat(80_000)).expect("a value");
    request.headers_mut().insert("x-long", value);
    let response = connection.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    // The connection's other streams go on.
    let response = connection.send_request(get("/version")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_url_over_the_limit_is_refused() {
    let serving = serving().await;
    let selector = "a".repeat(70_000);
    let request =
        format!("GET {CONFIG_MAPS}?labelSelector={selector} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer(&serving, request.as_bytes()).await, "HTTP/1.1 414 URI Too Long");
    check_others(&serving).await;
}

// === silence ===

#[tokio::test]
async fn a_peer_that_never_begins_its_handshake_is_cut() {
    let serving = serving().await;
    let mut silent = TcpStream::connect(("127.0.0.1", serving.port)).await.expect("a connection");
    assert_eq!(rest(&mut silent).await, b"");
    check_others(&serving).await;
}

#[tokio::test]
async fn a_head_that_comes_drop_by_drop_is_cut() {
    let serving = serving().await;
    let mut slow = serving.dial("http/1.1").await;
    slow.write_all(b"GET /version HTTP/1.1\r\nHost: local").await.expect("written");
    assert!(!rest(&mut slow).await.starts_with(b"HTTP/1.1 200"));
    check_others(&serving).await;
}

#[tokio::test]
async fn a_connection_that_asks_nothing_more_is_cut() {
    let serving = serving().await;
    let mut idle = serving.dial("http/1.1").await;
    idle.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    let said = rest(&mut idle).await;
    assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    check_others(&serving).await;
}

#[tokio::test]
async fn an_http2_peer_that_answers_no_ping_is_cut() {
    let serving = serving().await;
    let mut dead = serving.dial("h2").await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    dead.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    dead.write_all(&settings).await.expect("written");
    rest(&mut dead).await;
    check_others(&serving).await;
}

#[tokio::test]
async fn a_body_that_never_comes_is_answered_for() {
    let serving = serving().await;
    let mut slow = serving.dial("http/1.1").await;
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.expect("written");
    let said = String::from_utf8(rest(&mut slow).await).expect("text");
    assert!(said.starts_with("HTTP/1.1 504 Gateway Timeout"), "{said}");
    check_others(&serving).await;
}

// === stuck ===

/// Ten objects of nearly a megabyte: more than the sockets between the two take in.
async fn fill(serving: &Serving) {
    let admin = serving.cluster.admin();
    for at in 0..10 {
        let object = json!({ "metadata": { "name": format!("m-{at}") }, "data": { "x": "y".repeat(900_000) } });
        admin.post(CONFIG_MAPS, &object).await.created();
    }
}

#[tokio::test]
async fn a_reader_that_stops_in_the_middle_of_a_list_is_cut() {
    let serving = serving().await;
    fill(&serving).await;
    let mut stuck = serving.dial("http/1.1").await;
    let request = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stuck.write_all(request.as_bytes()).await.expect("written");
    let mut begun = [0; 100];
    stuck.read_exact(&mut begun).await.expect("the list begins");
    assert!(begun.starts_with(b"HTTP/1.1 200"));
    check_others(&serving).await;
    tokio::time::pause();
    tokio::time::sleep(LONG).await;
    tokio::time::resume();
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got).await;
    assert!(got.len() < 9_000_000, "{} bytes came after all", got.len());
    check_others(&serving).await;
}

/// Its connection is alive, so nothing of it tells that one stream is not read.
#[tokio::test]
async fn an_unread_http2_list_is_let_go_of_and_its_connection_lives() {
    let serving = serving().await;
    fill(&serving).await;
    let mut connection = serving.connect().await;
    let response = connection.send_request(get(CONFIG_MAPS)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    body.frame().await.expect("the list begins").expect("data");
    tokio::time::pause();
    tokio::time::sleep(LONG).await;
    tokio::time::resume();
    let response = connection.send_request(get("/version")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(body.collect().await.is_err(), "the list was held for its reader");
}

#[tokio::test]
async fn a_watcher_that_never_reads_is_cut() {
    let serving = serving().await;
    let mut stuck = serving.dial("http/1.1").await;
    let request = format!("GET {CONFIG_MAPS}?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stuck.write_all(request.as_bytes()).await.expect("written");
    let mut begun = [0; 100];
    stuck.read_exact(&mut begun).await.expect("the watch begins");
    fill(&serving).await;
    let mut reader = serving.cluster.admin().watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    for _ in 0..10 {
        assert_eq!(reader.next().await.0, "ADDED");
    }
    tokio::time::pause();
    tokio::time::sleep(LONG).await;
    tokio::time::resume();
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got).await;
    assert!(got.len() < 9_000_000, "{} bytes came after all", got.len());
    check_others(&serving).await;
}
