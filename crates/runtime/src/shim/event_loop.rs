//! The shim's only loop: wait for anything, handle it, write it down, tell the daemon.
//!
//! Consumes signals, connections and container output, emits answers and events. Invariant: nothing
//! in here waits for the daemon or for an attached reader; the only wait besides poll is for a
//! child between fork and exec.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use super::{
    containers::{Container, exit_code, internal},
    protocol::{self, Failure, Inbox, Message, Received, Request, encode},
    sandbox::Sandbox,
};

pub(super) struct EventLoop {
    sandbox: Sandbox,
    signals: SignalFd,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    execs: Vec<Pid>,
    finished: bool,
}

struct Connection {
    stream: UnixStream,
    inbox: Inbox,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    closed: bool,
}

/// What poll said is ready. Numbers are positions, valid until the next poll.
enum Ready {
    Signals,
    Listener,
    Connection(usize),
    Output(usize, usize),
    Taps(usize, usize),
}

/// A message and the descriptors that go with it.
type Answer = (Message, Vec<OwnedFd>);

// === impl EventLoop ===

impl EventLoop {
    pub fn new(sandbox: Sandbox) -> Result<Self, String> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let text = |error| format!("watch children: {error}");
        children.thread_block().map_err(text)?;
        let signals =
            SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .map_err(text)?;
        Ok(EventLoop {
            sandbox,
            signals,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            finished: false,
        })
    }

    pub fn run(mut self) -> i32 {
        while !self.finished {
            for ready in self.wait() {
                self.handle(ready);
            }
            self.connections.retain_mut(Connection::flush);
            self.containers
                .retain(|one| one.is_running() || !one.outputs.iter().all(|out| out.is_finished()));
        }
        // The last answers; who does not take them now is gone.
        self.connections.retain_mut(Connection::flush);
        let _ = std::fs::remove_file(self.sandbox.dir.join(super::SOCKET_FILE));
        0
    }

    fn wait(&self) -> Vec<Ready> {
        let mut waiting = vec![
            (Ready::Signals, PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)),
            (Ready::Listener, PollFd::new(self.sandbox.listener.as_fd(), PollFlags::POLLIN)),
        ];
        for (at, connection) in self.connections.iter().enumerate() {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !connection.outbox.is_empty());
            waiting.push((Ready::Connection(at), PollFd::new(connection.stream.as_fd(), events)));
        }
        for (at, container) in self.containers.iter().enumerate() {
            for (nth, output) in container.outputs.iter().enumerate() {
                let source = output.source().map(|source| PollFd::new(source, PollFlags::POLLIN));
                waiting.extend(source.map(|source| (Ready::Output(at, nth), source)));
                waiting.extend(output.taps().map(|(sink, behind)| {
                    let events = if behind { PollFlags::POLLOUT } else { PollFlags::empty() };
                    (Ready::Taps(at, nth), PollFd::new(sink, events))
                }));
            }
        }
        let mut polled: Vec<PollFd<'_>> = waiting.iter().map(|(_, fd)| fd.clone()).collect();
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            return Vec::new();
        }
        let fired = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        waiting
            .into_iter()
            .zip(&polled)
            .filter(|(_, fd)| fired(fd))
            .map(|((ready, _), _)| ready)
            .collect()
    }

    fn handle(&mut self, ready: Ready) {
        match ready {
            Ready::Signals => self.reap(),
            Ready::Listener => self.accept(),
            Ready::Connection(at) => self.serve(at),
            Ready::Output(at, nth) => {
                let container = &mut self.containers[at];
                container.outputs[nth].pump(&mut container.log);
            }
            Ready::Taps(at, nth) => self.containers[at].outputs[nth].flush_taps(),
        }
    }

    // --- children ---

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        // One signal may stand for several children.
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { break };
            if let Some(code) = exit_code(&status) {
                self.on_exit(pid, code);
            }
        }
    }

    fn on_exit(&mut self, pid: Pid, exit_code: i32) {
        if let Some(container) = self.containers.iter_mut().find(|container| container.is(pid)) {
            container.finish(exit_code);
            let container = container.id.clone();
            self.publish(|| Message::ContainerExited { container: container.clone() });
        } else if let Some(at) = self.execs.iter().position(|exec| *exec == pid) {
            self.execs.swap_remove(at);
            self.publish(|| Message::ExecExited { exec: pid.as_raw(), exit_code });
        } else if self.sandbox.pause == Some(pid) {
            // The kernel has killed everything in the pod's PID namespace; nothing can be started
            // in it again.
            eprintln!("the pod's init ended with {exit_code}");
            self.shut_down();
        }
    }

    fn shut_down(&mut self) {
        for container in &mut self.containers {
            if container.is_running() {
                container.destroy();
                let container = container.id.clone();
                for connection in &mut self.connections {
                    connection.push(
                        0,
                        Message::ContainerExited { container: container.clone() },
                        Vec::new(),
                    );
                }
            }
        }
        if let Some(pause) = self.sandbox.pause.take() {
            let _ = kill(pause, Signal::SIGKILL);
            let _ = waitpid(pause, None);
        }
        self.finished = true;
    }

    fn publish(&mut self, message: impl Fn() -> Message) {
        self.connections
            .iter_mut()
            .for_each(|connection| connection.push(0, message(), Vec::new()));
    }

    // --- requests ---

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.sandbox.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection::new(stream));
            }
        }
    }

    fn serve(&mut self, at: usize) {
        self.connections[at].receive();
        loop {
            match self.connections[at].inbox.next::<Request>() {
                Ok(None) => break,
                Ok(Some(Received { id, body, descriptors })) => {
                    let (message, descriptors) = self
                        .answer(body, descriptors)
                        .unwrap_or_else(|failure| (Message::Failed(failure), Vec::new()));
                    self.connections[at].push(id, message, descriptors);
                }
                Err(error) => {
                    eprintln!("a request cannot be read: {error}");
                    self.connections[at].closed = true;
                    break;
                }
            }
        }
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Answer, Failure> {
        match request {
            Request::Start { container } => {
                if self.containers.iter().any(|known| known.id == container) {
                    return Err(internal("the container was started before"));
                }
                let container = Container::start(&self.sandbox, &container)?;
                self.containers.push(container);
            }
            Request::Exec { container, process, streams } => {
                return self.exec(&container, &process, streams, descriptors);
            }
            Request::Signal { container, signal, all } => {
                self.container(&container)?.signal(signal, all)?
            }
            Request::SignalExec { exec, signal } => {
                self.signal_exec(Pid::from_raw(exec), signal)?
            }
            Request::Attach { container, stdout, stderr } => {
                let stdin = self.container(&container)?.attach([stdout, stderr], descriptors)?;
                return Ok((Message::Attached, stdin.into_iter().collect()));
            }
            Request::CloseStdin { container } => self.container(&container)?.close_stdin(),
            Request::ReopenLog { container } => {
                self.container(&container)?.log.reopen().map_err(internal)?
            }
            Request::Shutdown => self.shut_down(),
        }
        Ok((Message::Done, Vec::new()))
    }

    fn exec(
        &mut self,
        container: &str,
        process: &crate::process::ProcessSpec,
        streams: [bool; 3],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let mut given = descriptors.into_iter();
        let stdio = streams.map(|wanted| if wanted { given.next() } else { None });
        let container =
            self.containers.iter().find(|one| one.id == container).ok_or(Failure::NotRunning)?;
        let (pid, terminal) = container.exec(&self.sandbox, process, stdio)?;
        self.execs.push(pid);
        Ok((Message::Executing { exec: pid.as_raw() }, terminal.into_iter().collect()))
    }

    fn signal_exec(&self, exec: Pid, signal: i32) -> Result<(), Failure> {
        if !self.execs.contains(&exec) {
            return Err(Failure::NotRunning);
        }
        let signal = Signal::try_from(signal).map_err(internal)?;
        // It leads a session of its own; what it started goes with it.
        let group = kill(Pid::from_raw(-exec.as_raw()), signal);
        group.or_else(|_| kill(exec, signal)).map_err(internal)
    }

    /// One that is not here has exited, or was never started.
    fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.iter_mut().find(|container| container.id == id).ok_or(Failure::NotRunning)
    }
}

// === impl Connection ===

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Connection { stream, inbox: Inbox::default(), outbox: VecDeque::new(), closed: false }
    }

    fn receive(&mut self) {
        match self.inbox.fill(self.stream.as_raw_fd()) {
            Ok(open) => self.closed |= !open,
            Err(error) => self.closed |= error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    fn push(&mut self, id: u64, message: Message, descriptors: Vec<OwnedFd>) {
        match encode(id, message, descriptors.len()) {
            Ok(frame) => self.outbox.push_back((frame, descriptors)),
            Err(error) => eprintln!("a message cannot be written: {error}"),
        }
    }

    /// Sends what the socket takes. False when the connection is over.
    fn flush(&mut self) -> bool {
        while let Some((frame, descriptors)) = self.outbox.front_mut() {
            match protocol::send(self.stream.as_raw_fd(), frame, &protocol::raw(descriptors)) {
                Ok(sent) => {
                    frame.drain(..sent);
                    descriptors.clear();
                    if frame.is_empty() {
                        self.outbox.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        !self.closed
    }
}
