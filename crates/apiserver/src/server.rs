//! The API server: built from a config, then served on sockets or called in process.
//!
//! `build` opens the store, the PKI and the bootstrap objects and runs nothing but the task that keeps
//! aggregated API servers' conditions (asleep while there are none); `serve` accepts connections;
//! `local` is the same request path without socket and TLS, for the parts that live in this process.
//! Counterpart: `pkg/controlplane` and `GenericAPIServer`.
//! Invariant: both ways in meet in [`path::handle`](crate::path::handle).

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use skiff_api::{KindDef, Kinds, Status};
use skiff_store::{OpenError, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, ChainError};
use crate::aggregate::{self, Aggregator};
use crate::audit::{Audit, AuditError};
use crate::authn::{Authentication, AuthenticationError};
use crate::authz::node::NodeGraph;
use crate::authz::rbac::{self, PolicyView};
use crate::authz::{Authorizer, WebhookAuthorizerError};
use crate::component_statuses::{Component, Components};
use crate::config::ApiServerConfig;
use crate::encryption::{Encryption, EncryptionError};
use crate::flow_control::FlowControl;
use crate::metrics::Metrics;
use crate::network::ServiceNetwork;
use crate::openapi::Documents;
use crate::path::{self, Caller};
use crate::pki::{Leaf, Pki, PkiError};
use crate::reply::{Body, BoxError};
use crate::typed::TypedService;
use crate::user::UserInfo;
use crate::webhook::WebhookClient;
use crate::{bootstrap, connection, custom, identity_lease, storage};

/// A handle on the one server of a process; clones share it.
#[derive(Clone)]
pub struct ApiServer {
    server: Arc<Server>,
}

