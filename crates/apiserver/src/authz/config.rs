//! Who decides what users may do: the part of the configuration that authorisation reads.
//!
//! `--authorization-mode` with its webhook file, or an AuthorizationConfiguration -> the authorisers in order.
//! Counterpart: `pkg/kubeapiserver/options/authorization.go` and `apis/apiserver/validation`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Opinion;
use crate::configuration::{self, FileError, syntax};

/// One authoriser; the order of a list of them is the order in which they are asked.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthorizerConfig {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(WebhookAuthorizerConfig),
}

#[derive(Clone, Debug, PartialEq)]
pub struct WebhookAuthorizerConfig {
    pub name: String,
    pub kubeconfig: PathBuf,
    /// Of the SubjectAccessReview that is sent.
    pub version: String,
    pub timeout: Duration,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
    /// What it means that the webhook cannot be asked.
    pub on_error: Opinion,
    /// Conditions, in CEL, that must all hold for the webhook to be asked.
    pub conditions: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorizationModeError {
    #[error(
        "authorization mode {0:?} is unknown, there are AlwaysAllow, AlwaysDeny, Node, RBAC and Webhook"
    )]
    Unknown(String),
    #[error("authorization mode Webhook needs --authorization-webhook-config-file")]
    NoWebhookFile,
    #[error("authorization mode {0} is given twice")]
    Twice(String),
}

