//! A session against the bare frames of its peer.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::mux::WINDOW;
use crate::spdy::frame::{Frame, SETTING_INITIAL_WINDOW_SIZE};

/// A server session, and the bare connection its client would have.
fn server() -> (Session, tokio::task::JoinHandle<()>, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (session, driver) = Session::prepare(near, Side::Server);
    (session, tokio::spawn(driver), far)
}

fn open(stream: StreamId) -> Frame {
    Frame::SynStream {
        stream,
        headers: vec![("streamtype".to_owned(), "data".to_owned())],
        fin: false,
        unidirectional: false,
    }
}

fn data(stream: StreamId, length: usize, fin: bool) -> Frame {
    let data = Bytes::from(vec![7; length]);
    Frame::Data { stream, data, fin }
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    let mut bytes = Vec::new();
    for frame in frames {
        writer.write(frame, &mut bytes);
    }
    bytes
}

async fn expect(client: &mut FrameReader<DuplexStream>, expected: Frame) {
    let frame = timeout(Duration::from_secs(5), client.next()).await;
    assert_eq!(frame.expect("a frame in time").unwrap(), Some(expected));
}

#[tokio::test]
async fn pings_are_answered_and_wrong_numbers_refused() {
    let (_session, _driver, mut far) = server();
    let frames = [Frame::Ping(5), Frame::Ping(6), open(2), open(3), open(1)];
    far.write_all(&encode(&frames)).await.unwrap();
    let mut client = FrameReader::new(far);
    let settings = vec![(SETTING_INITIAL_WINDOW_SIZE, WINDOW)];
    expect(&mut client, Frame::Settings(settings)).await;
    expect(&mut client, Frame::Ping(5)).await;
    // Stream 2 has the server's parity; stream 1 comes after stream 3.
    for stream in [2, 1] {
        let status = status::PROTOCOL_ERROR;
        expect(&mut client, Frame::RstStream { stream, status }).await;
    }
}

#[tokio::test]
async fn a_peer_without_windows_is_sent_everything() {
    let (mut session, _driver, mut far) = server();
    far.write_all(&encode(&[open(1)])).await.unwrap();
    let mut stream = session.accept().await.unwrap().accept().await.unwrap();
    let writing = stream.outgoing.write_all(&[1; 512 * 1024]);
    timeout(Duration::from_secs(5), writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_with_windows_is_not_overrun() {
    let (mut session, _driver, mut far) = server();
    let window = Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, 1000)]);
    let mut writer = FrameWriter::new();
    let mut bytes = Vec::new();
    for frame in [window, open(1)] {
        writer.write(&frame, &mut bytes);
    }
    far.write_all(&bytes).await.unwrap();
    let mut stream = session.accept().await.unwrap().accept().await.unwrap();
    assert_eq!(stream.outgoing.write(&[1; 5000]).await.unwrap(), 1000);
    let more = timeout(Duration::from_millis(50), stream.outgoing.write(&[1; 5000]));
    more.await.expect_err("the window is used up");
    let (delta, mut bytes) = (300, Vec::new());
    writer.write(&Frame::WindowUpdate { stream: 1, delta }, &mut bytes);
    far.write_all(&bytes).await.unwrap();
    assert_eq!(stream.outgoing.write(&[1; 5000]).await.unwrap(), 300);
}

#[tokio::test]
async fn a_reset_is_an_error_not_an_end() {
    let (mut session, _driver, mut far) = server();
    let reset = Frame::RstStream { stream: 1, status: 5 };
    far.write_all(&encode(&[open(1), data(1, 4, false), reset])).await.unwrap();
    let mut stream = session.accept().await.unwrap().accept().await.unwrap();
    let mut read = Vec::new();
    let error = stream.incoming.read_to_end(&mut read).await.unwrap_err();
    assert_eq!((read.len(), error.kind()), (4, io::ErrorKind::ConnectionReset));
}

/// Whole sessions fed with mutated frames: the task ends without a panic once the peer is gone.
#[tokio::test]
async fn mutated_sessions_never_panic() {
    let frames = [
        Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, 1 << 16)]),
        open(1),
        data(1, 100, false),
        Frame::WindowUpdate { stream: 1, delta: 4096 },
        open(3),
        data(3, 10, true),
        Frame::Ping(1),
        Frame::RstStream { stream: 1, status: 5 },
        Frame::GoAway { last_good: 0, status: 0 },
    ];
    let clean = encode(&frames);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..2_000 {
        let mut bytes = clean.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        let (mut session, driver, mut far) = server();
        far.write_all(&bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let accepting = async {
            while let Some(stream) = session.accept().await {
                if let Ok(mut stream) = stream.accept().await {
                    let _ = stream.incoming.read_to_end(&mut Vec::new()).await;
                    let _ = stream.outgoing.write_all(b"answer").await;
                }
            }
        };
        timeout(Duration::from_secs(10), accepting).await.expect("the session ends");
        driver.await.expect("the session's task does not panic");
    }
}
