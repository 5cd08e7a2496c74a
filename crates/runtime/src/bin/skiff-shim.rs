//! The shim alone: `skiff-shim <sandbox directory>`.
//!
//! For this crate's tests, which have no `skiff` binary to re-execute, and for measuring a shim by
//! itself.

fn main() {
    skiff_runtime::shim_main(std::env::args_os().skip(1))
}