const VERSIONS: &[&str] = &[
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
const AUTHORIZED_TTL: Duration = Duration::from_secs(5 * 60);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

// === impl AuthorizerConfig ===

impl AuthorizerConfig {
    /// What upstream's clusters use.
    pub fn defaults() -> Vec<AuthorizerConfig> {
        vec![AuthorizerConfig::Node, AuthorizerConfig::Rbac]
    }

    /// Reads the comma-separated names of `--authorization-mode`.
    pub fn of_modes(
        modes: &str,
        webhook: Option<&Path>,
    ) -> Result<Vec<AuthorizerConfig>, AuthorizationModeError> {
        let mut authorizers = Vec::new();
        for mode in modes.split(',').map(str::trim) {
            let authorizer = match mode {
                "AlwaysAllow" => AuthorizerConfig::AlwaysAllow,
                "AlwaysDeny" => AuthorizerConfig::AlwaysDeny,
                "Node" => AuthorizerConfig::Node,
                "RBAC" => AuthorizerConfig::Rbac,
                "Webhook" => {
                    let file = webhook.ok_or(AuthorizationModeError::NoWebhookFile)?;
                    AuthorizerConfig::Webhook(WebhookAuthorizerConfig::new("default", file))
                }
                other => return Err(AuthorizationModeError::Unknown(other.to_owned())),
            };
            if authorizers.contains(&authorizer) {
                return Err(AuthorizationModeError::Twice(mode.to_owned()));
            }
            authorizers.push(authorizer);
        }
        Ok(authorizers)
    }

    /// Reads an AuthorizationConfiguration.
    pub fn read(path: &Path) -> Result<Vec<AuthorizerConfig>, FileError> {
        let file: File = configuration::read(path, "AuthorizationConfiguration", VERSIONS)?;
        if file.authorizers.is_empty() {
            return Err(syntax(path, "authorizers: at least one is required".to_owned()));
        }
        let read = |one: Entry| one.read(path).map_err(|fault| syntax(path, fault));
        file.authorizers.into_iter().map(read).collect()
    }
}

// === impl WebhookAuthorizerConfig ===

impl WebhookAuthorizerConfig {
    pub fn new(name: &str, kubeconfig: &Path) -> WebhookAuthorizerConfig {
        WebhookAuthorizerConfig {
            name: name.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            version: "v1beta1".to_owned(),
            timeout: Duration::from_secs(30),
            authorized_ttl: AUTHORIZED_TTL,
            unauthorized_ttl: UNAUTHORIZED_TTL,
            on_error: Opinion::None,
            conditions: Vec::new(),
        }
    }
}

// === the file ===

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    authorizers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    r#type: String,
    name: String,
    webhook: Option<Webhook>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Webhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    #[serde(default = "yes")]
    cache_authorized_requests: bool,
    #[serde(default = "yes")]
    cache_unauthorized_requests: bool,
    timeout: String,
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    #[serde(default)]
    match_conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionInfo {
    r#type: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    expression: String,
}

fn yes() -> bool {
    true
}

impl Entry {
    fn read(self, path: &Path) -> Result<AuthorizerConfig, String> {
        let name = self.name;
        match (self.r#type.as_str(), self.webhook) {
            ("Webhook", Some(webhook)) => {
                webhook.read(&name, path).map_err(|fault| format!("authorizer {name:?}: {fault}"))
            }
            ("Webhook", None) => Err(format!("authorizer {name:?}: webhook is required")),
            (other, Some(_)) => Err(format!("authorizer {name:?}: {other} takes no webhook")),
            ("Node", None) => Ok(AuthorizerConfig::Node),
            ("RBAC", None) => Ok(AuthorizerConfig::Rbac),
            ("AlwaysAllow", None) => Ok(AuthorizerConfig::AlwaysAllow),
            ("AlwaysDeny", None) => Ok(AuthorizerConfig::AlwaysDeny),
            (other, None) => Err(format!("authorizer {name:?}: type {other:?} is unknown")),
        }
    }
}

impl Webhook {
    fn read(self, name: &str, path: &Path) -> Result<AuthorizerConfig, String> {
        let timeout = seconds(&self.timeout)?;
        if timeout.is_zero() || timeout > Duration::from_secs(30) {
            return Err("timeout must be between 1s and 30s".to_owned());
        }
        let on_error = match self.failure_policy.as_str() {
            "NoOpinion" => Opinion::None,
            "Deny" => Opinion::Deny,
            other => return Err(format!("failurePolicy {other:?} is unknown")),
        };
        let version = self.subject_access_review_version;
        if !matches!(version.as_str(), "v1" | "v1beta1") {
            return Err(format!("subjectAccessReviewVersion {version:?} is unknown"));
        }
        if !self.match_conditions.is_empty()
            && self.match_condition_subject_access_review_version != "v1"
        {
            return Err("matchConditionSubjectAccessReviewVersion must be v1".to_owned());
        }
        let kubeconfig =
            match (self.connection_info.r#type.as_str(), self.connection_info.kube_config_file) {
                ("KubeConfigFile", Some(file)) => file,
                ("KubeConfigFile", None) => return Err("kubeConfigFile is required".to_owned()),
                (other, _) => {
                    return Err(format!("connectionInfo type {other:?} is not supported"));
                }
            };
        let beside = path.parent().unwrap_or(Path::new(".")).join(kubeconfig);
        Ok(AuthorizerConfig::Webhook(WebhookAuthorizerConfig {
            version,
            timeout,
            authorized_ttl: ttl(
                self.cache_authorized_requests,
                self.authorized_ttl,
                AUTHORIZED_TTL,
            )?,
            unauthorized_ttl: ttl(
                self.cache_unauthorized_requests,
                self.unauthorized_ttl,
                UNAUTHORIZED_TTL,
            )?,
            on_error,
            conditions: self.match_conditions.into_iter().map(|one| one.expression).collect(),
            ..WebhookAuthorizerConfig::new(name, &beside)
        }))
    }
}

fn ttl(cached: bool, given: Option<String>, usual: Duration) -> Result<Duration, String> {
    match (cached, given) {
        (false, _) => Ok(Duration::ZERO),
        (true, None) => Ok(usual),
        (true, Some(text)) => seconds(&text),
    }
}

/// A duration as Go writes it: `5m`, `30s`, `1h30m`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let fault = |error: jiff::Error| format!("{text:?} is no duration: {error}");
    let duration: jiff::SignedDuration = text.parse().map_err(fault)?;
    Duration::try_from(duration).map_err(|_| format!("{text:?} is negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Vec<AuthorizerConfig>, FileError> {
        let path = std::env::temp_dir().join(format!("skiff-authz-{}.yaml", uuid::Uuid::new_v4()));
        std::fs::write(&path, yaml).expect("writable");
        let read = AuthorizerConfig::read(&path);
        std::fs::remove_file(&path).expect("ours to remove");
        read
    }

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";

    #[test]
    fn a_file_names_authorisers_in_their_order() {
        let read = read(&format!(
            "{HEAD}authorizers:\n- {{type: Webhook, name: w, webhook: {{timeout: 3s, authorizedTTL: 1m, \
             cacheUnauthorizedRequests: false, subjectAccessReviewVersion: v1, \
             matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, \
             connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /k}}, \
             matchConditions: [{{expression: 'true'}}]}}}}\n- {{type: Node, name: node}}\n- {{type: RBAC, name: rbac}}\n"
        ))
        .expect("a good file");
        let [AuthorizerConfig::Webhook(webhook), AuthorizerConfig::Node, AuthorizerConfig::Rbac] =
            read.as_slice()
        else {
            panic!("in another order: {read:?}")
        };
        assert_eq!(webhook.timeout, Duration::from_secs(3));
        assert_eq!(webhook.authorized_ttl, Duration::from_secs(60));
        assert_eq!(webhook.unauthorized_ttl, Duration::ZERO);
        assert_eq!((webhook.on_error, webhook.conditions.len()), (Opinion::Deny, 1));
    }

    #[test]
    fn faults_in_a_file_are_named() {
        for (rest, fault) in [
            ("authorizers: []", "at least one is required"),
            ("authorizers: [{type: Webhook, name: w}]", "webhook is required"),
            ("authorizers: [{type: Magic, name: m}]", "type \"Magic\" is unknown"),
            ("authorizers: [{type: Node, name: n, colour: red}]", "unknown field `colour`"),
        ] {
            let error = read(&format!("{HEAD}{rest}\n")).expect_err(fault).to_string();
            assert!(error.contains(fault), "{error}");
        }
        let error = read("kind: Pod\napiVersion: v1\n").expect_err("another kind").to_string();
        assert!(error.contains("wanted AuthorizationConfiguration"), "{error}");
    }

    #[test]
    fn modes_are_known_once_each_and_complete() {
        let file = Path::new("/k");
        let modes =
            AuthorizerConfig::of_modes("Node,RBAC,Webhook", Some(file)).expect("good modes");
        assert_eq!(modes.len(), 3);
        for (modes, file, fault) in [
            ("Node,Magic", Some(file), "\"Magic\" is unknown"),
            ("Webhook", None, "needs --authorization-webhook-config-file"),
            ("Node,Node", None, "twice"),
        ] {
            let error = AuthorizerConfig::of_modes(modes, file).expect_err(fault).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }
}
