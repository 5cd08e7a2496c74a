//! Who may come in and what they may do: tokens of every kind, nodes, webhooks, impersonation, rules.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use skiff_apiserver::{
    ApiServerConfig, AuthenticationConfig, AuthorizerConfig, JwtIssuer, OidcFlags,
    TokenWebhookConfig, UserInfo,
};

use crate::common::webhook::Webhook;
use crate::common::{Answer, Client, Cluster, cluster, cluster_with};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A request with a bearer token and whatever other headers.
async fn with_token(cluster: &Cluster, token: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::post(WHO)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from_static(b"{}"));
    cluster.stranger().request(request.body(body).expect("well-formed")).await
}

async fn who(cluster: &Cluster, token: &str) -> Value {
    with_token(cluster, token, &[]).await.created()["status"]["userInfo"].clone()
}

async fn is_refused(cluster: &Cluster, token: &str) -> bool {
    with_token(cluster, token, &[]).await.status == StatusCode::UNAUTHORIZED
}

async fn token_for(admin: &Client, request: Value) -> String {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = admin.post(path, &request).await.created();
    made["status"]["token"].as_str().expect("a token").to_owned()
}

fn pod(node: &str) -> Value {
    json!({ "metadata": { "name": "p" }, "spec": { "nodeName": node,
        "containers": [{ "name": "c", "image": "i" }],
        "volumes": [{ "name": "s", "secret": { "secretName": "key" } }] } })
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn a_token_ends_with_the_pod_it_is_bound_to_though_its_signature_is_remembered() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let made = admin.post(PODS, &pod("one")).await.created();
    let bound = json!({ "spec": { "expirationSeconds": 3607, "boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"] } } });
    let token = token_for(&admin, bound).await;
    for _ in 0..2 {
        let user = who(&cluster, &token).await;
        assert_eq!(user["username"], "system:serviceaccount:default:default");
        let extra = &user["extra"];
        assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["p"]));
        assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["one"]));
        assert!(extra.get("authentication.kubernetes.io/node-uid").is_none());
    }
    admin.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.ok();
    assert!(is_refused(&cluster, &token).await);
    let review = json!({ "spec": { "token": token } });
    let answer = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.created();
    assert_eq!(
        answer["status"]["error"],
        "[invalid bearer token, service account token has been invalidated]"
    );
}

#[tokio::test]
async fn a_pods_token_lives_on_while_its_client_learns_to_read_it_anew() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("one")).await.created();
    let claims = |token: &str| -> Value {
        let payload = token.split('.').nth(1).expect("claims");
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let bound = |seconds: i64| {
        json!({ "spec": { "expirationSeconds": seconds,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p" } } })
    };
    let usual = claims(&token_for(&admin, bound(3607)).await);
    let begun = usual["iat"].as_i64().expect("a time");
    assert_eq!(usual["exp"], begun + 365 * 24 * 3600);
    assert_eq!(usual["kubernetes.io"]["warnafter"], begun + 3607);
    let asked = claims(&token_for(&admin, bound(7200)).await);
    assert_eq!(asked["exp"], asked["iat"].as_i64().expect("a time") + 7200);
    assert!(asked["kubernetes.io"].get("warnafter").is_none());
}

#[tokio::test]
async fn a_bootstrap_token_is_a_user_until_it_is_not_for_authentication() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let secret = json!({ "metadata": { "name": "bootstrap-token-abcdef" },
        "type": "bootstrap.kubernetes.io/token", "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "auth-extra-groups": "system:bootstrappers:test",
            "usage-bootstrap-authentication": "true" } });
    admin.post("/api/v1/namespaces/kube-system/secrets", &secret).await.created();
    let user = who(&cluster, "abcdef.0123456789abcdef").await;
    assert_eq!(user["username"], "system:bootstrap:abcdef");
    let groups = ["system:bootstrappers", "system:bootstrappers:test", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    assert!(is_refused(&cluster, "abcdef.ffffffffffffffff").await);
    let change = json!({ "stringData": { "usage-bootstrap-authentication": "false" } });
    let path = "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef";
    admin.patch(path, "merge-patch+json", &change).await.ok();
    assert!(is_refused(&cluster, "abcdef.0123456789abcdef").await);
}

/// A kubeconfig file for a webhook in the test.
fn kubeconfig(hook: &Webhook) -> PathBuf {
    let path = std::env::temp_dir().join(format!("skiff-hook-{}.yaml", uuid::Uuid::new_v4()));
    let config = json!({ "kind": "Config", "apiVersion": "v1", "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "clusters": [{ "name": "k", "cluster": {
            "server": format!("https://127.0.0.1:{}/ask", hook.port),
            "certificate-authority-data": hook.bundle } }],
        "users": [{ "name": "u", "user": { "token": "t" } }] });
    std::fs::write(&path, config.to_string()).expect("written");
    path
}

