//! `skiff`: the command line and the wiring of every part; nothing else.
//!
//! One binary plays three parts, told apart before any thread exists: a pod's shim, the holder of
//! a local node's namespaces, and the command line of which `skiff server` is the daemon.

mod cli;
mod command;
mod node_socket;
mod server;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Gives freed memory back within a second, from a thread of its own: idle memory is a promised
/// number, and the usual four arenas per core would multiply it.
// SAFETY: jemalloc reads this symbol as a pointer to a C string, which a thin pointer to a
// NUL-terminated static is.
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: Option<&'static std::ffi::c_char> = Some(unsafe {
    &*c"background_thread:true,narenas:4,dirty_decay_ms:500,muzzy_decay_ms:0".as_ptr()
});

fn main() -> ExitCode {
    skiff_runtime::shim_main_if_asked(std::env::args_os().skip(1));
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("node-holder") => hold_node(args.collect()),
        _ => cli::Cli::parse().run(),
    }
}

/// `skiff node-holder NAME [SERVER ARGS]`: started by `skiff start`, never by hand.
fn hold_node(mut args: Vec<String>) -> ExitCode {
    if args.is_empty() {
        eprintln!("skiff node-holder is run by skiff start");
        return ExitCode::FAILURE;
    }
    let name = args.remove(0);
    skiff_cluster::node::run(&name, &args)
}
