//! Device plugins come and go.
//!
//! `Register` on `kubelet.sock`, or a socket in the plugins' registry -> the plugin's options and its `ListAndWatch` followed until it
//! ends -> the [`Inventory`](super::inventory::Inventory). Counterpart: `pkg/kubelet/cm/devicemanager/plugin/v1beta1`.
//! Invariant: of two plugins for a resource the later one counts; sockets of an earlier run are removed, which tells their plugins
//! to register again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use skiff_grpc::{Channel, Code, Router, Status};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{
    inventory::{Endpoint, Plugin},
    messages::{DevicePluginOptions, ListAndWatchResponse, RegisterRequest},
};
use crate::context::NodeContext;

pub const VERSION: &str = "v1beta1";
const SOCKET: &str = "kubelet.sock";
const SERVICE: &str = "/v1beta1.DevicePlugin";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>) {
    let dir = ctx.devices.dir().to_owned();
    let listener = match listen(&dir) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(dir = %dir.display(), %error, "device plugins cannot register");
        }
    };
    let register = move |request: RegisterRequest| {
        let (ctx, dir) = (ctx.clone(), dir.clone());
        async move {
            let refused = |why: String| Status::new(Code::Unknown, why);
            check_version(&[request.version]).map_err(refused)?;
            check_name(&request.resource_name).map_err(refused)?;
            connect(&ctx, &request.resource_name, dir.join(&request.endpoint)).await?;
            Ok(())
        }
    };
    let router = Router::default().unary("/v1beta1.Registration/Register", register);
    router.serve(listener, CancellationToken::new()).await;
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    UnixListener::bind(dir.join(SOCKET))
}

pub fn check_version(versions: &[String]) -> Result<(), String> {
    match versions.iter().any(|version| version == VERSION) {
        true => Ok(()),
        false => Err(format!(
            "requested API version {:?} is not supported by kubelet. Supported version is [{VERSION:?}]",
            versions.join(",")
        )),
    }
}

/// A resource of the cluster's own has a domain, and not one of Kubernetes.
pub fn check_name(name: &str) -> Result<(), String> {
    let (domain, rest) = name.split_once('/').unwrap_or_default();
    let part = |text: &str, most: usize, more: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= most
            && text.chars().all(allowed)
            && edge(text.chars().next())
            && edge(text.chars().last())
    };
    let native = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let requests = domain.starts_with("requests.");
    match part(domain, 253, "-.") && part(rest, 63, "-._") && !native && !requests {
        true => Ok(()),
        false => Err(format!("the ResourceName {name:?} is invalid")),
    }
}

/// Asks the plugin for its options, and follows its devices from then on.
pub async fn connect(
    ctx: &Arc<NodeContext>,
    resource: &str,
    socket: PathBuf,
) -> Result<(), Status> {
    let channel = Arc::new(Channel::unix(socket));
    let path = format!("{SERVICE}/GetDevicePluginOptions");
    let options: DevicePluginOptions = channel
        .unary(&path, &(), Some(TIMEOUT))
        .await
        .map_err(|it| Status::new(it.code, format!("failed to get device plugin options: {it}")))?;
    let generation = ctx.devices.next_generation();
    ctx.devices.update(|inventory| {
        let known = inventory.resources.entry(resource.to_owned()).or_default();
        known.plugin =
            Plugin::Connected(Endpoint { channel: channel.clone(), options, generation });
    });
    tracing::info!(resource, "device plugin registered");
    tokio::spawn(follow(ctx.clone(), resource.to_owned(), channel, generation));
    Ok(())
}

/// Until the plugin ends its list, or another takes its place.
async fn follow(ctx: Arc<NodeContext>, resource: String, channel: Arc<Channel>, generation: u64) {
    let path = format!("{SERVICE}/ListAndWatch");
    let mut lists = match channel.server_streaming(&path, &(), None).await {
        Ok(lists) => lists,
        Err(error) => return left(&ctx, &resource, generation, &error.to_string()),
    };
    loop {
        let list: ListAndWatchResponse = match lists.next().await {
            Ok(Some(list)) => list,
            Ok(None) => return left(&ctx, &resource, generation, "the list has ended"),
            Err(error) => return left(&ctx, &resource, generation, &error.to_string()),
        };
        let is_current = ctx.devices.update(|inventory| {
            let known = inventory.resources.get_mut(&resource).expect("resources stay");
            let is_current =
                matches!(&known.plugin, Plugin::Connected(it) if it.generation == generation);
            if is_current {
                let devices = list.devices.into_iter().map(|device| (device.id.clone(), device));
                known.devices = devices.collect();
            }
            is_current
        });
        if !is_current {
            return;
        }
        ctx.devices.record();
    }
}

fn left(ctx: &NodeContext, resource: &str, generation: u64, why: &str) {
    if ctx.devices.update(|it| it.plugin_left(resource, generation, Instant::now())) {
        tracing::info!(resource, why, "device plugin has left");
        ctx.devices.record();
    }
}

/// The plugin's socket in the plugins' registry is gone.
pub fn disconnect(ctx: &NodeContext, resource: &str) {
    let generation = ctx.devices.endpoint(resource).map(|it| it.generation);
    if let Some(generation) = generation {
        left(ctx, resource, generation, "its socket is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_needs_a_domain_that_is_not_kubernetes_own() {
        assert!(check_name("example.com/dongle").is_ok());
        for name in
            ["dongle", "kubernetes.io/dongle", "node.kubernetes.io/x", "requests.x/y", "/x", "x/"]
        {
            let error = check_name(name).expect_err("refused");
            assert_eq!(error, format!("the ResourceName {name:?} is invalid"));
        }
        let error = check_version(&["v1alpha1".to_owned()]).expect_err("refused");
        assert_eq!(
            error,
            r#"requested API version "v1alpha1" is not supported by kubelet. Supported version is ["v1beta1"]"#
        );
    }
}
