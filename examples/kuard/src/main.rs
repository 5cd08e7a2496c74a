//! kuard: the sample app. Shows what a pod sees, and can be told to misbehave.
//!
//! Books and guides demonstrate Kubernetes with an app of this name; this one is written anew for
//! Skiff and speaks the same HTTP. `/` explains itself to people, everything else is for scripts.

mod app;
mod dns;
mod files;
mod http;
mod keygen;
mod memory;
mod memq;
mod metrics;
mod options;
mod page;
mod probe;
mod serve;

use std::process::ExitCode;
use std::sync::Arc;

use app::App;
use clap::Parser;
use options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let app = Arc::new(App::new(&options));
    println!("{} Starting kuard version: {}", app::now(), app.version);
    let ended = keygen::start(&app, options.keygen());
    tokio::select! {
        served = serve::run(app, &options) => match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{} {error}", app::now());
                ExitCode::FAILURE
            }
        },
        code = ended => ExitCode::from(code),
    }
}
