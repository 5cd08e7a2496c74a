//! Who may do what, kept up by controllers: certificates for kubelets, roles that are sums, tokens that end.
//!
//! Against the real API server in one process, under the default roles.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, PostParams};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::json;
use skiff_apiserver::UserInfo;

use crate::cluster::TestCluster;

/// The request of a kubelet that has nothing yet but a bootstrap token.
fn node_request(name: &str, organization: &str) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
    let key = KeyPair::generate().expect("a key");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let mut request: CertificateSigningRequest = serde_json::from_value(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": format!("csr-{name}") },
        "spec": { "request": "", "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "expirationSeconds": 86400, "usages": ["digital signature", "client auth"] },
    }))
    .expect("a request");
    request.spec.request = ByteString(pem.into_bytes());
    request
}

async fn let_bootstrappers(cluster: &TestCluster, role: &str) {
    cluster
        .create_cluster::<ClusterRoleBinding>(json!({
            "metadata": { "name": format!("test:{}", role.replace(':', "-")) },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers" }],
        }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_with_a_bootstrap_token_gets_its_certificate() {
    let cluster = TestCluster::start("bootstrap").await;
    let_bootstrappers(&cluster, "system:node-bootstrapper").await;
    let joining =
        UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers", "system:authenticated"]);
    let requests = cluster.api_as::<CertificateSigningRequest>(joining);
    let post = PostParams::default();
    requests.create(&post, &node_request("early", "system:nodes")).await.expect("may ask");
    // Nobody said that bootstrappers are nodes: their requests wait.
    let all = cluster.cluster_api::<CertificateSigningRequest>();
    assert!(
        all.get("csr-early").await.expect("there").status.unwrap_or_default().certificate.is_none()
    );
    let_bootstrappers(&cluster, "system:certificates.k8s.io:certificatesigningrequests:nodeclient")
        .await;
    requests.create(&post, &node_request("one", "system:nodes")).await.expect("may ask");
    requests.create(&post, &node_request("greedy", "system:masters")).await.expect("may ask");
    cluster
        .eventually("a certificate", async |c| {
            let all = c.cluster_api::<CertificateSigningRequest>();
            let request = all.get("csr-one").await.expect("there");
            request.status.is_some_and(|status| status.certificate.is_some())
        })
        .await;
    let issued = all.get("csr-one").await.expect("there").status.expect("a status");
    let approved = &issued.conditions.expect("conditions")[0];
    assert_eq!(
        (approved.type_.as_str(), approved.reason.as_deref()),
        ("Approved", Some("AutoApproved"))
    );
    let pem = issued.certificate.expect("a certificate").0;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
    let certificate = pem.parse_x509().expect("a certificate");
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    assert_eq!(name, Some("system:node:one"));
    let validity = certificate.validity();
    let lifetime = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(lifetime, 86400);
    let greedy = all.get("csr-greedy").await.expect("there").status.unwrap_or_default();
    assert!(greedy.conditions.is_none() && greedy.certificate.is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_request_that_no_signer_issues_fails_and_says_why() {
    let cluster = TestCluster::start("unsigned").await;
    let all = cluster.cluster_api::<CertificateSigningRequest>();
    let mut request = node_request("one", "system:nodes");
    request.spec.usages = Some(vec!["digital signature".to_owned(), "server auth".to_owned()]);
    let mut made = all.create(&PostParams::default(), &request).await.expect("accepted");
    made.status.get_or_insert_default().conditions = serde_json::from_value(json!([
        { "type": "Approved", "status": "True", "reason": "Mistake", "message": "" }
    ]))
    .expect("conditions");
    all.replace_subresource("approval", "csr-one", &PostParams::default(), &made)
        .await
        .expect("an administrator may approve");
    cluster
        .eventually("a failure", async |c| {
            let all = c.cluster_api::<CertificateSigningRequest>();
            let status = all.get("csr-one").await.expect("there").status.unwrap_or_default();
            status.conditions.unwrap_or_default().iter().any(|condition| {
                condition.type_ == "Failed"
                    && condition.reason.as_deref() == Some("SignerValidationFailure")
                    && condition.message.as_deref()
                        == Some("usages did not match [client auth digital signature]")
            })
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_the_label_becomes_part_of_view_and_ends_being_it() {
    let cluster = TestCluster::start("aggregation").await;
    let holds = async |c: &TestCluster, role: &str| {
        let found = c.cluster_api::<ClusterRole>().get(role).await.expect("a default role");
        found
            .rules
            .unwrap_or_default()
            .iter()
            .any(|rule| rule.resources.iter().flatten().any(|resource| resource == "widgets"))
    };
    cluster
        .create_cluster::<ClusterRole>(json!({
            "metadata": { "name": "widget-viewer",
                "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } },
            "rules": [{ "apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"] }],
        }))
        .await;
    // `edit` is the sum of what `view` is part of, and `admin` of that.
    for role in ["view", "edit", "admin"] {
        cluster.eventually(role, async |c| holds(c, role).await).await;
    }
    let roles = cluster.cluster_api::<ClusterRole>();
    roles.delete("widget-viewer", &DeleteParams::default()).await.expect("deleted");
    for role in ["view", "edit", "admin"] {
        cluster.eventually(role, async |c| !holds(c, role).await).await;
    }
    cluster.stop().await;
}

fn bootstrap_token(id: &str, expiration: &str) -> serde_json::Value {
    json!({ "metadata": { "name": format!("bootstrap-token-{id}") },
        "type": "bootstrap.kubernetes.io/token", "stringData": {
            "token-id": id, "token-secret": "0123456789abcdef", "expiration": expiration,
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_info_is_signed_for_every_token_until_the_token_ends() {
    let cluster = TestCluster::start("signer").await;
    cluster
        .create::<Secret>("kube-system", bootstrap_token("abcdef", "2999-01-01T00:00:00Z"))
        .await;
    let signature = async |c: &TestCluster, id: &str| {
        let info = c.api::<ConfigMap>("kube-public").get("cluster-info").await.expect("there");
        info.data.and_then(|data| data.get(&format!("jws-kubeconfig-{id}")).cloned())
    };
    cluster.eventually("a signature", async |c| signature(c, "abcdef").await.is_some()).await;
    let signed = signature(&cluster, "abcdef").await.expect("there");
    let parts: Vec<&str> = signed.split('.').collect();
    assert!(matches!(parts.as_slice(), [header, "", mac] if !header.is_empty() && !mac.is_empty()));
    cluster
        .create::<Secret>("kube-system", bootstrap_token("expired", "2001-01-01T00:00:00Z"))
        .await;
    let secrets = cluster.api::<Secret>("kube-system");
    secrets.delete("bootstrap-token-abcdef", &DeleteParams::default()).await.expect("deleted");
    cluster
        .eventually("nothing is left", async |c| {
            let secrets = c.api::<Secret>("kube-system");
            signature(c, "abcdef").await.is_none()
                && secrets.get_opt("bootstrap-token-expired").await.expect("asked").is_none()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_secret_is_filled_and_goes_with_its_account() {
    let cluster = TestCluster::start("token").await;
    cluster.create::<ServiceAccount>("default", json!({ "metadata": { "name": "robot" } })).await;
    cluster
        .create::<Secret>(
            "default",
            json!({ "metadata": { "name": "robot-token",
                "annotations": { "kubernetes.io/service-account.name": "robot" } },
                "type": "kubernetes.io/service-account-token" }),
        )
        .await;
    cluster
        .eventually("a token", async |c| {
            let secret = c.api::<Secret>("default").get("robot-token").await.expect("there");
            let data = secret.data.unwrap_or_default();
            ["token", "ca.crt", "namespace"].iter().all(|key| data.contains_key(*key))
        })
        .await;
    let secret = cluster.api::<Secret>("default").get("robot-token").await.expect("there");
    let token = secret.data.expect("data")["token"].0.clone();
    let token = String::from_utf8(token).expect("text");
    assert_eq!(cluster.user_of(&token).await, "system:serviceaccount:default:robot");
    let accounts = cluster.api::<ServiceAccount>("default");
    accounts.delete("robot", &DeleteParams::default()).await.expect("deleted");
    cluster
        .eventually("no secret", async |c| {
            c.api::<Secret>("default").get_opt("robot-token").await.expect("asked").is_none()
        })
        .await;
    cluster.stop().await;
}
