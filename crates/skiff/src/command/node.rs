//! `skiff node add | delete`: simulated nodes, which are Node objects and nothing else.
//!
//! The server plays their kubelets as long as the objects exist. Invariant: nothing but the cluster's API is touched.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use skiff_kubelet::simulated;

use super::{Done, block_on};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const WRITES_AT_A_TIME: usize = 32;
const PREFIX: &str = "simulated-";
/// Nobody's addresses: the range for measurements (RFC 2544).
const FIRST_ADDRESS: u32 = u32::from_be_bytes([198, 18, 0, 0]);

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Add nodes without a machine, whose pods run by the API alone
    Add(NodeAddArgs),
    /// Delete simulated nodes
    Delete(NodeDeleteArgs),
}

#[derive(Debug, Args)]
pub struct NodeAddArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// How many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub simulated: u32,
    /// Processors of each
    #[arg(long, default_value = "8")]
    pub cpu: String,
    /// Memory of each
    #[arg(long, default_value = "32Gi")]
    pub memory: String,
    /// How many pods each takes
    #[arg(long, default_value_t = 110)]
    pub pods: u32,
    /// Labels of each
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Zones over which they are spread; 0 for none
    #[arg(long, default_value_t = 0)]
    pub zones: u32,
}

#[derive(Debug, Args)]
pub struct NodeDeleteArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Every simulated node
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Which
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub names: Vec<String>,
}

pub fn run(command: NodeCommand) -> Done {
    block_on(async {
        match command {
            NodeCommand::Add(args) => add(args).await,
            NodeCommand::Delete(args) => delete(args).await,
        }
    })
}

async fn add(args: NodeAddArgs) -> Done {
    let api = nodes(args.kubeconfig.as_deref()).await?;
    let first = known(&api).await?.iter().filter_map(|name| number(name)).max().unwrap_or(0) + 1;
    let numbers = first..first + args.simulated;
    let made = stream::iter(numbers).map(|number| {
        let (api, node) = (api.clone(), node(number, &args));
        async move { api.create(&PostParams::default(), &node?).await.map_err(Into::into) }
    });
    let made: Result<Vec<Node>> = made.buffer_unordered(WRITES_AT_A_TIME).try_collect().await;
    println!("{} simulated nodes added", made?.len());
    Ok(ExitCode::SUCCESS)
}

async fn delete(args: NodeDeleteArgs) -> Done {
    let api = nodes(args.kubeconfig.as_deref()).await?;
    let known = known(&api).await?;
    let wanted = match args.all {
        true => known,
        false => {
            if let Some(other) = args.names.iter().find(|name| !known.contains(name)) {
                return Err(format!("{other} is not a simulated node").into());
            }
            args.names
        }
    };
    let count = wanted.len();
    let params = DeleteParams::default();
    let gone = stream::iter(wanted).map(|name| {
        let (api, params) = (api.clone(), params.clone());
        async move { api.delete(&name, &params).await.map(drop) }
    });
    gone.buffer_unordered(WRITES_AT_A_TIME).try_collect::<Vec<()>>().await?;
    println!("{count} simulated nodes deleted");
    Ok(ExitCode::SUCCESS)
}

async fn nodes(kubeconfig: Option<&Path>) -> Result<Api<Node>> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    Ok(Api::all(Client::try_from(config)?))
}

async fn known(api: &Api<Node>) -> Result<Vec<String>> {
    let simulated = ListParams::default().labels(simulated::LABEL);
    let nodes = api.list_metadata(&simulated).await?;
    Ok(nodes.items.iter().map(ResourceExt::name_any).collect())
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// A node as a kubelet would register it.
fn node(number: u32, args: &NodeAddArgs) -> Result<Node> {
    let name = format!("{PREFIX}{number}");
    let address = Ipv4Addr::from(FIRST_ADDRESS + number);
    let resources = json!({"cpu": args.cpu, "memory": args.memory, "pods": args.pods.to_string(),
        "ephemeral-storage": "100Gi"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels(number, &name, args)?},
        "status": {
            "capacity": resources, "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [simulated::ready_condition()],
            "nodeInfo": {
                "machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "simulated",
                "osImage": "simulated", "containerRuntimeVersion": "simulated://0",
                "kubeletVersion": skiff_kubelet::KUBELET_VERSION, "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    });
    Ok(serde_json::from_value(node)?)
}

fn labels(number: u32, name: &str, args: &NodeAddArgs) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::from([
        (simulated::LABEL.to_owned(), "true".to_owned()),
        ("kubernetes.io/hostname".into(), name.to_owned()),
        ("kubernetes.io/os".into(), "linux".into()),
        ("kubernetes.io/arch".into(), "amd64".into()),
    ]);
    if args.zones > 0 {
        let zone = format!("zone-{}", number % args.zones);
        labels.insert("topology.kubernetes.io/zone".into(), zone);
    }
    for label in &args.labels {
        let (key, value) =
            label.split_once('=').ok_or_else(|| format!("{label:?} is not a label: KEY=VALUE"))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}
