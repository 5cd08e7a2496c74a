//! A kubeconfig file as the way to a webhook that is configured by flags.
//!
//! Path -> the current context's cluster and user -> where to post, whom to trust, what to show. Counterpart:
//! `webhook.LoadKubeconfig`. Differs from upstream: exec and auth-provider plugins are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use super::config::{ClientConfig, Endpoint};
use super::tls::Trust;
use crate::configuration;
use crate::pki::Identity;

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error(transparent)]
    File(#[from] configuration::FileError),
    #[error("{}: {source}", .path.display())]
    Part { path: PathBuf, source: std::io::Error },
    #[error("{}: {what}", .path.display())]
    Incomplete { path: PathBuf, what: String },
}

/// Where to post and what to send along.
#[derive(Clone, Debug)]
pub struct Target {
    pub config: ClientConfig,
    pub headers: HeaderMap,
}

impl Target {
    pub fn read(path: &Path) -> Result<Target, KubeconfigError> {
        let file = configuration::read_yaml(path)?;
        let incomplete = |what: &str| KubeconfigError::Incomplete {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let context = named(&file, "contexts", file["current-context"].as_str().unwrap_or(""));
        let context = context.ok_or_else(|| incomplete("no current context"))?;
        let part = |list: &str, field: &str| {
            named(&file, list, context["context"][field].as_str().unwrap_or(""))
        };
        let cluster = part("clusters", "cluster").ok_or_else(|| incomplete("no cluster"))?;
        let user = part("users", "user").map_or(&Value::Null, |user| &user["user"]);
        if user.get("exec").is_some() || user.get("auth-provider").is_some() {
            return Err(incomplete("plugins that fetch credentials are not supported"));
        }
        let (cluster, base) = (&cluster["cluster"], path.parent().unwrap_or(Path::new(".")));
        let url = cluster["server"].as_str().filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| incomplete("the cluster has no server"))?;
        Ok(Target {
            config: ClientConfig {
                endpoint: Endpoint::Url(url.to_owned()),
                trust: trust(base, cluster)?,
                identity: identity(base, user)?,
            },
            headers: headers(base, user)?,
        })
    }
}

fn named<'a>(file: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    file[list].as_array()?.iter().find(|item| item["name"] == name)
}

fn trust(base: &Path, cluster: &Value) -> Result<Trust, KubeconfigError> {
    if cluster["insecure-skip-tls-verify"] == true {
        return Ok(Trust::Anything);
    }
    let bundle = data_or_file(base, cluster, "certificate-authority")?;
    Ok(bundle.map_or(Trust::System, |pem| Trust::Bundle(pem.into())))
}

fn identity(base: &Path, user: &Value) -> Result<Option<Arc<Identity>>, KubeconfigError> {
    let certificate = data_or_file(base, user, "client-certificate")?;
    let key = data_or_file(base, user, "client-key")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let both = certificate.zip(key);
    Ok(both.map(|(certificate, key)| {
        Arc::new(Identity { cert_pem: text(certificate), key_pem: text(key) })
    }))
}

fn headers(base: &Path, user: &Value) -> Result<HeaderMap, KubeconfigError> {
    let mut headers = HeaderMap::new();
    let text = |field: &str| user[field].as_str().unwrap_or("").to_owned();
    let mut token = text("token");
    if token.is_empty() && !text("tokenFile").is_empty() {
        let bytes = file(base, &text("tokenFile"))?;
        token = String::from_utf8_lossy(&bytes).trim().to_owned();
    }
    let value = match (token.is_empty(), text("username")) {
        (false, _) => format!("Bearer {token}"),
        (true, name) if !name.is_empty() => {
            let pair = format!("{name}:{}", text("password"));
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        }
        _ => return Ok(headers),
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// `x-data` holds it in base64, `x` names a file beside the kubeconfig.
fn data_or_file(
    base: &Path,
    from: &Value,
    field: &str,
) -> Result<Option<Vec<u8>>, KubeconfigError> {
    if let Some(data) = from[format!("{field}-data")].as_str() {
        return Ok(BASE64_STANDARD.decode(data).ok());
    }
    match from[field].as_str() {
        Some(name) if !name.is_empty() => file(base, name).map(Some),
        _ => Ok(None),
    }
}

fn file(base: &Path, name: &str) -> Result<Vec<u8>, KubeconfigError> {
    let path = base.join(name);
    std::fs::read(&path).map_err(|source| KubeconfigError::Part { path, source })
}
