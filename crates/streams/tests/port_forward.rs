//! Round trips of port-forward, for every protocol.

mod support;

use fastwebsockets::{Frame, OpCode, Role, WebSocket};
use skiff_streams::ForwardedConnection;
use skiff_streams::client::{PortForwardClient, Transport};
use support::{forward_server, proxied, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TRANSPORTS: [Transport; 2] = [Transport::WebSocket, Transport::Spdy];

/// Answers with its port and all it read, after the client's half-close.
async fn echo(mut connection: ForwardedConnection) {
    let mut input = Vec::new();
    connection.data.read_to_end(&mut input).await.unwrap();
    let answer = [format!("{}:", connection.port).as_bytes(), &input].concat();
    connection.data.write_all(&answer).await.unwrap();
    connection.data.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_hundred_connections_at_once_half_close_one_by_one() {
    for transport in TRANSPORTS {
        let session = async {
            let io = proxied(forward_server(echo));
            let client = PortForwardClient::connect(io, "/portforward", transport).await.unwrap();
            let mut open = Vec::new();
            for index in 0..100u16 {
                open.push((index, client.open(8000 + index).await.unwrap()));
            }
            // All are open before the first one ends, and they end in the other order.
            for (index, mut connection) in open.into_iter().rev() {
                let text = format!("hello {index}").repeat(1000);
                connection.data.write_all(text.as_bytes()).await.unwrap();
                connection.data.shutdown().await.unwrap();
                let mut answer = String::new();
                connection.data.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer, format!("{}:{text}", 8000 + index), "{transport:?}");
                let mut error = String::new();
                connection.error.read_to_string(&mut error).await.unwrap();
                assert_eq!(error, "");
            }
        };
        within(30, session).await;
    }
}

#[tokio::test]
async fn the_pod_may_finish_first() {
    for transport in TRANSPORTS {
        let session = async {
            let io = forward_server(|mut connection| async move {
                connection.data.write_all(b"banner").await.unwrap();
                connection.data.shutdown().await.unwrap();
                let mut input = String::new();
                connection.data.read_to_string(&mut input).await.unwrap();
                connection.error.write_all(input.as_bytes()).await.unwrap();
            });
            let client = PortForwardClient::connect(io, "/", transport).await.unwrap();
            let mut connection = client.open(22).await.unwrap();
            let mut banner = String::new();
            connection.data.read_to_string(&mut banner).await.unwrap();
            assert_eq!(banner, "banner");
            connection.data.write_all(b"said after that").await.unwrap();
            connection.data.shutdown().await.unwrap();
            let mut error = String::new();
            connection.error.read_to_string(&mut error).await.unwrap();
            assert_eq!(error, "said after that", "{transport:?}");
        };
        within(10, session).await;
    }
}

#[tokio::test]
async fn a_stuck_connection_does_not_stop_the_others() {
    for transport in TRANSPORTS {
        let session = async {
            let io = forward_server(|connection| async move {
                match connection.port {
                    1 => std::future::pending().await,
                    _ => echo(connection).await,
                }
            });
            let client = PortForwardClient::connect(io, "/", transport).await.unwrap();
            let mut stuck = client.open(1).await.unwrap();
            let flood = tokio::spawn(async move {
                stuck.data.write_all(&vec![0; 64 << 20]).await.unwrap();
            });
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert!(!flood.is_finished(), "nobody reads what is flooded");
            let mut connection = client.open(2).await.unwrap();
            connection.data.write_all(b"still here").await.unwrap();
            connection.data.shutdown().await.unwrap();
            let mut answer = String::new();
            connection.data.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "2:still here", "{transport:?}");
            flood.abort();
        };
        within(10, session).await;
    }
}

