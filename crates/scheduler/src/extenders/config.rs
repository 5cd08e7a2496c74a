//! The `extenders` of a KubeSchedulerConfiguration: text in, checked settings out.
//!
//! Counterpart: `config.Extender` and `validateExtenders`. Invariant: at most one extender binds, and no two manage the same
//! resource.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};
use serde::Deserialize;
use skiff_api::duration;

use crate::config::{ConfigError, invalid};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderConfig {
    pub url_prefix: String,
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    pub weight: i64,
    pub bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    pub tls_config: Option<TlsConfig>,
    http_timeout: Option<String>,
    pub node_cache_capable: bool,
    pub managed_resources: Vec<ManagedResource>,
    /// Whether pods are placed without it when it cannot be asked.
    pub ignorable: bool,
    /// What `http_timeout` says.
    #[serde(skip)]
    pub timeout: Duration,
}

/// Certificates in files, or as base64 of their PEM.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsConfig {
    insecure: bool,
    server_name: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    ca_file: Option<String>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagedResource {
    pub name: String,
    #[serde(default)]
    pub ignored_by_scheduler: bool,
}

/// Checks all extenders of a file.
pub fn check(extenders: &mut [ExtenderConfig]) -> Result<(), ConfigError> {
    let mut managed: Vec<String> = Vec::new();
    for (at, extender) in extenders.iter_mut().enumerate() {
        let field = format!("extenders[{at}]");
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let what = "must have a positive weight applied to it";
            return Err(invalid(&format!("{field}.weight"), what));
        }
        for (at, resource) in extender.managed_resources.iter().enumerate() {
            if managed.contains(&resource.name) {
                let field = format!("{field}.managedResources[{at}].name");
                return Err(invalid(&field, "duplicate extender managed resource name"));
            }
            managed.push(resource.name.clone());
        }
        extender.timeout = timeout(extender.http_timeout.as_deref(), &field)?;
    }
    let binders = extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    match binders {
        0 | 1 => Ok(()),
        _ => Err(invalid("extenders", "only one extender can implement bind")),
    }
}

fn timeout(given: Option<&str>, field: &str) -> Result<Duration, ConfigError> {
    let Some(text) = given else { return Ok(TIMEOUT) };
    let span = duration::parse_span(text).ok_or_else(|| {
        invalid(&format!("{field}.httpTimeout"), &format!("invalid duration {text:?}"))
    })?;
    Ok(if span.is_zero() { TIMEOUT } else { span })
}

// === impl ExtenderConfig ===

impl ExtenderConfig {
    /// How to reach it. Over HTTPS without an authority to check it by, it is believed unchecked, as upstream does.
    pub async fn connection(&self) -> Result<kube::Config, KubeconfigError> {
        let tls = self.tls_config.clone().unwrap_or_default();
        let checked = tls.ca_file.is_some() || tls.ca_data.is_some();
        let cluster = Cluster {
            server: Some(self.url_prefix.clone()),
            insecure_skip_tls_verify: Some(tls.insecure || self.enable_https && !checked),
            certificate_authority: tls.ca_file,
            certificate_authority_data: tls.ca_data,
            tls_server_name: tls.server_name,
            ..Cluster::default()
        };
        let auth = AuthInfo {
            client_certificate: tls.cert_file,
            client_certificate_data: tls.cert_data,
            client_key: tls.key_file,
            client_key_data: tls.key_data.map(Into::into),
            ..AuthInfo::default()
        };
        let name = String::from("extender");
        let context =
            Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() };
        let other = BTreeMap::new;
        let cluster = NamedCluster { name: name.clone(), cluster: Some(cluster), other: other() };
        let auth = NamedAuthInfo { name: name.clone(), auth_info: Some(auth), other: other() };
        let context = NamedContext { name: name.clone(), context: Some(context), other: other() };
        let file = Kubeconfig {
            clusters: vec![cluster],
            auth_infos: vec![auth],
            contexts: vec![context],
            current_context: Some(name),
            ..Kubeconfig::default()
        };
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
    }
}
