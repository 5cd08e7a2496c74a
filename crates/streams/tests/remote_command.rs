//! Round trips of exec and attach, for every protocol: client, handshake, server and back.

mod support;

use skiff_streams::client::{ExecClient, PortForwardClient, Transport};
use skiff_streams::{CommandStatus, Error, RemoteCommandStreams, StreamOptions, TerminalSize};
use support::{exec_server, proxied, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const ALL: StreamOptions = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };
const ALL_QUERY: &str = "/exec?stdin=true&stdout=true&stderr=true";
const TTY: StreamOptions = StreamOptions { stdin: true, stdout: true, stderr: false, tty: true };
const TTY_QUERY: &str = "/exec?stdin=true&stdout=true&tty=true";

/// Protocols that can say "standard input has ended" without closing the connection.
const HALF_CLOSING: &[(Transport, &str)] = &[
    (Transport::WebSocket, "v5.channel.k8s.io"),
    (Transport::Spdy, "v5.channel.k8s.io"),
    (Transport::Spdy, "v4.channel.k8s.io"),
    (Transport::Spdy, "v3.channel.k8s.io"),
    (Transport::Spdy, "v2.channel.k8s.io"),
    (Transport::Spdy, "channel.k8s.io"),
];
const CHANNELS_BEFORE_V5: &[(Transport, &str)] = &[
    (Transport::WebSocket, "v4.channel.k8s.io"),
    (Transport::WebSocket, "v4.base64.channel.k8s.io"),
    (Transport::WebSocket, "channel.k8s.io"),
    (Transport::WebSocket, "base64.channel.k8s.io"),
];

async fn exec(io: DuplexStream, by: (Transport, &str), tty: bool) -> ExecClient {
    let (query, options) = if tty { (TTY_QUERY, TTY) } else { (ALL_QUERY, ALL) };
    ExecClient::connect(io, query, by.0, by.1, options).await.expect("a session")
}

/// Repeats its input on standard output once it has ended, counts it on standard error, exits 3.
async fn repeat(mut streams: RemoteCommandStreams) {
    let mut input = Vec::new();
    let mut stdin = streams.stdin.take().unwrap();
    stdin.read_to_end(&mut input).await.unwrap();
    let (mut stdout, mut stderr) = (streams.stdout.unwrap(), streams.stderr.unwrap());
    stdout.write_all(&input).await.unwrap();
    let count = input.len().to_string();
    stderr.write_all(count.as_bytes()).await.unwrap();
    let status = CommandStatus::ExitCode(3);
    streams.status.finish(status).await.unwrap();
}

async fn read_all(stream: &mut Option<skiff_streams::Incoming>) -> String {
    let mut text = String::new();
    let stream = stream.as_mut().unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn check_repeat(io: DuplexStream, by: (Transport, &str)) {
    let mut client = exec(io, by, false).await;
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"one ").await.unwrap();
    stdin.write_all(b"two").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client.stdout).await, "one two", "{by:?}");
    assert_eq!(read_all(&mut client.stderr).await, "7", "{by:?}");
    let has_json = by.1.starts_with("v4") || by.1.starts_with("v5");
    let text = "command terminated with non-zero exit code: exit status 3";
    let expected = match has_json {
        true => CommandStatus::ExitCode(3),
        false => CommandStatus::InternalError(text.to_owned()),
    };
    assert_eq!(client.status().await.unwrap(), expected, "{by:?}");
}

#[tokio::test]
async fn input_ends_output_follows_and_the_exit_code_comes_last() {
    for by in HALF_CLOSING {
        within(10, check_repeat(exec_server(repeat), *by)).await;
    }
}

#[tokio::test]
async fn a_proxy_in_between_changes_nothing() {
    for by in HALF_CLOSING {
        within(10, check_repeat(proxied(exec_server(repeat)), *by)).await;
    }
}

/// Before version 5 the end of input is the end of the session, so this command answers each line.
async fn answer_one_line(mut streams: RemoteCommandStreams) {
    let mut line = [0; 6];
    let mut stdin = streams.stdin.take().unwrap();
    stdin.read_exact(&mut line).await.unwrap();
    let mut stdout = streams.stdout.take().unwrap();
    stdout.write_all(&line).await.unwrap();
    streams.status.finish(CommandStatus::Success).await.unwrap();
}

#[tokio::test]
async fn channels_before_version_5() {
    for by in CHANNELS_BEFORE_V5 {
        let conversation = async {
            let mut client = exec(exec_server(answer_one_line), *by, false).await;
            let mut stdin = client.stdin.take().unwrap();
            stdin.write_all(b"hello\n").await.unwrap();
            assert_eq!(read_all(&mut client.stdout).await, "hello\n", "{by:?}");
            assert_eq!(client.status().await.unwrap(), CommandStatus::Success);
        };
        within(10, conversation).await;
    }
}

#[tokio::test]
async fn a_terminal_hears_of_its_size() {
    for by in [
        (Transport::WebSocket, "v5.channel.k8s.io"),
        (Transport::WebSocket, "v4.base64.channel.k8s.io"),
        (Transport::Spdy, "v4.channel.k8s.io"),
        (Transport::Spdy, "v3.channel.k8s.io"),
    ] {
        let conversation = async {
            let io = exec_server(|mut streams| async move {
                assert!(streams.stderr.is_none());
                let mut sizes = streams.resize.take().unwrap();
                let mut stdout = streams.stdout.take().unwrap();
                for _ in 0..2 {
                    let size = sizes.recv().await.unwrap();
                    let text = format!("{}x{} ", size.width, size.height);
                    stdout.write_all(text.as_bytes()).await.unwrap();
                }
                streams.status.finish(CommandStatus::Success).await.unwrap();
            });
            let mut client = exec(io, by, true).await;
            for (width, height) in [(80, 24), (132, 50)] {
                let size = TerminalSize { width, height };
                client.resize(size).await.unwrap();
            }
            assert_eq!(read_all(&mut client.stdout).await, "80x24 132x50 ", "{by:?}");
        };
        within(10, conversation).await;
    }
}

