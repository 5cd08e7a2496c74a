//! Which container runtime runs this node's pods, and where the one of this process can be asked.

use std::path::{Path, PathBuf};

use clap::Args;
use skiff_cri::socket_of;
use skiff_kubelet::KubeletConfiguration;

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
    /// What no flag says, the node's configuration may.
    pub fn terms(
        &self,
        data_dir: &Path,
        node: Option<&KubeletConfiguration>,
    ) -> Result<RuntimeTerms> {
        let flag = self.container_runtime_endpoint.as_deref().filter(|e| !e.is_empty());
        let file = node.and_then(KubeletConfiguration::container_runtime_endpoint);
        if self.cri_socket.is_some() && file.is_some() {
            return Err("--cri-socket cannot be used where the node's configuration has a containerRuntimeEndpoint".into());
        }
        let Some(endpoint) = flag.or(file) else {
            let cri_socket = self.cri_socket.clone();
            return Ok(RuntimeTerms::Embedded {
                cri_socket: cri_socket.unwrap_or_else(|| data_dir.join("cri.sock")),
            });
        };
        let flag = self.image_service_endpoint.as_deref().filter(|e| !e.is_empty());
        let images = flag.or(node.and_then(KubeletConfiguration::image_service_endpoint));
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
        terms_with(args, None)
    }

    fn terms_with(
        args: &[&str],
        node: Option<&KubeletConfiguration>,
    ) -> std::result::Result<String, String> {
        let args = std::iter::once("skiff").chain(args.iter().copied());
        let parsed = Command::try_parse_from(args).map_err(|error| error.to_string())?;
        let terms =
            parsed.runtime.terms(Path::new("/data"), node).map_err(|error| error.to_string())?;
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

    #[test]
    fn the_nodes_configuration_may_name_a_runtime_too() {
        let file = std::env::temp_dir().join(format!("skiff-kubelet-{}.yaml", std::process::id()));
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                    containerRuntimeEndpoint: unix:///f.sock\nimageServiceEndpoint: unix:///i.sock\n";
        std::fs::write(&file, text).expect("a file");
        let node = KubeletConfiguration::read(&file).expect("it reads");
        std::fs::remove_file(&file).expect("it is there");
        assert_eq!(terms_with(&[], Some(&node)).as_deref(), Ok("remote /f.sock /i.sock"));
        let flag = "--container-runtime-endpoint=unix:///c.sock";
        assert_eq!(terms_with(&[flag], Some(&node)).as_deref(), Ok("remote /c.sock /i.sock"));
        assert!(terms_with(&["--cri-socket=/s"], Some(&node)).is_err(), "which is it to be?");
        let plain = KubeletConfiguration::default();
        assert_eq!(terms_with(&[], Some(&plain)).as_deref(), Ok("embedded /data/cri.sock"));
    }
}