#[tokio::test]
async fn much_data_both_ways_at_once() {
    const TOTAL: usize = 64 << 20;
    for transport in TRANSPORTS {
        let session = async {
            let io = forward_server(|mut connection| async move {
                let (mut read, mut write) = tokio::io::split(&mut connection.data);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let client = PortForwardClient::connect(io, "/", transport).await.unwrap();
            let connection = client.open(9).await.unwrap();
            let (mut read, mut write) = tokio::io::split(connection.data);
            let sending = tokio::spawn(async move {
                let chunk = vec![42; 1 << 20];
                for _ in 0..TOTAL / chunk.len() {
                    write.write_all(&chunk).await.unwrap();
                }
                write.shutdown().await.unwrap();
            });
            let got = tokio::io::copy(&mut read, &mut tokio::io::sink()).await.unwrap();
            assert_eq!(got, TOTAL as u64, "{transport:?}");
            sending.await.unwrap();
        };
        within(120, session).await;
    }
}

#[tokio::test]
async fn a_client_that_disappears_ends_its_connections() {
    for transport in TRANSPORTS {
        let (ended, mut endings) = tokio::sync::mpsc::channel(8);
        let io = forward_server(move |mut connection| {
            let ended = ended.clone();
            async move {
                let mut rest = Vec::new();
                let result = connection.data.read_to_end(&mut rest).await;
                let _ = ended.send(result.is_err()).await;
            }
        });
        let client = PortForwardClient::connect(io, "/", transport).await.unwrap();
        let connections = [client.open(1).await.unwrap(), client.open(2).await.unwrap()];
        drop(client);
        for _ in &connections {
            within(10, endings.recv()).await.expect("each connection ends");
        }
    }
}

/// The channel protocol has no client here: its frames are written out.
#[tokio::test]
async fn two_channels_per_port_begin_with_its_number() {
    let session = async {
        let io = forward_server(|mut connection| async move {
            let mut input = [0; 5];
            connection.data.read_exact(&mut input).await.unwrap();
            connection.data.write_all(&input).await.unwrap();
            connection.error.write_all(b"oops").await.unwrap();
        });
        let mut socket = raw_websocket(io, "/?ports=80,443", "v4.channel.k8s.io").await;
        for number in 0..4u8 {
            let port: u16 = if number < 2 { 80 } else { 443 };
            let expected = [&[number][..], &port.to_le_bytes()].concat();
            assert_eq!(socket.read_frame().await.unwrap().payload, &expected[..]);
        }
        // The message comes in two fragments, with a ping in between.
        let first = Frame::new(false, OpCode::Binary, None, b"\x02he".to_vec().into());
        let ping = Frame::new(true, OpCode::Ping, None, b"are you there".to_vec().into());
        let rest = Frame::new(true, OpCode::Continuation, None, b"llo".to_vec().into());
        for frame in [first, ping, rest] {
            socket.write_frame(frame).await.unwrap();
        }
        let pong = socket.read_frame().await.unwrap();
        assert_eq!((pong.opcode, &pong.payload[..]), (OpCode::Pong, &b"are you there"[..]));
        assert_eq!(socket.read_frame().await.unwrap().payload, b"\x02hello");
        assert_eq!(socket.read_frame().await.unwrap().payload, b"\x03oops");
        socket.write_frame(Frame::binary(b"\x00first".to_vec().into())).await.unwrap();
        assert_eq!(socket.read_frame().await.unwrap().payload, b"\x00first");
        assert_eq!(socket.read_frame().await.unwrap().payload, b"\x01oops");
        let close = socket.read_frame().await.unwrap();
        assert_eq!((close.opcode, &close.payload[..]), (OpCode::Close, &1000u16.to_be_bytes()[..]));
    };
    within(10, session).await;
}

async fn raw_websocket(
    io: tokio::io::DuplexStream,
    path: &str,
    protocol: &str,
) -> WebSocket<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>> {
    let io = hyper_util::rt::TokioIo::new(io);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::get(path)
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    // The example of RFC 6455, section 1.3.
    let accept = &response.headers()["sec-websocket-accept"];
    assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    WebSocket::after_handshake(hyper_util::rt::TokioIo::new(upgraded), Role::Client)
}
