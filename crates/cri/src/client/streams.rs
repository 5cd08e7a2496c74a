//! Exec and attach: the runtime answers where its streaming server is, and the streams are fetched there.
//!
//! A URL -> SPDY/3.1 with `v4.channel.k8s.io`, which every CRI runtime serves -> a [`StreamSession`]. Counterpart: client-go's
//! `remotecommand`, as the kubelet's proxy to the runtime uses it.
//! Invariant: the connection lives as long as any part of the session.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use skiff_runtime::{Error, Result, StreamSession, Terminal};
use skiff_streams::{
    CommandStatus, StreamOptions, TerminalSize,
    client::{ExecClient, Kept, Transport},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Sizes that wait to be sent; of more than that, none matters.
const PENDING_SIZES: usize = 16;

pub async fn connect(url: &str, options: StreamOptions) -> Result<StreamSession> {
    let (stream, path) = dial(url).await?;
    let client = ExecClient::connect(stream, &path, Transport::Spdy, PROTOCOL, options).await;
    Ok(session(client.map_err(broken)?))
}

async fn dial(url: &str) -> Result<(TcpStream, String)> {
    let invalid = || Error::InvalidConfig {
        what: "URL of the runtime's streaming server",
        reason: format!("{url:?} is not one that can be dialled: only plain HTTP is spoken"),
    };
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(invalid());
    };
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok((stream.map_err(broken)?, path.to_owned()))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Remote(Box::new(error))
}

fn session(client: ExecClient) -> StreamSession {
    let (streams, kept) = client.into_parts();
    let kept = Arc::new(kept);
    let terminal = streams.resize.map(|mut sizes| {
        let (sender, mut receiver) = mpsc::channel::<TerminalSize>(PENDING_SIZES);
        tokio::spawn(async move {
            while let Some(size) = receiver.recv().await {
                if sizes.send(size).await.is_err() {
                    return;
                }
            }
        });
        Terminal::new(move |size| {
            let size = TerminalSize { width: size.width, height: size.height };
            sender.try_send(size).map_err(|_| io::ErrorKind::BrokenPipe.into())
        })
    });
    let mut status = streams.status;
    StreamSession {
        stdin: streams.stdin.map(|stdin| Box::new(Held::new(stdin, &kept)) as _),
        stdout: streams.stdout.map(|stdout| Box::new(Held::new(stdout, &kept)) as _),
        stderr: streams.stderr.map(|stderr| Box::new(Held::new(stderr, &kept)) as _),
        terminal,
        exit: Box::pin(async move {
            let _kept = kept;
            match status.wait().await.map_err(broken)? {
                CommandStatus::Success => Ok(0),
                CommandStatus::ExitCode(code) => Ok(code),
                CommandStatus::InternalError(reason) => Err(broken(io::Error::other(reason))),
            }
        }),
    }
}

/// A stream whose connection stays while it is used, also after the status has come.
struct Held<S> {
    stream: S,
    _kept: Arc<Kept>,
}

impl<S> Held<S> {
    fn new(stream: S, kept: &Arc<Kept>) -> Self {
        Held { stream, _kept: kept.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