#[tokio::test]
async fn a_webhook_says_whose_token_it_is_and_is_asked_once() {
    let hook = Webhook::start(|review| {
        let status = match review["spec"]["token"] == "good" {
            true => json!({ "authenticated": true, "user": { "username": "remote", "groups": ["far"] } }),
            false => json!({ "authenticated": false, "error": "never heard of it" }),
        };
        (200, json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status }))
    })
    .await;
    let path = kubeconfig(&hook);
    let webhook = TokenWebhookConfig {
        kubeconfig: path.clone(),
        version: "v1".to_owned(),
        cache_ttl: std::time::Duration::from_secs(60),
    };
    let authentication =
        AuthenticationConfig { token_webhook: Some(webhook), ..AuthenticationConfig::default() };
    let cluster = cluster_with(|config| ApiServerConfig { authentication, ..config }).await;
    for _ in 0..3 {
        let user = who(&cluster, "good").await;
        assert_eq!(user["username"], "remote");
        assert_eq!(user["groups"], json!(["far", "system:authenticated"]));
    }
    assert_eq!(hook.asked().len(), 1);
    assert!(is_refused(&cluster, "bad").await);
    std::fs::remove_file(path).expect("ours to remove");
}

#[tokio::test]
async fn a_webhook_after_rbac_allows_what_rbac_does_not_and_may_deny_for_good() {
    let hook = Webhook::start(|review| {
        let asked = &review["spec"]["resourceAttributes"];
        let status = match asked["resource"].as_str() {
            Some("secrets") => json!({ "allowed": false, "denied": true, "reason": "not those" }),
            Some("configmaps") => json!({ "allowed": true, "reason": "go on" }),
            _ => json!({ "allowed": false }),
        };
        (200, json!({ "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1beta1", "status": status }))
    })
    .await;
    let path = kubeconfig(&hook);
    let authorization =
        AuthorizerConfig::of_modes("Node,Webhook,RBAC", Some(&path)).expect("good modes");
    let cluster = cluster_with(|config| ApiServerConfig { authorization, ..config }).await;
    let jane = cluster.user(UserInfo::new("jane", &["system:authenticated"]));
    jane.get("/api/v1/namespaces/default/configmaps").await.ok();
    let (code, _, message) = jane.get(SECRETS).await.refused();
    assert_eq!(code, 403);
    assert!(message.ends_with("in the namespace \"default\": not those"), "{message}");
    assert_eq!(jane.get(PODS).await.status, StatusCode::FORBIDDEN);
    // RBAC is asked where the webhook has no opinion.
    jane.get("/version").await.ok();
    let review = json!({ "spec": { "user": "jane", "resourceAttributes": { "verb": "list", "resource": "secrets" } } });
    let admin = cluster.admin();
    let answer = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    let answer = answer.created();
    assert_eq!(
        answer["status"],
        json!({ "allowed": false, "denied": true, "reason": "not those" })
    );
    let spec = &hook.asked()[0]["spec"];
    assert_eq!((&spec["user"], &spec["group"]), (&json!("jane"), &json!(["system:authenticated"])));
    std::fs::remove_file(path).expect("ours to remove");
}

