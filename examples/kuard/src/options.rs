//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::keygen;

#[derive(Debug, Parser)]
#[command(name = "kuard", version)]
pub struct Options {
    /// Where HTTP is served
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub address: SocketAddr,
    /// Where HTTPS is served, if there are certificates
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub tls_address: SocketAddr,
    /// Directory of kuard.crt and kuard.key
    #[arg(long, default_value = "/tls")]
    pub tls_dir: PathBuf,
    /// Fail this many liveness probes; a negative number fails all
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub liveness_fail_next: i64,
    /// Fail this many readiness probes; a negative number fails all
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub readiness_fail_next: i64,
    /// Generate keys, to have something to do
    #[arg(long)]
    keygen_enable: bool,
    /// End the process when the keys are made
    #[arg(long)]
    keygen_exit_on_complete: bool,
    /// Exit code to end with
    #[arg(long, default_value_t = 0)]
    keygen_exit_code: u8,
    /// How many keys; 0 for no limit
    #[arg(long, default_value_t = 0)]
    keygen_num_to_gen: u64,
    /// For how many seconds; 0 for no limit
    #[arg(long, default_value_t = 0)]
    keygen_time_to_run: u64,
    /// URL of a memq server; one key is made per message
    #[arg(long, default_value = "")]
    keygen_memq_server: String,
    /// Queue on that server
    #[arg(long, default_value = "")]
    keygen_memq_queue: String,
    /// Whatever else is given is shown, and otherwise ignored
    _ignored: Vec<String>,
}

impl Options {
    pub fn keygen(&self) -> keygen::Config {
        keygen::Config {
            enable: self.keygen_enable,
            exit_on_complete: self.keygen_exit_on_complete,
            exit_code: self.keygen_exit_code,
            num_to_gen: self.keygen_num_to_gen,
            time_to_run: self.keygen_time_to_run,
            memq_server: self.keygen_memq_server.clone(),
            memq_queue: self.keygen_memq_queue.clone(),
        }
    }
}
