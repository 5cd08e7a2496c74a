//! Both ends over a real socket.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use skiff_grpc::{Channel, Code, Router, Status};
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A socket of its own for each test, and the server behind it.
struct Served {
    socket: PathBuf,
    stop: Option<DropGuard>,
}

impl Served {
    fn start(router: Router) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skiff-grpc-{}-{number}.sock", std::process::id());
        let mut served = Served { socket: std::env::temp_dir().join(name), stop: None };
        served.restart(router);
        served
    }

    fn restart(&mut self, router: Router) {
        self.stop();
        let listener = UnixListener::bind(&self.socket).expect("the socket is free");
        let stop = CancellationToken::new();
        tokio::spawn(router.serve(listener, stop.clone()));
        self.stop = Some(stop.drop_guard());
    }

    fn stop(&mut self) {
        self.stop = None;
        let _ = std::fs::remove_file(&self.socket);
    }

    fn channel(&self) -> Channel {
        Channel::unix(&self.socket)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

fn echo() -> Router {
    Router::default()
        .unary("/test.Echo/Say", |text: String| async move { Ok(text) })
        .unary("/test.Echo/Refuse", |text: String| async move {
            Err::<String, _>(Status::new(Code::FailedPrecondition, text))
        })
        .unary("/test.Echo/Hang", |_: String| std::future::pending::<Result<String, Status>>())
        .server_streaming("/test.Echo/Count", |last: u32| async move {
            Ok(stream::iter((1..=last).map(Ok)).boxed())
        })
        .server_streaming("/test.Echo/Break", |text: String| async move {
            let ends = Status::new(Code::Aborted, "enough");
            Ok(stream::iter([Ok(text), Err(ends)]).boxed())
        })
}

async fn say(channel: &Channel, text: &str) -> Result<String, Status> {
    channel.unary("/test.Echo/Say", &text.to_owned(), None).await
}

#[tokio::test]
async fn one_message_goes_and_one_comes_back() {
    let served = Served::start(echo());
    let channel = served.channel();
    assert_eq!(say(&channel, "ahoy").await.expect("an answer"), "ahoy");
    assert_eq!(say(&channel, "").await.expect("an empty answer"), "");
    let many = (0..200).map(|n| {
        let channel = &channel;
        async move { say(channel, &n.to_string()).await.expect("an answer") }
    });
    let answers = futures::future::join_all(many).await;
    assert_eq!(answers[199], "199");
}

#[tokio::test]
async fn refusals_keep_their_code_and_text() {
    let served = Served::start(echo());
    let channel = served.channel();
    let refused = channel.unary::<_, String>("/test.Echo/Refuse", &"nein\n".to_owned(), None).await;
    assert_eq!(refused, Err(Status::new(Code::FailedPrecondition, "nein\n")));
    let unknown = channel.unary::<_, String>("/test.Echo/Sing", &String::new(), None).await;
    let text = "rpc error: code = Unimplemented desc = unknown method Sing for service test.Echo";
    assert_eq!(unknown.expect_err("no such method").to_string(), text);
}

#[tokio::test]
async fn answers_stream_until_their_status() {
    let served = Served::start(echo());
    let channel = served.channel();
    let mut numbers = channel
        .server_streaming::<_, u32>("/test.Echo/Count", &1000_u32, None)
        .await
        .expect("a stream");
    let mut sum = 0;
    while let Some(number) = numbers.next().await.expect("a good end") {
        sum += number;
    }
    assert_eq!(sum, 500_500);

    let mut broken = channel
        .server_streaming::<_, String>("/test.Echo/Break", &"one".to_owned(), None)
        .await
        .expect("a stream");
    assert_eq!(broken.next().await, Ok(Some("one".to_owned())));
    assert_eq!(broken.next().await, Err(Status::new(Code::Aborted, "enough")));
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let served = Served::start(echo());
    let timeout = Some(Duration::from_millis(20));
    let channel = served.channel();
    let late = channel.unary::<_, String>("/test.Echo/Hang", &String::new(), timeout).await;
    assert_eq!(late.expect_err("nobody answers").code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn messages_are_limited_on_both_sides() {
    let served = Served::start(echo().max_message(100));
    let large = "x".repeat(99);
    let code = |answer: Result<String, Status>| answer.map_err(|status| status.code);
    assert_eq!(code(say(&served.channel(), &large).await), Err(Code::ResourceExhausted));
    let small = served.channel().max_message(20);
    assert_eq!(code(say(&small, &large[..18]).await), Ok(large[..18].to_owned()));
    assert_eq!(code(say(&small, &large[..19]).await), Err(Code::ResourceExhausted));
}

#[tokio::test]
async fn a_channel_finds_a_server_that_was_started_again() {
    let mut served = Served::start(echo());
    let channel = served.channel();
    assert_eq!(say(&channel, "before").await.expect("an answer"), "before");
    served.stop();
    let gone = say(&channel, "between").await.expect_err("nobody listens");
    assert_eq!(gone.code, Code::Unavailable);
    served.restart(echo());
    assert_eq!(say(&channel, "after").await.expect("an answer"), "after");
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named() {
    let gone = say(&Channel::unix("/nonexistent/x.sock"), "").await.expect_err("no socket");
    let text = "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error \
                while dialing: dial unix /nonexistent/x.sock: connect: no such file or directory\"";
    assert_eq!(gone.to_string(), text);
}
