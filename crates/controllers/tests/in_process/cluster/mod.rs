//! A control plane in this process, and parts around it that only pretend: a kubelet and a storage driver.
//!
//! Controllers live by a clock of the test's, which may run ahead; everybody else by the machine's.

pub mod chaos;
mod drivers;
#[allow(dead_code, reason = "the crate's own tests use the rest")]
#[path = "../../../src/testing.rs"]
pub mod testing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, ApiServerConfig, Backend, UserInfo};
use skiff_controllers::ControllersConfig;
use skiff_controllers::runtime::{Clock, Hand, Metrics, Object};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use chaos::Chaos;

const TICK: Duration = Duration::from_millis(50);
const TIMES_FASTER: u32 = 20;

pub struct TestCluster {
    client: Client,
    server: ApiServer,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    controllers: Controllers,
    clock: Clock,
    hand: Arc<Hand>,
    data_dir: PathBuf,
}

/// All of them, since they were last started.
struct Controllers {
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    metrics: Metrics,
}

impl TestCluster {
    pub async fn start(name: &str) -> TestCluster {
        TestCluster::start_with(name, None).await
    }

    /// With controllers that have a bad day, if `chaos` is given; everybody else has a good one.
    pub async fn start_with(name: &str, chaos: Option<Chaos>) -> TestCluster {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let data_dir =
            std::env::temp_dir().join(format!("skiff-controllers-{name}-{}", std::process::id()));
        let server =
            ApiServer::build(ApiServerConfig::new(&data_dir)).await.expect("the API server starts");
        let client_for = {
            let server = server.clone();
            move |user: &str| Client::new(server.typed(identity(user)), "default")
        };
        let client = Client::new(server.typed(UserInfo::system("test")), "default");
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let config = skiff_scheduler::SchedulerConfig::default();
        tasks.spawn(skiff_scheduler::run(
            client_for(skiff_scheduler::USER),
            config,
            shutdown.clone(),
        ));
        tasks.spawn(drivers::kubelet(client.clone(), shutdown.clone()));
        tasks.spawn(drivers::attacher(client.clone(), shutdown.clone()));
        let (clock, hand) = Clock::by_hand();
        let hand = Arc::new(hand);
        let controllers = start_controllers(&server, &clock, chaos);
        let cluster =
            TestCluster { client, server, shutdown, tasks, controllers, clock, hand, data_dir };
        // Pods are admitted only once their service account is there.
        cluster
            .eventually("a service account", async |c| {
                let accounts = c.api::<k8s_openapi::api::core::v1::ServiceAccount>("default");
                accounts.get_opt("default").await.unwrap().is_some()
            })
            .await;
        cluster
    }

    /// Has all controllers look at everything once more from the start; gives what they write.
    pub async fn look_again(&mut self) -> Vec<String> {
        self.controllers.stop().await;
        let day = Chaos::none();
        self.controllers = start_controllers(&self.server, &self.clock, Some(day.clone()));
        let looks = |metrics: &Metrics| -> u64 {
            metrics.snapshot().values().map(|counts| counts.reconciles).sum()
        };
        let (mut before, mut now) = (0, 0);
        while now == 0 || now != before {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (before, now) = (now, looks(&self.controllers.metrics));
        }
        day.writes()
    }

    /// How often a controller has looked at something since all were started.
    pub fn looks(&self, controller: &str) -> u64 {
        let counts = self.controllers.metrics.snapshot();
        counts.get(controller).map_or(0, |counts| counts.reconciles)
    }

