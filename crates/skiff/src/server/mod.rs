//! `skiff server`: the daemon. Reads like a table of contents of what runs, and in which order.
//!
//! Boot order, each part waiting only for what it names:
//! 1. API server: the store and the keys.
//! 2. Metrics API, controllers and scheduler: the API.
//! 3. Node (runtime, pod network, kubelet): the API.
//! 4. Services and DNS: the API and the pod network.
//!
//! Every part but the first is an ordinary Kubernetes client. The way down is the way up reversed;
//! pods run on.

mod dns_metrics;
pub mod flags;
mod identity;
mod metrics;
mod node;
mod pod_network;
mod private_file;
mod runtime;
mod serving;
mod system_objects;
mod terms;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kube::Client;
use skiff_apiserver::ApiServer;
use skiff_cluster::report::{Report, Reporter};
use skiff_controllers::ControllersConfig;
use skiff_scheduler::SchedulerConfig;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::command::Done;
use crate::node_socket::{Health, Images, NodeSocket};
use flags::ServerArgs;
use identity::Clients;
use terms::Terms;

/// How long requests in flight get to finish.
const DRAIN: Duration = Duration::from_secs(5);

pub fn run(args: ServerArgs) -> Done {
    let filter =
        EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new("info,nlink=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let reporter = match args.starter.report_fd {
        // SAFETY: the starter passes this descriptor for the reporter alone.
        Some(fd) => unsafe { Reporter::inherited(fd) },
        None => Reporter::silent(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve(args, &reporter));
    if let Err(error) = &done {
        reporter.tell(Report::Failed(error.to_string()));
    }
    // Background reads of a dying process need no answer.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done.map(|()| ExitCode::SUCCESS)
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

async fn serve(args: ServerArgs, reporter: &Reporter) -> Result<()> {
    let began = Instant::now();
    let terms = Terms::of(&args)?;
    let mut parts = Parts::new();
    let health = Arc::new(Health::default());

    let api = ApiServer::build(terms.api.clone()).await?;
    let clients = Clients::new(&api);
    parts.serve_api(&api, listeners(&args, &terms)?);
    parts.keep_identity(&api);
    if let Some(path) = &args.write_kubeconfig {
        let url = args.starter.external_url.clone().unwrap_or_else(|| terms.local_url());
        private_file::write(path, &api.admin_kubeconfig(&url, "skiff")?)?;
    }
    health.api.store(true, Ordering::Relaxed);
    announce(reporter, began, "API server");

    // An API alone has nothing to measure and nobody who asks.
    if !(args.no_controllers && args.node.no_node) {
        metrics::run(&api, &clients).await?;
    }
    if !args.no_controllers {
        parts.run_controllers(&clients, &api, scheduler_config(&args)?);
        announce(reporter, began, "controllers and scheduler");
    }
    let images = match args.node.no_node {
        true => Images::Nowhere,
        false => {
            let node = node::Node::open(&terms, &api, &clients).await?;
            let images = node.images();
            node.run(&terms, &mut parts, &clients, &health).await?;
            announce(reporter, began, "node ready, Services and DNS");
            images
        }
    };
    let socket = NodeSocket { health, images, scratch: terms.data_dir.join("scratch") };
    let listener = NodeSocket::bind(&terms.data_dir.join("node.sock"))?;
    let token = parts.token();
    parts.spawn(async move {
        if let Err(error) = socket.serve(listener, token).await {
            tracing::error!(%error, "the local socket cannot be served");
        }
    });
    reporter.tell(Report::Ready);
    tracing::info!(after = ?began.elapsed(), "ready");

    told_to_stop().await?;
    parts.stop(terms.shutdown.total).await;
    api.close().await?;
    Ok(())
}

fn announce(reporter: &Reporter, began: Instant, what: &str) {
    tracing::info!(after = ?began.elapsed(), "{what}");
    reporter.phase(what);
}

/// The port that was asked for, and the one that was handed down.
fn listeners(args: &ServerArgs, terms: &Terms) -> Result<Vec<TcpListener>> {
    let mut listeners = vec![terms.listen()?];
    if let Some(fd) = args.starter.listen_fd {
        use std::os::fd::FromRawFd;
        // SAFETY: the starter passes this descriptor for this listener alone.
        let inherited = unsafe { std::net::TcpListener::from_raw_fd(fd) };
        inherited.set_nonblocking(true)?;
        listeners.push(TcpListener::from_std(inherited)?);
    }
    Ok(listeners)
}

fn scheduler_config(args: &ServerArgs) -> Result<SchedulerConfig> {
    let Some(path) = &args.scheduler_config else { return Ok(SchedulerConfig::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let config = SchedulerConfig::from_yaml(&text);
    Ok(config.map_err(|error| format!("{}: {error}", path.display()))?)
}

async fn told_to_stop() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    Ok(())
}

/// What runs, and how it is told to stop: clients first, the API they use last.
pub struct Parts {
    clients: CancellationToken,
    api: CancellationToken,
    running: JoinSet<()>,
    serving: JoinSet<()>,
}

impl Parts {
    fn new() -> Parts {
        Parts {
            clients: CancellationToken::new(),
            api: CancellationToken::new(),
            running: JoinSet::new(),
            serving: JoinSet::new(),
        }
    }

    pub fn token(&self) -> CancellationToken {
        self.clients.clone()
    }

    /// Runs a part that watches the token itself.
    pub fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(part);
    }

    /// Runs a part that is simply dropped when it is time.
    pub fn spawn_until_stop(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        let token = self.token();
        self.running.spawn(async move {
            token.run_until_cancelled(part).await;
        });
    }

    fn serve_api(&mut self, api: &ApiServer, listeners: Vec<TcpListener>) {
        for listener in listeners {
            let (api, token) = (api.clone(), self.api.clone());
            self.serving.spawn(async move {
                if let Err(error) = api.serve(listener, token.cancelled_owned()).await {
                    tracing::error!(%error, "the API can no longer be served");
                }
            });
        }
    }

    fn keep_identity(&mut self, api: &ApiServer) {
        let (api, token) = (api.clone(), self.token());
        self.spawn(async move {
            api.keep_identity(&terms::host_name(), token.cancelled_owned()).await;
        });
    }

    fn run_controllers(
        &mut self,
        clients: &Clients,
        api: &ApiServer,
        scheduler_config: SchedulerConfig,
    ) {
        let (for_controllers, token) = (clients.clone(), self.token());
        let (for_signing, for_tokens) = (api.clone(), api.clone());
        let config = ControllersConfig {
            certificate_signer: Some(Arc::new(move |terms| {
                let pki = for_signing.pki();
                let signed = pki.sign_request(&terms.request, &terms.usages, terms.lifetime);
                signed.map_err(|error| error.to_string())
            })),
            token_issuer: Some(Arc::new(move |claims| for_tokens.issue_token(claims))),
            ..ControllersConfig::new(api.pki().ca_pem().to_owned())
        };
        let running = api.runs("controller-manager");
        self.spawn(async move {
            let client_for = move |user: &str| -> Client { for_controllers.user(user) };
            skiff_controllers::run(client_for, config, token).await;
            drop(running);
        });
        let (client, token) = (clients.user("system:kube-scheduler"), self.token());
        let running = api.runs("scheduler");
        self.spawn(async move {
            skiff_scheduler::run(client, scheduler_config, token).await;
            drop(running);
        });
        self.spawn_until_stop(skiff_kubelet::simulated::run(clients.simulated_nodes()));
    }

    /// `grace` is what the node's pods get, for as long as which the API goes on.
    async fn stop(mut self, grace: Duration) {
        self.clients.cancel();
        let _ = tokio::time::timeout(DRAIN + grace, drain(&mut self.running)).await;
        self.api.cancel();
        let _ = tokio::time::timeout(DRAIN, drain(&mut self.serving)).await;
    }
}

async fn drain(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part did not end well");
        }
    }
}