#[tokio::test]
async fn a_token_of_another_issuer_is_believed_after_its_keys_are_fetched() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    let key = rcgen::KeyPair::generate().expect("a key");
    let point = rcgen::PublicKeyData::der_bytes(&key).to_vec();
    let [x, y] = [&point[1..33], &point[33..]]
        .map(|half| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(half));
    let port = std::sync::Arc::new(std::sync::OnceLock::new());
    let own_port = port.clone();
    // One document is both the provider's description and its keys.
    let hook = Webhook::start(move |_| {
        let url = format!("https://127.0.0.1:{}", own_port.get().copied().unwrap_or(0_u16));
        let keys = json!([{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": x, "y": y }]);
        (200, json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "keys": keys }))
    })
    .await;
    port.set(hook.port).expect("set once");
    let issuer = format!("https://127.0.0.1:{}", hook.port);
    let authority = std::env::temp_dir().join(format!("skiff-ca-{}.pem", uuid::Uuid::new_v4()));
    std::fs::write(&authority, BASE64_STANDARD.decode(&hook.bundle).expect("PEM"))
        .expect("written");
    let flags = OidcFlags {
        issuer_url: issuer.clone(),
        client_id: "skiff".to_owned(),
        ca_file: Some(authority.clone()),
        username_prefix: Some("far:".to_owned()),
        groups_claim: Some("groups".to_owned()),
        signing_algs: vec!["ES256".to_owned()],
        ..OidcFlags::default()
    };
    let jwt = vec![JwtIssuer::of_flags(flags).expect("good flags")];
    let authentication = AuthenticationConfig { jwt, ..AuthenticationConfig::default() };
    let cluster = cluster_with(|config| ApiServerConfig { authentication, ..config }).await;
    let signed = |kid: &str, audience: &str| {
        let claims = json!({ "iss": issuer, "aud": audience, "sub": "jane", "exp": 32_503_680_000_i64, "groups": ["devs"] });
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(key.serialized_der());
        jsonwebtoken::encode(&header, &claims, &key).expect("signed")
    };
    let user = who(&cluster, &signed("k1", "skiff")).await;
    assert_eq!(user["username"], "far:jane");
    assert_eq!(user["groups"], json!(["devs", "system:authenticated"]));
    assert_eq!(hook.asked().len(), 2);
    assert!(is_refused(&cluster, &signed("k1", "other")).await);
    assert!(is_refused(&cluster, &signed("unknown", "skiff")).await);
    let mut forged = signed("k1", "skiff");
    forged.replace_range(forged.len() - 4.., "AAAA");
    assert!(is_refused(&cluster, &forged).await);
    // Tokens that name an unknown key do not make the server ask each time.
    assert_eq!(hook.asked().len(), 2);
    std::fs::remove_file(authority).expect("ours to remove");
}

