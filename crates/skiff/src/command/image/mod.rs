//! `skiff image ..`: asks the running node over its socket.

mod build;
mod door;
mod grammar;
mod login;
mod progress;

use std::path::Path;
use std::process::ExitCode;

use door::{Body, Door, Error, Result, empty, query, streamed};
use grammar::CredentialArgs;
pub use grammar::ImageCommand;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use progress::{Meter, short};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::{Done, block_on};
use crate::node_socket::{ImageRow, PullRequest};

pub fn run(command: ImageCommand) -> Done {
    block_on(async {
        carry_out(command).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn carry_out(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Build(args) => build::build(args).await?,
        ImageCommand::Pull { cluster, credentials, images } => {
            let door = Door { cluster: cluster.name };
            for image in images {
                transfer(&door, ["/images/pull", "Pulling", "Pulled"], &credentials, &image)
                    .await?;
            }
        }
        ImageCommand::Push { cluster, credentials, images } => {
            let door = Door { cluster: cluster.name };
            for image in images {
                transfer(&door, ["/images/push", "Pushing", "Pushed"], &credentials, &image)
                    .await?;
            }
        }
        ImageCommand::Load { cluster, files } => {
            let door = Door { cluster: cluster.name };
            for file in files {
                load(&door, &file).await?;
            }
        }
        ImageCommand::Save { cluster, output, images } => {
            save(&Door { cluster: cluster.name }, &output, &images).await?;
        }
        ImageCommand::Tag { cluster, image, new_name } => {
            let path = query("/images/tag", &[("name", &image), ("to", &new_name)]);
            Door { cluster: cluster.name }
                .ask::<Vec<ImageRow>>(Method::POST, &path, empty())
                .await?;
        }
        ImageCommand::Ls { cluster, quiet } => {
            list(&Door { cluster: cluster.name }, quiet).await?;
        }
        ImageCommand::Rm { cluster, force, images } => {
            let door = Door { cluster: cluster.name };
            for image in images {
                remove(&door, &image, force).await?;
            }
        }
        ImageCommand::Prune { cluster, all } => prune(&Door { cluster: cluster.name }, all).await?,
        ImageCommand::Inspect { cluster, images } => {
            inspect(&Door { cluster: cluster.name }, &images).await?;
        }
    }
    Ok(())
}

/// Pulls or pushes; `words` are the path, what is being done, and what was done.
async fn transfer(
    door: &Door,
    words: [&'static str; 3],
    credentials: &CredentialArgs,
    image: &str,
) -> Result<()> {
    let [path, doing, done] = words;
    let auth = login::credentials(credentials, image)?;
    let request = serde_json::to_vec(&PullRequest { image: image.to_owned(), auth })?;
    let mut meter = Meter::new(doing, image);
    let result = door.follow(path, full(request), |step| meter.tell(step)).await;
    meter.finish();
    println!("{done} {image} ({})", short(&result?));
    Ok(())
}

async fn load(door: &Door, file: &Path) -> Result<()> {
    let body = match file == Path::new("-") {
        true => streamed(tokio::io::stdin()),
        false => streamed(File::open(file).await.map_err(|source| cannot_use(file, source))?),
    };
    let rows: Vec<ImageRow> = door.ask(Method::POST, "/images", body).await?;
    for row in rows {
        println!("Loaded {}", row.name);
    }
    Ok(())
}

/// A file that was begun is complete or removed again.
async fn save(door: &Door, output: &Path, images: &[String]) -> Result<()> {
    let names: Vec<(&str, &str)> = images.iter().map(|image| ("name", image.as_str())).collect();
    let mut archive =
        door.send(Method::GET, &query("/images/archive", &names), empty()).await?.into_body();
    if output == Path::new("-") {
        return copy(&mut archive, tokio::io::stdout()).await;
    }
    let file = File::create(output).await.map_err(|source| cannot_use(output, source))?;
    let copied = copy(&mut archive, file).await;
    if copied.is_err() {
        // The first error is the one to show.
        let _ = tokio::fs::remove_file(output).await;
    }
    copied
}

async fn copy(
    from: &mut hyper::body::Incoming,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> Result<()> {
    while let Some(frame) = from.frame().await {
        let frame = frame.map_err(|_| Error::Refused("the archive broke off".to_owned()))?;
        to.write_all(&frame.into_data().unwrap_or_default()).await?;
    }
    Ok(to.flush().await?)
}

async fn list(door: &Door, quiet: bool) -> Result<()> {
    let rows: Vec<ImageRow> = door.ask(Method::GET, "/images", empty()).await?;
    if quiet {
        let ids: std::collections::BTreeSet<&str> =
            rows.iter().map(|row| row.id.as_str()).collect();
        ids.iter().for_each(|id| println!("{id}"));
        return Ok(());
    }
    let widest = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
    println!("{:widest$}  {:12}  SIZE", "IMAGE", "IMAGE ID");
    for row in rows {
        println!("{:widest$}  {:12}  {}", row.name, short(&row.id), size(row.bytes));
    }
    Ok(())
}

async fn remove(door: &Door, image: &str, force: bool) -> Result<()> {
    let mut pairs = vec![("name", image)];
    pairs.extend(force.then_some(("force", "1")));
    let path = query("/images", &pairs);
    door.ask::<Vec<ImageRow>>(Method::DELETE, &path, empty()).await?;
    println!("Removed {image}");
    Ok(())
}

async fn prune(door: &Door, all: bool) -> Result<()> {
    let pairs: &[(&str, &str)] = if all { &[("all", "1")] } else { &[] };
    let path = query("/images/prune", pairs);
    let rows: Vec<ImageRow> = door.ask(Method::POST, &path, empty()).await?;
    for row in &rows {
        println!("Removed {} ({})", row.name, short(&row.id));
    }
    let ids: std::collections::BTreeMap<&str, u64> =
        rows.iter().map(|row| (row.id.as_str(), row.bytes)).collect();
    println!("{} images, {}", ids.len(), size(ids.values().sum()));
    Ok(())
}

async fn inspect(door: &Door, images: &[String]) -> Result<()> {
    let mut found = Vec::new();
    for image in images {
        let path = query("/images/inspect", &[("name", image)]);
        found.push(door.ask::<serde_json::Value>(Method::GET, &path, empty()).await?);
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(())
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn cannot_use(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.to_owned(), source }
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
