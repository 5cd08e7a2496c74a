//! The shim: one small process per pod that holds the sandbox and parents its containers.
//!
//! Consumes requests on a unix socket, output of containers and their deaths; emits log lines, exit
//! files and events. Counterpart: containerd-shim, conmon and the pause container in one. The shim
//! itself lives in the pod's network, IPC and UTS namespaces, so no other process has to hold them,
//! and it has a mount namespace of its own, so nothing it mounts can outlive it.
//! Invariant: one thread, no runtime, and nothing known only in memory that a restarted daemon
//! needs: what happened is in files before anybody is told.

mod containers;
mod event_loop;
mod log;
pub(crate) mod protocol;
mod sandbox;
mod stdio;

use std::{ffi::OsString, io::Write, path::PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use containers::{ContainerRun, ExitRecord};
pub(crate) use sandbox::SandboxSpec;

use crate::procfs::ProcessId;

/// The argument that makes the binary a shim: `skiff skiff-shim <sandbox directory>`.
pub const SHIM_COMMAND: &str = "skiff-shim";

/// Files in the sandbox's directory, named by both halves.
pub(crate) const SPEC_FILE: &str = "shim-spec.json";
pub(crate) const SOCKET_FILE: &str = "shim.sock";
/// Files in a container's directory.
pub(crate) const CONTAINER_SPEC_FILE: &str = "spec.json";
pub(crate) const RUN_FILE: &str = "run.json";
pub(crate) const EXIT_FILE: &str = "exit.json";

/// The one line a shim prints: that it serves, or why it cannot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ready {
    Serving(ProcessId),
    Failed(String),
}

/// Runs as a shim if the arguments (without the program's name) say so; call first thing in `main`,
/// before any thread exists.
pub fn shim_main_if_asked(mut args: impl Iterator<Item = OsString>) {
    if args.next().is_some_and(|first| first == SHIM_COMMAND) {
        shim_main(args)
    }
}

/// The life of a shim. `args` is the sandbox's directory.
pub fn shim_main(mut args: impl Iterator<Item = OsString>) -> ! {
    let Some(dir) = args.next().map(PathBuf::from) else {
        eprintln!("the shim is started by skiff, with a sandbox directory");
        std::process::exit(2);
    };
    let code = match sandbox::Sandbox::set_up(dir).and_then(event_loop::EventLoop::new) {
        Ok(event_loop) => match announce(&Ready::Serving(ProcessId::own())) {
            Ok(()) => event_loop.run(),
            Err(_) => 1,
        },
        Err(reason) => {
            // The daemon reads this; if it is gone there is nobody to tell.
            let _ = announce(&Ready::Failed(reason));
            1
        }
    };
    std::process::exit(code)
}

/// Prints the line and lets go of the daemon's pipe.
fn announce(ready: &Ready) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(ready)?;
    line.push(b'\n');
    std::io::stdout().write_all(&line)?;
    std::io::stdout().flush()?;
    sandbox::detach_stdout()
}