/// What the stages of the request path share.
pub struct Server {
    pub config: ApiServerConfig,
    pub store: Store,
    pub encryption: Arc<Encryption>,
    pub pki: Pki,
    pub authn: Authentication,
    pub authorizers: Vec<Authorizer>,
    pub rbac: PolicyView,
    pub node_graph: NodeGraph,
    pub network: ServiceNetwork,
    pub metrics: Metrics,
    pub documents: Documents,
    pub flow_control: FlowControl,
    pub audit: Option<Audit>,
    pub aggregator: Aggregator,
    pub components: Components,
    /// Fires when the server no longer accepts connections: watches end, and it is no longer ready.
    pub stopping: CancellationToken,
    pub webhooks: WebhookClient,
    pub admission: Admission,
    kinds: ArcSwap<Kinds>,
    /// Told whenever kinds come, go or change.
    kinds_changed: watch::Sender<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("store: {0}")]
    Store(#[from] OpenError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("encryption at rest: {0}")]
    Encryption(#[from] EncryptionError),
    #[error("authentication: {0}")]
    Authentication(#[from] AuthenticationError),
    #[error("authorization: {0}")]
    Authorization(#[from] WebhookAuthorizerError),
    #[error(transparent)]
    Admission(#[from] ChainError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("bootstrap objects: {0}")]
    Bootstrap(#[from] Status),
}

/// The request path as a `tower::Service`: what a client in this process is made of.
#[derive(Clone)]
pub struct LocalService {
    server: Arc<Server>,
    caller: Caller,
}

// === impl ApiServer ===

impl ApiServer {
    /// Everything is opened and every bootstrap object is there when this returns; nothing runs yet.
    pub async fn build(config: ApiServerConfig) -> Result<ApiServer, BuildError> {
        let pki = Pki::open(&config.data_dir.join("pki"))?;
        let store = storage::open(&config.data_dir.join("store"))?;
        let (encryption, store) = Encryption::over(store, &config.encryption, &config.data_dir)?;
        let server = Server::new(config, store, encryption, pki)?;
        let server = ApiServer { server: Arc::new(server) };
        storage::move_old_places(&server.server).await?;
        custom::load(&server.server).await?;
        server.server.network.load(&server.server.store).await?;
        bootstrap::run(&server.server).await?;
        aggregate::refresh(&server.server).await?;
        aggregate::availability::keep(&server.server);
        let encryption = server.server.encryption.clone();
        tokio::spawn(async move { encryption.resume().await });
        Ok(server)
    }

    /// Accepts TLS connections until `shutdown`, then lets requests in flight finish. May be called for several listeners.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> std::io::Result<()> {
        connection::serve(self.server.clone(), listener, shutdown).await
    }

    /// A client path for a part of this process acting as `user`: no socket, no TLS, the same code from there on.
    pub fn local(&self, user: UserInfo) -> LocalService {
        LocalService { server: self.server.clone(), caller: Caller::Known(user) }
    }

    /// As [`ApiServer::local`], for clients that decode what they get into types.
    pub fn typed(&self, user: UserInfo) -> TypedService {
        TypedService(self.local(user))
    }

    /// As [`ApiServer::local`], for requests that still have to prove who they are from: by a token in their headers, or not at
    /// all.
    pub fn local_unauthenticated(&self) -> LocalService {
        LocalService { server: self.server.clone(), caller: Caller::Remote(None) }
    }

    /// Lets a server in this process answer for a Service that APIServices name.
    pub async fn aggregate(
        &self,
        namespace: &str,
        service: &str,
        backend: Arc<dyn aggregate::Backend>,
    ) -> Result<(), Status> {
        self.server.aggregator.register(namespace, service, backend);
        aggregate::refresh(&self.server).await
    }

    /// A part of the control plane that runs in this process, and is told as healthy for as long as the answer is kept.
    /// Others of upstream's names are asked on their ports.
    pub fn runs(&self, component: &'static str) -> Component {
        self.server.components.runs(component)
    }

    /// Tells of this server by a Lease, until `shutdown`; one of a former run on this host is replaced. Takes the expired
    /// ones of other servers away too.
    pub async fn keep_identity(&self, host: &str, shutdown: impl Future<Output = ()>) {
        identity_lease::keep(self.server.clone(), host, shutdown).await;
    }

    pub fn pki(&self) -> &Pki {
        &self.server.pki
    }

    /// Signs claims as a service-account token of this server, for the controller that keeps such tokens in Secrets.
    pub fn issue_token(&self, claims: &serde_json::Value) -> Result<String, String> {
        self.server.authn.tokens.issue(claims).map_err(|error| error.to_string())
    }

    pub fn config(&self) -> &ApiServerConfig {
        &self.server.config
    }

    /// The administrator's kubeconfig, for a server reached at `url`.
    pub fn admin_kubeconfig(&self, url: &str, context: &str) -> Result<String, PkiError> {
        self.server.pki.admin_kubeconfig(url, context)
    }

    /// Writes out what is pending and releases the data directory.
    pub async fn close(&self) -> Result<(), skiff_store::Error> {
        self.server.store.close().await
    }
}

// === impl Server ===

/// The kinds of the release, and those of older manifests where they are wanted.
fn kinds(config: &ApiServerConfig) -> Kinds {
    let mut kinds = skiff_api::kinds::builtin();
    if config.legacy_apis {
        for legacy in skiff_api::kinds::legacy::kinds(&kinds) {
            kinds.insert(legacy);
        }
    }
    kinds
}

impl Server {
    fn new(
        config: ApiServerConfig,
        store: Store,
        encryption: Arc<Encryption>,
        pki: Pki,
    ) -> Result<Server, BuildError> {
        Ok(Server {
            authn: Authentication::new(&config, &pki)?,
            authorizers: Authorizer::all(&config.authorization)?,
            rbac: PolicyView::default(),
            node_graph: NodeGraph::default(),
            network: ServiceNetwork::new(config.service_cidr, config.node_ports.clone()),
            metrics: Metrics::default(),
            documents: Documents::default(),
            aggregator: Aggregator::default(),
            components: Components::default(),
            stopping: CancellationToken::new(),
            audit: config.audit.as_ref().map(Audit::open).transpose()?,
            flow_control: FlowControl::new(config.max_mutating_in_flight + config.max_in_flight),
            webhooks: WebhookClient::new(store.clone()),
            admission: Admission::new(
                &config.enable_admission_plugins,
                &config.disable_admission_plugins,
            )?,
            kinds: ArcSwap::from_pointee(kinds(&config)),
            kinds_changed: watch::Sender::new(()),
            config,
            store,
            encryption,
            pki,
        })
    }

    /// The kinds served now. Hold it for one request, so that one request sees one set.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.load_full()
    }

    pub fn serve_kinds(&self, kinds: Kinds) {
        self.kinds.store(Arc::new(kinds));
    }

    /// Changes what is served. May be asked to change it again when another change came between.
    pub fn change_kinds(&self, change: impl Fn(&mut Kinds)) {
        self.kinds.rcu(|kinds| {
            let mut kinds = Kinds::clone(kinds);
            change(&mut kinds);
            kinds
        });
        self.kinds_changed.send_replace(());
    }

    /// For whom the served kinds matter longer than for one request.
    pub fn kind_changes(&self) -> watch::Receiver<()> {
        self.kinds_changed.subscribe()
    }

    /// Something of this kind was written.
    pub fn committed(&self, kind: &KindDef) {
        if kind.group == rbac::GROUP {
            self.rbac.changed();
        }
        self.admission.committed(kind);
    }

    /// What the serving certificate must be good for.
    pub fn serving_leaf(&self) -> Leaf {
        let service = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let names = service
            .iter()
            .map(|name| (*name).to_owned())
            .chain(self.config.extra_names.iter().cloned());
        let own: [IpAddr; 3] = [
            [127, 0, 0, 1].into(),
            self.config.advertise_address,
            self.network.first_address().into(),
        ];
        let addresses = own.into_iter().chain(self.config.extra_addresses.iter().copied());
        Leaf::server("apiserver", "kube-apiserver", names.collect(), addresses.collect())
    }
}

// === impl LocalService ===

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, caller) = (self.server.clone(), self.caller.clone());
        Box::pin(async move { Ok(path::handle(server, caller, request).await) })
    }
}