#[tokio::test]
async fn much_output_to_a_slow_reader_arrives_whole() {
    const TOTAL: usize = 64 << 20;
    for by in [HALF_CLOSING[0], HALF_CLOSING[2]] {
        let conversation = async {
            let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counter = written.clone();
            let io = exec_server(move |mut streams| {
                let counter = counter.clone();
                async move {
                    let mut stdout = streams.stdout.take().unwrap();
                    let chunk: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
                    for _ in 0..TOTAL / chunk.len() {
                        stdout.write_all(&chunk).await.unwrap();
                        counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::SeqCst);
                    }
                    streams.status.finish(CommandStatus::Success).await.unwrap();
                }
            });
            let mut client = exec(io, by, false).await;
            // Nobody reads yet: the command must come to a stop long before it is done.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let before = written.load(std::sync::atomic::Ordering::SeqCst);
            assert!(before <= 4 << 20, "{by:?} buffered {before} bytes");
            let mut stdout = client.stdout.take().unwrap();
            let (mut buffer, mut read) = (vec![0; 64 * 1024], 0);
            loop {
                let count = stdout.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                let right = (read..read + count).zip(&buffer);
                assert!(right.into_iter().all(|(at, byte)| *byte == (at % (1 << 20) % 251) as u8));
                read += count;
            }
            assert_eq!(read, TOTAL, "{by:?}");
            assert_eq!(client.status().await.unwrap(), CommandStatus::Success);
        };
        within(120, conversation).await;
    }
}

#[tokio::test]
async fn much_input_waits_for_a_slow_command() {
    const TOTAL: usize = 8 << 20;
    for by in [HALF_CLOSING[0], HALF_CLOSING[2]] {
        let conversation = async {
            let io = exec_server(|mut streams| async move {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                let mut stdin = streams.stdin.take().unwrap();
                let read = tokio::io::copy(&mut stdin, &mut tokio::io::sink()).await;
                let text = read.unwrap().to_string();
                let mut stdout = streams.stdout.take().unwrap();
                stdout.write_all(text.as_bytes()).await.unwrap();
                streams.status.finish(CommandStatus::Success).await.unwrap();
            });
            let mut client = exec(io, by, false).await;
            let mut stdin = client.stdin.take().unwrap();
            stdin.write_all(&vec![7; TOTAL]).await.unwrap();
            stdin.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client.stdout).await, TOTAL.to_string());
        };
        within(60, conversation).await;
    }
}

#[tokio::test]
async fn a_client_that_disappears_is_noticed() {
    for by in HALF_CLOSING.iter().chain(CHANNELS_BEFORE_V5) {
        let (gone, noticed) = tokio::sync::oneshot::channel();
        let gone = std::sync::Mutex::new(Some(gone));
        let io = exec_server(move |mut streams| {
            let gone = gone.lock().unwrap().take().unwrap();
            async move {
                streams.status.closed().await;
                let mut rest = Vec::new();
                let input = streams.stdin.take().unwrap().read_to_end(&mut rest).await;
                let output = streams.stdout.take().unwrap().write_all(b"late").await;
                let _ = gone.send((input.is_err(), output.is_err()));
            }
        });
        // The connection breaks under the session, with no goodbye.
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let mut io = io;
        let cut = tokio::spawn(async move {
            let _ = tokio::time::timeout(
                std::time::Duration::from_millis(200),
                tokio::io::copy_bidirectional(&mut far, &mut io),
            )
            .await;
        });
        let client = exec(near, *by, false).await;
        cut.await.unwrap();
        let noticed = within(10, noticed).await.unwrap();
        assert_eq!(noticed, (true, true), "{by:?}");
        drop(client);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_input() {
    for by in HALF_CLOSING.iter().chain(CHANNELS_BEFORE_V5) {
        let (heard, hearing) = tokio::sync::oneshot::channel();
        let heard = std::sync::Mutex::new(Some(heard));
        let io = exec_server(move |mut streams| {
            let heard = heard.lock().unwrap().take().unwrap();
            async move {
                let mut input = String::new();
                let mut stdin = streams.stdin.take().unwrap();
                let ended = stdin.read_to_string(&mut input).await;
                streams.status.closed().await;
                heard.send((input, ended.is_ok())).unwrap();
            }
        });
        let mut client = exec(io, *by, false).await;
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"the last words").await.unwrap();
        drop((stdin, client));
        let heard = within(10, hearing).await.unwrap();
        assert_eq!(heard, ("the last words".to_owned(), true), "{by:?}");
    }
}

#[tokio::test]
async fn a_session_given_up_does_not_look_like_success() {
    for by in [HALF_CLOSING[0], HALF_CLOSING[2]] {
        let conversation = async {
            let mut client = exec(exec_server(|streams| async { drop(streams) }), by, false).await;
            client.status().await
        };
        let status = within(10, conversation).await;
        assert!(!matches!(status, Ok(CommandStatus::Success)), "{by:?}");
    }
}

#[tokio::test]
async fn a_refusal_passes_the_proxy_as_it_is() {
    // A port-forward's protocol is none of those exec speaks.
    for transport in [Transport::WebSocket, Transport::Spdy] {
        let io = proxied(exec_server(repeat));
        let refused = PortForwardClient::connect(io, ALL_QUERY, transport).await;
        match refused.err() {
            Some(Error::UpgradeRefused(code)) => assert_eq!(code.as_u16(), 403),
            other => panic!("unexpected {other:?}"),
        }
    }
}
