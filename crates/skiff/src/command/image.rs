//! `skiff image load | ls | rm`: asks the running node over its socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use skiff_cluster::Layout;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;

use super::cluster::ClusterArgs;
use super::{Done, block_on};
use crate::node_socket::{Failure, ImageRow};

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an image archive (OCI layout or `docker save`)
    Load {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The archive; - reads standard input
        file: PathBuf,
    },
    /// List images
    Ls {
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Remove images
    Rm {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

type Body = BoxBody<Bytes, std::io::Error>;

/// How much of an archive is sent at a time.
const CHUNK: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cluster {0:?} is not running: start it with `skiff start`")]
    NotRunning(String),
    #[error("cannot read {}", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

pub fn run(command: ImageCommand) -> Done {
    block_on(async {
        match command {
            ImageCommand::Load { cluster, file } => load(&cluster.name, &file).await?,
            ImageCommand::Ls { cluster } => list(&cluster.name).await?,
            ImageCommand::Rm { cluster, images } => {
                for image in images {
                    remove(&cluster.name, &image).await?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn load(cluster: &str, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let body = match file == Path::new("-") {
        true => streamed(tokio::io::stdin()),
        false => {
            let opened = File::open(file).await;
            streamed(opened.map_err(|source| Error::Archive { path: file.into(), source })?)
        }
    };
    let rows: Vec<ImageRow> = ask(cluster, Method::POST, "/images", body).await?;
    for row in rows {
        println!("Loaded {}", row.name);
    }
    Ok(())
}

async fn list(cluster: &str) -> Result<(), Box<dyn std::error::Error>> {
    let rows: Vec<ImageRow> = ask(cluster, Method::GET, "/images", empty()).await?;
    let widest = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
    println!("{:widest$}  {:12}  SIZE", "IMAGE", "IMAGE ID");
    for row in rows {
        let id = row.id.trim_start_matches("sha256:").get(..12).unwrap_or(&row.id);
        println!("{:widest$}  {id:12}  {}", row.name, size(row.bytes));
    }
    Ok(())
}

async fn remove(cluster: &str, image: &str) -> Result<(), Box<dyn std::error::Error>> {
    let path = format!("/images?name={}", escape(image));
    let _: Vec<ImageRow> = ask(cluster, Method::DELETE, &path, empty()).await?;
    println!("Removed {image}");
    Ok(())
}

async fn ask<T: serde::de::DeserializeOwned>(
    cluster: &str,
    method: Method,
    path: &str,
    body: Body,
) -> Result<T, Box<dyn std::error::Error>> {
    let layout = Layout::of(cluster)?;
    let socket = UnixStream::connect(layout.socket())
        .await
        .map_err(|_| Error::NotRunning(cluster.to_owned()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let request = Request::builder().method(method).uri(path).header("host", "node").body(body)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let good = response.status().is_success();
        Ok::<_, hyper::Error>((good, response.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(connection);
    let (good, bytes) = tokio::select! {
        answer = answer => answer?,
        // The connection has ended: the answer is complete or there is none.
        ended = &mut connection => {
            ended?;
            return Err(Error::Refused("the node closed the connection".into()).into());
        }
    };
    match good {
        true => Ok(serde_json::from_slice(&bytes)?),
        false => {
            let failure: Failure = serde_json::from_slice(&bytes)?;
            Err(Error::Refused(failure.error).into())
        }
    }
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

fn streamed(reader: impl AsyncRead + Unpin + Send + Sync + 'static) -> Body {
    let chunks = futures::stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        match reader.read_buf(&mut chunk).await? {
            0 => Ok(None),
            _ => Ok(Some((Frame::data(Bytes::from(chunk)), reader))),
        }
    });
    BodyExt::boxed(StreamBody::new(chunks))
}

/// Everything but letters, digits and a few marks as `%XX`.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.1}{}", units[unit]) }
}
