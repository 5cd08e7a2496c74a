//! What proves who a caller is, built from the configuration once.
//!
//! Flags and files -> keys, token files and remote services, or which of them cannot be used. Counterpart:
//! `authenticator.Config`.

use std::path::{Path, PathBuf};

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::impersonation::LastModes;
use super::keys::{CheckingKey, KeyError, SigningKey};
use super::oidc::JwtIssuers;
use super::webhook::TokenWebhook;
use super::{ServiceAccountTokens, TokenFile};
use crate::config::ApiServerConfig;
use crate::pki::Pki;
use crate::webhook::KubeconfigError;

pub struct Authentication {
    pub tokens: ServiceAccountTokens,
    pub token_file: Option<TokenFile>,
    pub webhook: Option<TokenWebhook>,
    pub jwt: JwtIssuers,
    pub impersonations: LastModes,
    /// Whose certificates are accepted from clients, in DER.
    pub client_authorities: Vec<CertificateDer<'static>>,
    /// Those of them that certify proxies.
    pub front_proxy_authorities: Vec<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", .path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("service-account key of the cluster: {0}")]
    OwnKey(#[from] KeyError),
    #[error("token webhook: {0}")]
    Webhook(#[from] KubeconfigError),
}

type Result<T> = std::result::Result<T, AuthenticationError>;

impl Authentication {
    pub fn new(config: &ApiServerConfig, pki: &Pki) -> Result<Authentication> {
        let token_file = config.token_file.as_deref().map(|path| {
            TokenFile::read(path)
                .map_err(|source| AuthenticationError::File { path: path.to_owned(), source })
        });
        let webhook = config.authentication.token_webhook.as_ref().map(TokenWebhook::new);
        let proxies = match &config.authentication.front_proxy.ca_file {
            Some(path) => authorities(&read(path)?),
            None => authorities(pki.front_proxy_ca_pem()),
        };
        let mut client_authorities = authorities(pki.ca_pem());
        client_authorities.extend(proxies.iter().cloned());
        if let Some(path) = &config.authentication.client_ca_file {
            client_authorities.extend(authorities(&read(path)?));
        }
        Ok(Authentication {
            tokens: tokens(config, pki)?,
            token_file: token_file.transpose()?,
            webhook: webhook.transpose()?,
            jwt: JwtIssuers::new(config.authentication.jwt.clone()),
            impersonations: LastModes::default(),
            client_authorities,
            front_proxy_authorities: proxies.iter().map(|der| der.to_vec()).collect(),
        })
    }
}

fn authorities(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(std::result::Result::ok).collect()
}

/// Signs with the configured key or the cluster's own, and knows every key that may have signed.
fn tokens(config: &ApiServerConfig, pki: &Pki) -> Result<ServiceAccountTokens> {
    let authn = &config.authentication;
    let mut checking = Vec::new();
    for path in &authn.service_account_keys {
        checking.extend(checking_keys(path, &read(path)?)?);
    }
    let signing = match &authn.service_account_signing_key {
        Some(path) => {
            let pem = read(path)?;
            checking.extend(checking_keys(path, &pem)?);
            SigningKey::read(&pem).map_err(|source| faulty(path, source))?
        }
        None => {
            let own = pki.service_account_key();
            checking.push(CheckingKey::of_public(&own.subject_public_key_info())?);
            SigningKey::of(own)?
        }
    };
    let mut seen = std::collections::HashSet::new();
    checking.retain(|key| seen.insert(key.id.clone()));
    let mut issuers = vec![config.issuer.clone()];
    issuers.extend(authn.former_issuers.iter().cloned());
    let audiences = match authn.api_audiences.is_empty() {
        true => vec![config.issuer.clone()],
        false => authn.api_audiences.clone(),
    };
    Ok(ServiceAccountTokens::new(issuers, audiences, signing, checking))
}

fn checking_keys(path: &Path, pem: &str) -> Result<Vec<CheckingKey>> {
    CheckingKey::read_all(pem).map_err(|source| faulty(path, source))
}

fn faulty(path: &Path, source: KeyError) -> AuthenticationError {
    AuthenticationError::Key { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|source| AuthenticationError::File { path: path.to_owned(), source })
}
