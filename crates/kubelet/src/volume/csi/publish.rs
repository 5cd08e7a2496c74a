//! Brings a volume to the node, and to one pod.
//!
//! A source and what is known of its driver -> `NodeStageVolume`, `NodePublishVolume`, the pod's group. Counterpart: `MountDevice`
//! and `SetUpAt` of `pkg/volume/csi`. Invariant: Secrets are read for the call that needs them and kept nowhere.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Secret, storage::v1::CSIDriver};
use kube::{Api, Client};
use serde_json::json;

use super::{
    CsiError, Source,
    data::{Place, VolumeData},
    source::SecretName,
};
use crate::{
    csi::{
        Capabilities, Capability, Endpoint, PublishVolume, StageVolume, Texts, VolumeCapability,
    },
    volume::{VolumeRequest, ownership, token::TokenQuery},
};

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// One volume on its way to one pod.
pub struct Publication<'a> {
    pub request: &'a VolumeRequest<'a>,
    pub source: &'a Source,
    pub place: &'a Place,
    pub driver: &'a Endpoint,
    pub object: Option<&'a CSIDriver>,
    pub capabilities: &'a Capabilities,
    pub publish_context: Texts,
}

// === impl Publication ===

impl Publication<'_> {
    /// Stages the volume unless it is, or its driver does not stage; answers where it is staged.
    pub async fn stage(&self, data: &VolumeData) -> Result<String, CsiError> {
        let Some(persistent) = &self.source.persistent else { return Ok(String::new()) };
        if !self.capabilities.contains(&Capability::StageUnstage) {
            return Ok(String::new());
        }
        let place = Place::staged(self.request.ctx, &self.source.id);
        let staging_path = place.target.to_string_lossy().into_owned();
        if VolumeData::read(&place.dir).await.is_some_and(|known| known.holds(&place)) {
            return Ok(staging_path);
        }
        let mut data = data.clone();
        data.write(&place.dir)?;
        std::fs::create_dir_all(&place.target).map_err(|source| CsiError::Io {
            what: "create",
            path: place.target.clone(),
            source,
        })?;
        let client = &self.request.ctx.client;
        let secret = persistent.stage_secret.as_ref();
        let secrets = read_secret(client, "NodeStageSecretRef", secret).await?;
        let request = StageVolume {
            volume_id: self.source.id.handle.clone(),
            publish_context: self.publish_context.clone(),
            staging_path: staging_path.clone(),
            capability: self.capability(),
            secrets,
            volume_context: self.source.attributes.clone(),
        };
        self.driver.stage(&request).await?;
        data.done(&place.target, false);
        data.write(&place.dir)?;
        Ok(staging_path)
    }

    pub async fn publish(&self, staging_path: &str) -> Result<(), CsiError> {
        let source = self.source;
        let (client, secret) = (&self.request.ctx.client, source.publish_secret.as_ref());
        let mut secrets = read_secret(client, "NodePublishSecretRef", secret).await?;
        let mut volume_context = source.attributes.clone();
        let spec = self.object.map(|object| &object.spec);
        if spec.and_then(|spec| spec.pod_info_on_mount).unwrap_or(false) {
            volume_context.extend(self.pod_info());
        }
        let in_secrets = spec.and_then(|spec| spec.service_account_token_in_secrets);
        let carrier = if in_secrets == Some(true) { &mut secrets } else { &mut volume_context };
        carrier.extend(self.tokens().await?.map(|tokens| (TOKENS.to_owned(), tokens)));
        let request = PublishVolume {
            volume_id: source.id.handle.clone(),
            publish_context: self.publish_context.clone(),
            staging_path: staging_path.to_owned(),
            target_path: self.place.target.to_string_lossy().into_owned(),
            capability: self.capability(),
            read_only: source.read_only,
            secrets,
            volume_context,
        };
        self.driver.publish(&request).await?;
        self.give_to_group().await
    }

    /// The pod's group goes along where the driver sees to it.
    fn capability(&self) -> VolumeCapability {
        let by_driver = self.capabilities.contains(&Capability::VolumeMountGroup);
        let group = self.request.fs_group().filter(|_| by_driver);
        self.source.capability(self.capabilities, group)
    }

    fn pod_info(&self) -> Texts {
        let pod = self.request.pod;
        let account = pod.spec().service_account_name.clone().unwrap_or_default();
        let is_ephemeral = self.source.persistent.is_none().to_string();
        let info = [
            ("csi.storage.k8s.io/pod.name", pod.key.name.clone()),
            ("csi.storage.k8s.io/pod.namespace", pod.key.namespace.clone()),
            ("csi.storage.k8s.io/pod.uid", pod.key.uid.clone()),
            ("csi.storage.k8s.io/serviceAccount.name", account),
            ("csi.storage.k8s.io/ephemeral", is_ephemeral),
        ];
        info.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The pod's tokens for the audiences that the driver asks for, as one text.
    async fn tokens(&self) -> Result<Option<String>, CsiError> {
        let asked = self.object.and_then(|object| object.spec.token_requests.as_deref());
        let asked = asked.unwrap_or_default();
        if asked.is_empty() {
            return Ok(None);
        }
        let pod = self.request.pod;
        let account = pod.spec().service_account_name.clone();
        let mut tokens = BTreeMap::new();
        for request in asked {
            let query = TokenQuery {
                pod: pod.key.clone(),
                service_account: account.clone().unwrap_or_else(|| "default".into()),
                audience: Some(request.audience.clone()).filter(|audience| !audience.is_empty()),
                lifetime_seconds: request.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
            };
            let token = self.request.ctx.tokens.get(query).await.map_err(CsiError::Token)?;
            let expires =
                Timestamp::from_second(token.expires.as_second()).unwrap_or(token.expires);
            let entry = json!({ "token": token.token, "expirationTimestamp": expires });
            tokens.insert(&request.audience, entry);
        }
        let text = serde_json::to_string(&tokens).expect("texts are JSON");
        Ok(Some(text))
    }

    async fn give_to_group(&self) -> Result<(), CsiError> {
        let by_driver = self.capabilities.contains(&Capability::VolumeMountGroup);
        let Some(group) = self.request.fs_group() else { return Ok(()) };
        if by_driver || !self.source.takes_group(self.object) {
            return Ok(());
        }
        let policy = self.request.pod.security().and_then(|s| s.fs_group_change_policy.as_deref());
        let (target, lazily) = (self.place.target.clone(), policy == Some("OnRootMismatch"));
        let given = tokio::task::spawn_blocking(move || {
            ownership::give_to_group(&target, group, false, lazily)
        });
        let given = given.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let volume = self.source.id.handle.clone();
        given.map_err(|source| CsiError::Ownership { volume, source })
    }
}

/// Nothing is what no name leads to.
pub async fn read_secret(
    client: &Client,
    what: &'static str,
    name: Option<&SecretName>,
) -> Result<Texts, CsiError> {
    let Some((namespace, name)) = name else { return Ok(Texts::new()) };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = api.get(name).await.map_err(|error| CsiError::Secret {
        what,
        namespace: namespace.clone(),
        name: name.clone(),
        why: error.to_string(),
    })?;
    let data = secret.data.unwrap_or_default().into_iter();
    Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}