#[tokio::test]
async fn a_kubelet_reads_what_its_pods_name_as_soon_as_they_are_bound() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let node =
        cluster.user(UserInfo::new("system:node:one", &["system:nodes", "system:authenticated"]));
    let secret = json!({ "metadata": { "name": "key" } });
    admin.post(SECRETS, &secret).await.created();
    let path = format!("{SECRETS}/key");
    let (code, _, message) = node.get(&path).await.refused();
    assert_eq!(code, 403);
    assert!(
        message.ends_with("no relationship found between node 'one' and this object"),
        "{message}"
    );
    admin.post(PODS, &pod("one")).await.created();
    node.get(&path).await.ok();
    node.get(&format!("{PODS}?fieldSelector=spec.nodeName=one")).await.ok();
    assert_eq!(node.get(PODS).await.status, StatusCode::FORBIDDEN);
    assert_eq!(node.get(SECRETS).await.status, StatusCode::FORBIDDEN);
    admin.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.ok();
    assert_eq!(node.get(&path).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_kubelet_asks_for_tokens_of_its_pods_alone() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let uid = admin.post(PODS, &pod("one")).await.created()["metadata"]["uid"].clone();
    let node = |name: &str| {
        cluster.user(UserInfo::new(
            format!("system:node:{name}"),
            &["system:nodes", "system:authenticated"],
        ))
    };
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = |audiences: Value| {
        json!({ "spec": { "audiences": audiences, "boundObjectRef": {
            "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid } } })
    };
    let (_, _, message) = node("one").post(path, &json!({})).await.refused();
    assert!(message.ends_with("node requested token not bound to a pod"), "{message}");
    node("one").post(path, &bound(json!([]))).await.created();
    let (_, _, message) = node("one").post(path, &bound(json!(["vault"]))).await.refused();
    assert!(message.contains("audience \"vault\" not found in pod spec volume"), "{message}");
    assert_eq!(node("two").post(path, &bound(json!([]))).await.status, StatusCode::FORBIDDEN);
}

async fn grant(admin: &Client, name: &str, user: &str, rules: Value) {
    let role = json!({ "metadata": { "name": name }, "rules": rules });
    admin.post(&format!("{RBAC}/clusterroles"), &role).await.created();
    let binding = json!({ "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" }] });
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.created();
}

#[tokio::test]
async fn a_constrained_impersonator_acts_as_another_only_as_far_as_allowed() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    grant(
        &admin,
        "as-jane",
        "support",
        json!([
            { "apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate:user-info"] },
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["impersonate-on:user-info:list"] },
        ]),
    )
    .await;
    grant(
        &admin,
        "jane",
        "jane",
        json!([{ "apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["list"] }]),
    )
    .await;
    let support = cluster.user(UserInfo::new("support", &["system:authenticated"]));
    let as_jane = async |path: &str, group: Option<&str>| {
        let mut request = Request::get(path).header("impersonate-user", "jane");
        if let Some(group) = group {
            request = request.header("impersonate-group", group);
        }
        support.request(request.body(Full::default()).expect("well-formed")).await
    };
    as_jane(PODS, None).await.ok();
    let (code, _, message) = as_jane(SECRETS, None).await.refused();
    assert_eq!(code, 403);
    let expected = "cannot impersonate-on:user-info:list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    assert!(message.contains(expected), "{message}");
    assert_eq!(as_jane(PODS, Some("system:masters")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_aggregated_role_can_be_made_by_those_alone_who_may_do_everything() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    grant(
        &admin,
        "roles",
        "mia",
        json!([{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create", "update", "patch"] }]),
    )
    .await;
    let mia = cluster.user(UserInfo::new("mia", &["system:authenticated"]));
    let role = json!({ "metadata": { "name": "sum" },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] } });
    let (code, _, message) = mia.post(&format!("{RBAC}/clusterroles"), &role).await.refused();
    assert_eq!(code, 403);
    assert!(
        message.ends_with("must have cluster-admin privileges to use the aggregationRule"),
        "{message}"
    );
}

#[tokio::test]
async fn many_roles_and_bindings_change_one_at_a_time() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let jane = cluster.user(UserInfo::new("jane", &["system:authenticated"]));
    for number in 0..200 {
        let name = format!("r{number}");
        let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "resourceNames": [name], "verbs": ["get"] }]);
        grant(&admin, &name, "jane", rules).await;
        // The answer to the binding is the moment from which it counts.
        let answer = jane.get(&format!("{PODS}/{name}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}");
    }
    admin.delete(&format!("{RBAC}/clusterrolebindings/r7")).await.ok();
    assert_eq!(jane.get(&format!("{PODS}/r7")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(jane.get(&format!("{PODS}/r8")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_claim_was_bound_and_its_devices_told_about_with_access_to_the_status_alone() {
    let cluster = cluster().await;
    let (admin, jane) = (cluster.admin(), cluster.user(UserInfo::new("jane", &[])));
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let request = json!({ "name": "r", "exactly": { "deviceClassName": "c" } });
    let claim =
        json!({ "metadata": { "name": "c" }, "spec": { "devices": { "requests": [request] } } });
    admin.post(claims, &claim).await.created();
    let role = json!({ "metadata": { "name": "r" }, "rules": [
        { "apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/status"], "verbs": ["patch"] },
    ] });
    admin.post(&format!("{RBAC}/clusterroles"), &role).await.created();
    let binding = json!({ "metadata": { "name": "b" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r" },
        "subjects": [{ "kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io" }] });
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.created();
    let device = json!({ "request": "r", "driver": "d.x", "pool": "p", "device": "g" });
    let mut told = device.clone();
    told.as_object_mut().expect("an object").remove("request");
    let status = json!({ "status": {
        "allocation": { "devices": { "results": [device] } },
        "devices": [told],
    } });
    let path = format!("{claims}/c/status");
    let (code, _, message) = jane.patch(&path, "merge-patch+json", &status).await.refused();
    assert_eq!(code, 422);
    for refusal in [
        r#"status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="patch" permission: resourceclaims.resource.k8s.io is forbidden: User "jane" cannot patch resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope"#,
        r#"status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:patch]" permission: resourceclaims.resource.k8s.io "d.x" is forbidden: User "jane" cannot arbitrary-node:patch resource "resourceclaims/driver" in API group "resource.k8s.io" in the namespace "default""#,
    ] {
        assert!(message.contains(refusal), "{message}");
    }
    admin.patch(&path, "merge-patch+json", &status).await.ok();
}
