//! `projected` volumes: several sources in one directory, among them the pod's service account token.
//!
//! Counterpart: `pkg/volume/projected`. Invariant: kept in memory, since a token is a secret; renewed before the
//! token in it expires.

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ServiceAccountTokenProjection, Volume, VolumeProjection};

use super::{
    IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest,
    atomic_writer::{File, Payload},
    payload::{self, DEFAULT_MODE, Source, mode, safe},
    tmpfs,
    token::TokenQuery,
};

const DEFAULT_LIFETIME_SECONDS: i64 = 3600;

pub struct ProjectedVolume;

#[async_trait]
impl VolumePlugin for ProjectedVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~projected"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let spec = request.volume.projected.as_ref().expect("claimed");
        let default_mode = spec.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Payload::new();
        let mut refresh_at: Option<Timestamp> = None;
        for source in spec.sources.iter().flatten() {
            if let Some(token) = &source.service_account_token {
                let (payload, refresh) = token_file(request, token, default_mode).await?;
                files.extend(payload);
                refresh_at = Some(refresh_at.map_or(refresh, |r| r.min(refresh)));
            } else {
                files.extend(project(request, source, default_mode).await?);
            }
        }
        tmpfs::ensure_or_directory(&request.dir).at("mount", &request.dir)?;
        payload::write(request, files).await?;
        Ok(Ready { path: request.dir.clone(), refresh_at })
    }
}

async fn project(
    request: &VolumeRequest<'_>,
    source: &VolumeProjection,
    default_mode: i32,
) -> Result<Payload, VolumeError> {
    if let Some(map) = &source.config_map {
        let optional = map.optional.unwrap_or(false);
        let from = Source {
            kind: "configmap",
            name: &map.name,
            items: map.items.as_deref(),
            optional,
            default_mode,
        };
        return from.config_map(request).await;
    }
    if let Some(secret) = &source.secret {
        let optional = secret.optional.unwrap_or(false);
        let from = Source {
            kind: "secret",
            name: &secret.name,
            items: secret.items.as_deref(),
            optional,
            default_mode,
        };
        return from.secret(request).await;
    }
    if let Some(api) = &source.downward_api {
        return payload::downward_api(
            request,
            api.items.as_deref().unwrap_or_default(),
            default_mode,
        );
    }
    let kind =
        if source.cluster_trust_bundle.is_some() { "clusterTrustBundle" } else { "podCertificate" };
    Err(VolumeError::Unsupported(format!("projected {kind}")))
}

/// The token, readable by the pod's user alone where that user is known.
async fn token_file(
    request: &VolumeRequest<'_>,
    spec: &ServiceAccountTokenProjection,
    default_mode: i32,
) -> Result<(Payload, Timestamp), VolumeError> {
    let query = TokenQuery {
        pod: request.pod.key.clone(),
        service_account: request
            .pod
            .spec()
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".into()),
        audience: spec.audience.clone().filter(|a| !a.is_empty()),
        lifetime_seconds: spec.expiration_seconds.unwrap_or(DEFAULT_LIFETIME_SECONDS),
    };
    let token = request.ctx.tokens.get(query).await.map_err(VolumeError::Token)?;
    let user = sole_user(request);
    let mode = match (request.fs_group(), user) {
        (Some(_), _) | (_, Some(_)) => 0o600,
        _ => mode(default_mode),
    };
    let file = File { content: token.token.into_bytes(), mode, uid: user };
    Ok(([(safe(&spec.path)?, file)].into(), token.refresh_at))
}

/// The user all containers run as, if there is exactly one.
fn sole_user(request: &VolumeRequest<'_>) -> Option<u32> {
    let shared = request.pod.security().and_then(|s| s.run_as_user);
    let users: Option<Vec<i64>> = request
        .pod
        .containers
        .iter()
        .map(|c| c.spec.security_context.as_ref().and_then(|s| s.run_as_user).or(shared))
        .collect();
    let users = users?;
    let first = *users.first()?;
    users.iter().all(|u| *u == first).then(|| u32::try_from(first).ok()).flatten()
}
