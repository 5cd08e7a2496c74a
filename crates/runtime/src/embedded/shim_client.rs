//! The daemon's end of a shim: starts one, connects to one, asks it things.
//!
//! Consumes requests, emits answers; what the shim says unasked goes to the [`Listener`].
//! Invariant: when the connection ends, every question still open fails with [`Error::ShimGone`].

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Interest},
    net::UnixStream,
    process::Command,
    sync::oneshot,
    time::timeout,
};

use crate::{
    error::{Error, IoContext, Result},
    procfs::ProcessId,
    shim::{
        Ready, SHIM_COMMAND, SOCKET_FILE,
        protocol::{self, Failure, Inbox, Message, Received, Request, encode},
    },
};

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Long enough for a start on a drowning disk; a caller waiting for ever would be a pod nobody can
/// delete.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How to become a shim: the program and what stands before the sandbox's directory.
#[derive(Debug, Clone)]
pub struct ShimCommand {
    pub program: OsString,
    pub args: Vec<OsString>,
}

impl Default for ShimCommand {
    /// This very program.
    fn default() -> Self {
        ShimCommand { program: "/proc/self/exe".into(), args: vec![SHIM_COMMAND.into()] }
    }
}

/// What a shim says unasked.
pub(super) trait Listener: Send + Sync + 'static {
    fn container_exited(&self, sandbox_id: &str, container: &str);
    /// The connection ended, whatever the reason.
    fn shim_gone(&self, sandbox_id: &str);
}

pub(super) struct ShimClient {
    sandbox_id: String,
    stream: UnixStream,
    /// Keeps frames whole.
    sending: tokio::sync::Mutex<()>,
    next_id: AtomicU64,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    execs: HashMap<i32, oneshot::Sender<i32>>,
    closed: bool,
}

pub(super) struct Answer {
    pub message: Message,
    pub descriptors: Vec<OwnedFd>,
    /// For an exec: resolves to its exit code.
    pub exit: Option<oneshot::Receiver<i32>>,
}

/// Starts a shim for the sandbox in `dir`, which holds its spec, and waits until it serves.
pub(super) async fn spawn(
    command: &ShimCommand,
    sandbox_id: &str,
    dir: &Path,
) -> Result<ProcessId> {
    let failed = |reason: String| Error::SandboxFailed { id: sandbox_id.to_owned(), reason };
    let log = std::fs::File::create(dir.join("shim.log")).at("create", dir.join("shim.log"))?;
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .arg(dir)
        .env_clear()
        // An allocator with a background thread would make forks unsafe and the shim large.
        .env(
            "_RJEM_MALLOC_CONF",
            "background_thread:false,narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0",
        )
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .at("start the shim", Path::new(&command.program))?;
    let output = child.stdout.take().expect("stdout was asked for");
    // Reaps it whenever it ends; only the connection says that it did.
    tokio::spawn(async move { child.wait().await });
    let mut line = String::new();
    let read = timeout(START_TIMEOUT, BufReader::new(output).read_line(&mut line)).await;
    match read.map_err(|_| failed("the shim did not start in time".to_owned()))? {
        Err(error) => Err(failed(error.to_string())),
        Ok(_) => match serde_json::from_str(&line) {
            Ok(Ready::Serving(process)) => Ok(process),
            Ok(Ready::Failed(reason)) => Err(failed(reason)),
            Err(_) => Err(failed(format!(
                "the shim ended at once; see {}",
                dir.join("shim.log").display()
            ))),
        },
    }
}

// === impl ShimClient ===

impl ShimClient {
    pub async fn connect(
        sandbox_id: &str,
        dir: &Path,
        listener: Arc<dyn Listener>,
    ) -> Result<Arc<Self>> {
        // Through the directory: see the shim's listen.
        let handle = std::fs::File::open(dir).at("open", dir)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd());
        let stream = UnixStream::connect(path).await.at("connect to the shim in", dir)?;
        let client = Arc::new(ShimClient {
            sandbox_id: sandbox_id.to_owned(),
            stream,
            sending: tokio::sync::Mutex::new(()),
            next_id: AtomicU64::new(1),
            pending: Mutex::default(),
        });
        tokio::spawn(client.clone().listen(listener));
        Ok(client)
    }

    /// Asks and waits for the answer. The descriptors are sent, and closed here.
    pub async fn call(&self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Answer> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut pending = self.pending();
            if pending.closed {
                return Err(self.gone());
            }
            pending.answers.insert(id, sender);
        }
        self.send(&encode(id, request, descriptors.len()).map_err(|_| self.gone())?, descriptors)
            .await?;
        match timeout(ANSWER_TIMEOUT, receiver).await {
            Ok(answer) => answer.map_err(|_| self.gone()),
            Err(_) => Err(Error::ShimSilent { id: self.sandbox_id.clone() }),
        }
    }

    /// For requests that answer no more than success.
    pub async fn tell(&self, request: Request) -> Result<Result<(), Failure>> {
        Ok(match self.call(request, Vec::new()).await?.message {
            Message::Failed(failure) => Err(failure),
            _ => Ok(()),
        })
    }

    pub fn gone(&self) -> Error {
        Error::ShimGone { id: self.sandbox_id.clone() }
    }

    async fn send(&self, frame: &[u8], descriptors: Vec<OwnedFd>) -> Result<()> {
        let _whole = self.sending.lock().await;
        let (mut sent, raw) = (0, protocol::raw(&descriptors));
        while sent < frame.len() {
            let rights: &[_] = if sent == 0 { &raw } else { &[] };
            let write = || protocol::send(self.stream.as_raw_fd(), &frame[sent..], rights);
            sent +=
                self.stream.async_io(Interest::WRITABLE, write).await.map_err(|_| self.gone())?;
        }
        Ok(())
    }

    async fn listen(self: Arc<Self>, listener: Arc<dyn Listener>) {
        let mut inbox = Inbox::default();
        while let Ok(true) =
            self.stream.async_io(Interest::READABLE, || inbox.fill(self.stream.as_raw_fd())).await
        {
            if let Err(error) = self.dispatch_all(&mut inbox, &*listener) {
                tracing::warn!(sandbox = self.sandbox_id, %error, "the shim sent something unreadable");
                break;
            }
        }
        // Dropping the senders fails whoever waits.
        *self.pending() = Pending { closed: true, ..Pending::default() };
        listener.shim_gone(&self.sandbox_id);
    }

    fn dispatch_all(&self, inbox: &mut Inbox, listener: &dyn Listener) -> io::Result<()> {
        while let Some(received) = inbox.next::<Message>()? {
            self.dispatch(received, listener);
        }
        Ok(())
    }

    fn dispatch(&self, received: Received<Message>, listener: &dyn Listener) {
        let Received { id, body: message, descriptors } = received;
        match message {
            Message::ContainerExited { container } => {
                listener.container_exited(&self.sandbox_id, &container)
            }
            Message::ExecExited { exec, exit_code } => {
                // The caller may have lost interest.
                self.pending().execs.remove(&exec).map(|waiter| waiter.send(exit_code));
            }
            message => {
                let mut pending = self.pending();
                // Registered before the answer is seen, so that an exec that is over at once is not
                // missed.
                let exit = match message {
                    Message::Executing { exec } => {
                        let (sender, receiver) = oneshot::channel();
                        pending.execs.insert(exec, sender);
                        Some(receiver)
                    }
                    _ => None,
                };
                let waiter = pending.answers.remove(&id);
                drop(pending);
                waiter.map(|waiter| waiter.send(Answer { message, descriptors, exit }));
            }
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