    /// What time it is to the controllers.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Lets the controllers' time run `TIMES_FASTER` until the guard is dropped.
    pub fn let_time_fly(&self) -> AbortOnDropHandle<()> {
        let hand = self.hand.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                hand.advance(TICK * TIMES_FASTER);
            }
        }))
    }

    /// Has `backend` answer where an APIService names this Service, which need not exist.
    pub async fn aggregate(&self, service: &str, backend: Arc<dyn Backend>) {
        self.server.aggregate("default", service, backend).await.expect("aggregated");
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn api<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// As [`TestCluster::cluster_api`], for somebody else.
    pub fn api_as<K: Object + Resource<Scope = ClusterResourceScope>>(
        &self,
        user: UserInfo,
    ) -> Api<K> {
        Api::all(Client::new(self.server.typed(user), "default"))
    }

    /// Whose token it is, by what the server says.
    pub async fn user_of(&self, token: &str) -> String {
        use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await.expect("answered");
        let status = answer.status.expect("a status");
        assert_eq!(status.error, None);
        status.user.and_then(|user| user.username).unwrap_or_default()
    }

    pub fn cluster_api<K: Object + Resource<Scope = ClusterResourceScope>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub async fn create<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
        object: Value,
    ) {
        let object: K = serde_json::from_value(object).expect("a test object is valid");
        self.api::<K>(namespace)
            .create(&PostParams::default(), &object)
            .await
            .expect("a test object is accepted");
    }

    pub async fn create_cluster<K: Object + Resource<Scope = ClusterResourceScope>>(
        &self,
        object: Value,
    ) {
        let object: K = serde_json::from_value(object).expect("a test object is valid");
        self.cluster_api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .expect("a test object is accepted");
    }

    pub async fn list<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
    ) -> Vec<K> {
        self.api::<K>(namespace)
            .list(&ListParams::default())
            .await
            .expect("a list is answered")
            .items
    }

    pub async fn add_node(&self, name: &str) {
        let capacity = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        self.create_cluster::<Node>(json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))
            .await;
        let status = json!({"status": {"capacity": capacity, "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        let nodes = self.cluster_api::<Node>();
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("node status is accepted");
        // Good for longer than any test takes, since nobody renews it.
        let lease = json!({"metadata": {"name": name}, "spec": {"leaseDurationSeconds": 864_000}});
        self.create::<Lease>("kube-node-lease", lease).await;
    }

    pub async fn label_node(&self, name: &str, key: &str, value: &str) {
        let patch = json!({"metadata": {"labels": {key: value}}});
        self.cluster_api::<Node>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("a label is accepted");
    }

    /// The revision the cluster has reached: it moves with every write.
    pub async fn revision(&self) -> String {
        let nodes = self
            .cluster_api::<Node>()
            .list(&ListParams::default())
            .await
            .expect("a list is answered");
        nodes.metadata.resource_version.expect("a list has a version")
    }

    pub async fn eventually(&self, what: &str, condition: impl AsyncFn(&TestCluster) -> bool) {
        self.within(Duration::from_secs(30), what, condition).await;
    }

    /// As `eventually`, with another patience.
    pub async fn within(
        &self,
        patience: Duration,
        what: &str,
        condition: impl AsyncFn(&TestCluster) -> bool,
    ) {
        let began = tokio::time::Instant::now();
        while !condition(self).await {
            assert!(began.elapsed() < patience, "did not happen within {patience:?}: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn stop(mut self) {
        self.controllers.stop().await;
        self.shutdown.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(10), drained)
            .await
            .expect("everything stops when told");
        self.server.close().await.expect("the store closes");
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}

fn start_controllers(server: &ApiServer, clock: &Clock, chaos: Option<Chaos>) -> Controllers {
    let (clients, shutdown) = (server.clone(), CancellationToken::new());
    let client_for = move |user: &str| match &chaos {
        Some(chaos) => chaos.client(user, clients.local(identity(user))),
        None => Client::new(clients.typed(identity(user)), "default"),
    };
    let config = ControllersConfig { clock: clock.clone(), ..controllers_config(server) };
    let metrics = config.metrics.clone();
    let running = tokio::spawn(skiff_controllers::run(client_for, config, shutdown.clone()));
    Controllers { shutdown, running, metrics }
}

impl Controllers {
    async fn stop(&mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), &mut self.running).await;
        ended.expect("everything stops when told").expect("no controller panics");
    }
}

/// With what a server lends to its controllers.
fn controllers_config(server: &ApiServer) -> ControllersConfig {
    let (for_signing, for_tokens) = (server.clone(), server.clone());
    ControllersConfig {
        certificate_signer: Some(Arc::new(move |terms| {
            let signed =
                for_signing.pki().sign_request(&terms.request, &terms.usages, terms.lifetime);
            signed.map_err(|error| error.to_string())
        })),
        token_issuer: Some(Arc::new(move |claims| for_tokens.issue_token(claims))),
        ..ControllersConfig::new("TEST CA".into())
    }
}

/// Each part acts as itself, so that missing permissions show.
fn identity(user: &str) -> UserInfo {
    match user.strip_prefix("system:serviceaccount:kube-system:") {
        Some(account) => UserInfo::service_account("kube-system", account),
        None => UserInfo::new(user, &["system:authenticated"]),
    }
}

pub async fn count<K: Object + Resource<Scope = NamespaceResourceScope>>(
    cluster: &TestCluster,
    namespace: &str,
) -> usize {
    cluster.list::<K>(namespace).await.len()
}

pub fn json_path<K: Object>(object: &K, pointer: &str) -> Value {
    serde_json::to_value(object)
        .expect("an object encodes")
        .pointer(pointer)
        .cloned()
        .unwrap_or(Value::Null)
}
