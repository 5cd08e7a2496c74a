//! Debian's `docker-registry` on a test's host.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::Running;
use crate::host::Host;
use crate::run::{Outcome, eventually};

/// Where nodes reach the host: no loopback address, so that plain HTTP is not taken for granted.
const ADDRESS: &str = "192.0.2.10";

/// What a registry insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Anybody, over plain HTTP.
    Http,
    /// TLS by an authority of its own, and the user `robot` with the password `hush`.
    Tls,
}

/// Dropping it ends it; its images go with the host's directory.
pub struct Registry {
    pub host: String,
    /// For `registries.yaml`.
    pub authority: Option<PathBuf>,
    _process: Running,
}

impl Registry {
    pub fn start(host: &Host, door: Door) -> Registry {
        let dir = host.dir().join(format!("registry-{door:?}"));
        std::fs::create_dir_all(&dir).expect("the host's directory is writable");
        let port = if door == Door::Http { 5000 } else { 5001 };
        let address: SocketAddr = format!("{ADDRESS}:{port}").parse().expect("an address");
        run(host.command("ip").args(["addr", "replace", "192.0.2.10/32", "dev", "lo"]));
        let tls = (door == Door::Tls).then(|| authority(&dir));
        let config = dir.join("config.yml");
        std::fs::write(&config, configuration(&dir, address, tls.is_some())).expect("writable");
        let mut command = host.command("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Running::start(&mut command);
        eventually("the registry listens", || {
            host.inside(|| std::net::TcpStream::connect(address).is_ok())
        });
        Registry { host: address.to_string(), authority: tls, _process: process }
    }
}

fn configuration(dir: &Path, address: SocketAddr, secured: bool) -> String {
    let dir = dir.display();
    let security = format!(
        "  tls: {{certificate: {dir}/cert.pem, key: {dir}/key.pem}}\n\
         auth: {{htpasswd: {{realm: test, path: {dir}/htpasswd}}}}\n"
    );
    format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {dir}/data}}}}\n\
         http:\n  addr: {address}\n{}",
        if secured { security.as_str() } else { "" }
    )
}

/// A certificate that signs itself, and the only user.
fn authority(dir: &Path) -> PathBuf {
    let certificate = dir.join("cert.pem");
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=registry", "-addext", "subjectAltName=IP:192.0.2.10", "-days", "2"])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(&certificate));
    run(Command::new("htpasswd").args(["-Bbc"]).arg(dir.join("htpasswd")).args(["robot", "hush"]));
    certificate
}

fn run(command: &mut Command) {
    Outcome::of(command, "").ok();
}
