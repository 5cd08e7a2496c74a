//! Exec and attach: one more process in a container, or one more pair of ears at its own.
//!
//! Counterpart: containerd's `container_execsync.go`, `container_exec.go`, `container_attach.go`.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use nix::libc::SIGKILL;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Embedded,
    containers::{describe, wait_exited, wrong_state},
    record::Container,
    shim_client::{Answer, ShimClient},
    streams::{Pipes, StdinOnce, read_all, terminal_streams},
};
use crate::{
    cri::{AttachRequest, BoxRead, BoxWrite, ExecRequest, ExecSyncOutput, StreamSession},
    error::{Error, IoContext, Result},
    files,
    process::{ContainerSpec, ProcessSpec, UserSpec},
    shim::{
        CONTAINER_SPEC_FILE,
        protocol::{Failure, Message, Request},
    },
};

/// After an exec has ended, how long to wait for output that a process it left behind keeps open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// An exec that runs.
struct Running {
    shim: Arc<ShimClient>,
    pid: i32,
    exit: oneshot::Receiver<i32>,
    terminal: Option<std::os::fd::OwnedFd>,
}

impl Embedded {
    pub(super) async fn run_to_end(
        &self,
        container: &Container,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<ExecSyncOutput> {
        let mut pipes = Pipes::new([false, true, true]).at("create pipes for", &container.dir)?;
        let theirs = std::mem::take(&mut pipes.theirs);
        let mut running =
            self.exec_in(container, command, false, [false, true, true], theirs).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let reading = async {
            tokio::join!(read_all(pipes.stdout, &mut stdout), read_all(pipes.stderr, &mut stderr))
        };
        let ended = read_until_exit(&mut running.exit, reading);
        let exit_code = match limit.filter(|limit| !limit.is_zero()) {
            None => Ok(ended.await),
            Some(limit) => timeout(limit, ended).await,
        };
        let Ok(exit_code) = exit_code else {
            // Over already is what was wanted.
            let _ =
                running.shim.tell(Request::SignalExec { exec: running.pid, signal: SIGKILL }).await;
            return Err(Error::ExecTimeout { command: command.join(" ") });
        };
        let exit_code = exit_code.ok_or_else(|| running.shim.gone())?;
        Ok(ExecSyncOutput { stdout, stderr, exit_code })
    }

    pub(super) async fn start_exec(
        &self,
        container: &Container,
        request: ExecRequest,
    ) -> Result<StreamSession> {
        let ExecRequest { command, stdin, stdout, stderr, tty } = request;
        if tty {
            let mut running =
                self.exec_in(container, &command, true, [false; 3], Vec::new()).await?;
            let terminal = running.terminal.take().ok_or_else(|| running.shim.gone())?;
            let (reader, writer, control) =
                terminal_streams(terminal).at("use the terminal of", &container.dir)?;
            return Ok(StreamSession {
                stdin: stdin.then_some(writer),
                stdout: stdout.then_some(reader),
                stderr: None,
                terminal: Some(control),
                exit: running.exit(),
            });
        }
        let wanted = [stdin, stdout, stderr];
        let mut pipes = Pipes::new(wanted).at("create pipes for", &container.dir)?;
        let theirs = std::mem::take(&mut pipes.theirs);
        let running = self.exec_in(container, &command, false, wanted, theirs).await?;
        Ok(StreamSession {
            stdin: pipes.stdin.map(|pipe| Box::new(pipe) as BoxWrite),
            stdout: pipes.stdout.map(|pipe| Box::new(pipe) as BoxRead),
            stderr: pipes.stderr.map(|pipe| Box::new(pipe) as BoxRead),
            terminal: None,
            exit: running.exit(),
        })
    }

    async fn exec_in(
        &self,
        container: &Container,
        command: &[String],
        tty: bool,
        streams: [bool; 3],
        descriptors: Vec<std::os::fd::OwnedFd>,
    ) -> Result<Running> {
        let id = &container.record.id;
        let process = Box::new(exec_process(container, command, tty)?);
        let shim = self.sandbox(&container.record.sandbox_id)?.shim()?;
        let request = Request::Exec { container: id.clone(), process, streams };
        let Answer { message, descriptors, exit } = shim.call(request, descriptors).await?;
        match (message, exit) {
            (Message::Executing { exec }, Some(exit)) => {
                Ok(Running { shim, pid: exec, exit, terminal: descriptors.into_iter().next() })
            }
            (Message::Failed(Failure::NotRunning | Failure::NotFound), _) => {
                Err(wrong_state(container, "exec"))
            }
            (Message::Failed(failure), _) => {
                Err(Error::ExecFailed { id: id.clone(), reason: describe(failure) })
            }
            _ => Err(shim.gone()),
        }
    }

    pub(super) async fn attach_to(
        &self,
        container: &Arc<Container>,
        request: AttachRequest,
    ) -> Result<StreamSession> {
        let (id, config) = (container.record.id.clone(), &container.record.config);
        let shim = self.sandbox(&container.record.sandbox_id)?.shim()?;
        // A terminal is one output.
        let wanted = [request.stdout, request.stderr && !config.tty];
        let mut pipes =
            Pipes::new([false, wanted[0], wanted[1]]).at("create pipes for", &container.dir)?;
        let theirs = std::mem::take(&mut pipes.theirs);
        let ask = Request::Attach { container: id.clone(), stdout: wanted[0], stderr: wanted[1] };
        let answer = shim.call(ask, theirs).await?;
        if let Message::Failed(failure) = answer.message {
            return Err(Error::ExecFailed { id, reason: describe(failure) });
        }
        let mut session = StreamSession {
            stdin: None,
            stdout: pipes.stdout.map(|pipe| Box::new(pipe) as BoxRead),
            stderr: pipes.stderr.map(|pipe| Box::new(pipe) as BoxRead),
            terminal: None,
            exit: exit_of(container.clone()),
        };
        if let Some(descriptor) = answer.descriptors.into_iter().next() {
            if config.tty {
                let (_, writer, control) =
                    terminal_streams(descriptor).at("use the terminal of", &container.dir)?;
                session.terminal = Some(control);
                session.stdin = request.stdin.then_some(writer);
            } else if request.stdin {
                let inner = tokio::net::unix::pipe::Sender::from_owned_fd(descriptor)
                    .at("use the standard input of", &container.dir)?;
                session.stdin = Some(match config.stdin_once {
                    true => Box::new(StdinOnce { inner, shim, container: id }),
                    false => Box::new(inner),
                });
            }
        }
        Ok(session)
    }
}

/// Reads meanwhile, so that the process never waits for room in a pipe. `None` if the shim died.
async fn read_until_exit<T>(
    exit: &mut oneshot::Receiver<i32>,
    reading: impl Future<Output = T>,
) -> Option<i32> {
    let mut reading = std::pin::pin!(reading);
    tokio::select! {
        // Nothing left to read, so only the exit is missing.
        _ = &mut reading => exit.await.ok(),
        code = &mut *exit => {
            // What was printed comes before the exit, but a process left behind may hold the pipe
            // open for ever.
            let _ = timeout(DRAIN_TIMEOUT, reading).await;
            code.ok()
        }
    }
}

impl Running {
    fn exit(self) -> futures::future::BoxFuture<'static, Result<i32>> {
        let Running { shim, exit, .. } = self;
        async move { exit.await.map_err(|_| shim.gone()) }.boxed()
    }
}

fn exit_of(container: Arc<Container>) -> futures::future::BoxFuture<'static, Result<i32>> {
    async move {
        wait_exited(&container).await;
        let code = container.phase.borrow().exit().map(|exit| exit.exit_code);
        code.ok_or_else(|| wrong_state(&container, "attach"))
    }
    .boxed()
}

/// The container's own process with another command: same user, environment and privileges.
fn exec_process(container: &Container, command: &[String], tty: bool) -> Result<ProcessSpec> {
    let spec: ContainerSpec = files::read_json(&container.dir.join(CONTAINER_SPEC_FILE))?
        .ok_or_else(|| wrong_state(container, "exec"))?;
    let user = container.phase.borrow().run().map(|run| run.user.clone());
    let mut process = ProcessSpec { args: command.to_vec(), tty, ..spec.process };
    if let Some(user) = user {
        process.user = UserSpec::Resolved(user);
    }
    if tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    Ok(process)
}
