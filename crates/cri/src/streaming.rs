//! A client's streams joined to a container's; whoever serves exec, attach or port-forward does it by these two.
//!
//! Counterpart: `k8s.io/kubelet/pkg/cri/streaming`.
//! Invariant: all output is sent before the status that ends the session; a client that leaves takes its exec'd process' streams
//! with it.

use std::time::Duration;

use skiff_runtime::{Runtime, StreamSession, TerminalSize};
use skiff_streams::{CommandStatus, Error, ForwardedConnection, RemoteCommandStreams};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional},
    task::JoinSet,
};

/// How long output may still come after the process has ended: a grandchild may hold the pipe open.
const DRAIN: Duration = Duration::from_secs(5);

/// Carries bytes until the process ends and its output is through, or the client leaves.
pub async fn join(
    streams: RemoteCommandStreams,
    opened: skiff_runtime::Result<StreamSession>,
) -> Result<(), Error> {
    let RemoteCommandStreams { stdin, stdout, stderr, resize, status } = streams;
    let session = match opened {
        Ok(session) => session,
        Err(error) => return status.finish(CommandStatus::InternalError(error.to_string())).await,
    };
    let mut inputs = JoinSet::new();
    if let (Some(from), Some(to)) = (stdin, session.stdin) {
        inputs.spawn(pump(from, to));
    }
    if let (Some(mut sizes), Some(terminal)) = (resize, session.terminal) {
        inputs.spawn(async move {
            while let Some(size) = sizes.recv().await {
                let size = TerminalSize { width: size.width, height: size.height };
                if let Err(error) = terminal.resize(size) {
                    tracing::debug!(%error, "terminal not resized");
                }
            }
        });
    }
    let mut outputs = JoinSet::new();
    if let (Some(from), Some(to)) = (session.stdout, stdout) {
        outputs.spawn(pump(from, to));
    }
    if let (Some(from), Some(to)) = (session.stderr, stderr) {
        outputs.spawn(pump(from, to));
    }
    let exit = tokio::select! {
        exit = session.exit => exit,
        () = status.closed() => return Ok(()),
    };
    let drained = async { while outputs.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("output was still open after the process had ended");
    }
    let end = match exit {
        Ok(0) => CommandStatus::Success,
        Ok(code) => CommandStatus::ExitCode(code),
        Err(error) => CommandStatus::InternalError(error.to_string()),
    };
    status.finish(end).await
}

/// Copies to the end and closes the far side; an error on either side only means that it is over.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = copy(&mut from, &mut to).await {
        tracing::debug!(%error, "stream broke");
    }
    let _ = to.shutdown().await;
}

/// One forwarded connection, until both sides are done.
pub async fn forward(runtime: &dyn Runtime, sandbox: &str, connection: ForwardedConnection) {
    let ForwardedConnection { port, mut data, mut error } = connection;
    match runtime.dial(sandbox, port).await {
        Ok(mut pod) => {
            if let Err(broken) = copy_bidirectional(&mut data, &mut pod).await {
                tracing::debug!(port, error = %broken, "forwarded connection broke");
            }
        }
        Err(refused) => {
            let text = format!(
                "failed to connect to port {port} inside the pod's network namespace: {refused}"
            );
            let _ = error.write_all(text.as_bytes()).await;
        }
    }
    let _ = error.shutdown().await;
}
