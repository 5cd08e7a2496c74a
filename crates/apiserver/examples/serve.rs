//! The API server alone, on loopback: for kubectl, the recorded answers and measurements.
//!
//! `cargo run -p skiff-apiserver --example serve -- DIR [PORT]` writes `DIR/admin.kubeconfig` and serves until interrupted.

use std::time::Instant;

use skiff_apiserver::{ApiServer, ApiServerConfig};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: serve DIR [PORT]")?;
    let port = args.next().map_or(Ok(0), |text| text.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    let config = ApiServerConfig { port, allow_privileged: false, ..ApiServerConfig::new(&dir) };
    let server = ApiServer::build(config).await?;
    let url = format!("https://127.0.0.1:{port}");
    std::fs::write(format!("{dir}/admin.kubeconfig"), server.admin_kubeconfig(&url, "skiff")?)?;
    println!("serving {url} after {} ms", begun.elapsed().as_millis());
    server.serve(listener, async { drop(tokio::signal::ctrl_c().await) }).await?;
    server.close().await?;
    Ok(())
}
