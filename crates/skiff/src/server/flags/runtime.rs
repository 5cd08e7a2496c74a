//! Which container runtime runs this node's pods, and where the one of this process can be asked.

use std::path::{Path, PathBuf};

use clap::Args;
use skiff_cri::socket_of;

use super::Result;

#[derive(Debug, Args)]
#[command(next_help_heading = "Container runtime")]
pub struct RuntimeArgs {
    /// Run pods by the container runtime at this CRI socket, with its images and its network, instead of by the one that is built in;
    /// such as unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "ENDPOINT")]
    container_runtime_endpoint: Option<String>,
    /// The CRI socket that has the images [default: that of --container-runtime-endpoint]
    #[arg(long, value_name = "ENDPOINT", requires = "container_runtime_endpoint")]
    image_service_endpoint: Option<String>,
    /// Where the runtime that is built in answers CRI, for crictl and its like [default: cri.sock below --data-dir]
    #[arg(long, value_name = "PATH", conflicts_with = "container_runtime_endpoint")]
    cri_socket: Option<PathBuf>,
}

/// Decided once.
#[derive(Debug, Clone)]
pub enum RuntimeTerms {
    Embedded { cri_socket: PathBuf },
    Remote { endpoint: String, runtime: PathBuf, images: PathBuf },
}

// === impl RuntimeArgs ===

impl RuntimeArgs {
    pub fn terms(&self, data_dir: &Path) -> Result<RuntimeTerms> {
        let Some(endpoint) = self.container_runtime_endpoint.as_deref().filter(|e| !e.is_empty())
        else {
            let cri_socket = self.cri_socket.clone();
            return Ok(RuntimeTerms::Embedded {
                cri_socket: cri_socket.unwrap_or_else(|| data_dir.join("cri.sock")),
            });
        };
        let images = self.image_service_endpoint.as_deref().filter(|e| !e.is_empty());
        Ok(RuntimeTerms::Remote {
            endpoint: endpoint.to_owned(),
            runtime: socket_of(endpoint)?,
            images: socket_of(images.unwrap_or(endpoint))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        runtime: RuntimeArgs,
    }

    fn terms(args: &[&str]) -> std::result::Result<String, String> {
        let args = std::iter::once("skiff").chain(args.iter().copied());
        let parsed = Command::try_parse_from(args).map_err(|error| error.to_string())?;
        let terms = parsed.runtime.terms(Path::new("/data")).map_err(|error| error.to_string())?;
        Ok(match terms {
            RuntimeTerms::Embedded { cri_socket } => format!("embedded {}", cri_socket.display()),
            RuntimeTerms::Remote { runtime, images, .. } => {
                format!("remote {} {}", runtime.display(), images.display())
            }
        })
    }

    #[test]
    fn images_are_where_containers_are_unless_told_otherwise() {
        assert_eq!(terms(&[]).as_deref(), Ok("embedded /data/cri.sock"));
        let remote = "--container-runtime-endpoint=unix:///c.sock";
        assert_eq!(terms(&[remote]).as_deref(), Ok("remote /c.sock /c.sock"));
        let images = "--image-service-endpoint=/i.sock";
        assert_eq!(terms(&[remote, images]).as_deref(), Ok("remote /c.sock /i.sock"));
        assert!(terms(&[images]).is_err(), "images of which runtime?");
        assert!(terms(&[remote, "--cri-socket=/s"]).is_err(), "it has a socket of its own");
        assert!(terms(&["--container-runtime-endpoint=tcp://c:1"]).is_err());
    }
}
