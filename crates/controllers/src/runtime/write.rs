//! How controllers write, and read past the cache: every answer of the API server goes straight into the shared cache.
//!
//! One path for namespaced and cluster-scoped kinds: the URL comes from the kind and the object's own key.
//! Invariant: after a successful write the writer's next read of the cache shows it (see `store`).

use std::sync::Arc;

use http::Request as HttpRequest;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use serde_json::Value;

use super::store::{Key, Object};
use super::{Ctx, Error, Result};

// === impl Ctx ===

impl Ctx {
    pub async fn create<K: Object>(&self, object: &K) -> Result<Arc<K>> {
        let key = Key::of(object);
        let request = requests::<K>(&key).create(&PostParams::default(), encode(object)?);
        self.send("create", key, request).await
    }

    /// What the API server has now, past any cache; none if there is no such object.
    pub async fn get_live<K: Object>(&self, key: &Key) -> Result<Option<Arc<K>>> {
        let request = requests::<K>(key).get(&key.name, &GetParams::default());
        match self.send::<K>("get", key.clone(), request).await {
            Err(error) if error.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Replaces the whole object; refused if the object's resource version is no longer current.
    pub async fn update<K: Object>(&self, object: &K) -> Result<Arc<K>> {
        let key = Key::of(object);
        let request =
            requests::<K>(&key).replace(&key.name, &PostParams::default(), encode(object)?);
        self.send("update", key, request).await
    }

    pub async fn update_status<K: Object>(&self, object: &K) -> Result<Arc<K>> {
        self.update_part("status", object).await
    }

    /// Replaces what a subresource is about.
    pub async fn update_part<K: Object>(&self, part: &'static str, object: &K) -> Result<Arc<K>> {
        let key = Key::of(object);
        let request = requests::<K>(&key).replace_subresource(
            part,
            &key.name,
            &PostParams::default(),
            encode(object)?,
        );
        self.send("update", key, request).await
    }

    /// Takes ownership of the fields that are given, from whoever has them, and leaves the others alone.
    pub async fn apply<K: Object>(
        &self,
        key: &Key,
        manager: &str,
        fields: &Value,
    ) -> Result<Arc<K>> {
        let params = PatchParams::apply(manager).force();
        let request = requests::<K>(key).patch(&key.name, &params, &Patch::Apply(fields));
        self.send("apply", key.clone(), request).await
    }

    /// As [`Ctx::apply`], of the status.
    pub async fn apply_status<K: Object>(
        &self,
        key: &Key,
        manager: &str,
        fields: &Value,
    ) -> Result<Arc<K>> {
        let params = PatchParams::apply(manager).force();
        let patch = Patch::Apply(fields);
        let request = requests::<K>(key).patch_subresource("status", &key.name, &params, &patch);
        self.send("apply status of", key.clone(), request).await
    }

    pub async fn patch<K: Object>(&self, key: &Key, patch: &Value) -> Result<Arc<K>> {
        let request =
            requests::<K>(key).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch));
        self.send("patch", key.clone(), request).await
    }

    /// A strategic patch of the status: list entries such as conditions merge by their key.
    pub async fn patch_status<K: Object>(&self, key: &Key, patch: &Value) -> Result<Arc<K>> {
        let patch = Patch::Strategic(patch);
        let request = requests::<K>(key).patch_subresource(
            "status",
            &key.name,
            &PatchParams::default(),
            &patch,
        );
        self.send("patch status of", key.clone(), request).await
    }

    /// A strategic patch, for lists that merge by key (owner references by uid).
    pub async fn patch_strategic<K: Object>(&self, key: &Key, patch: &Value) -> Result<Arc<K>> {
        let request =
            requests::<K>(key).patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch));
        self.send("patch", key.clone(), request).await
    }

    /// Deletes exactly the object with this uid, not a later one of the same name.
    pub async fn delete<K: Object>(&self, object: &K) -> Result<()> {
        self.delete_with(object, DeleteParams::background()).await
    }

    pub async fn delete_with<K: Object>(&self, object: &K, params: DeleteParams) -> Result<()> {
        let key = Key::of(object);
        let uid = object.meta().uid.clone();
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..params
        };
        let request = requests::<K>(&key).delete(&key.name, &params).map_err(|source| {
            refused::<K>("delete", key.clone(), kube::Error::BuildRequest(source))
        })?;
        let answer = self.client.request_status::<K>(request).await;
        let answer = answer.map_err(|source| refused::<K>("delete", key.clone(), source))?;
        let Some(store) = self.caches.find::<K>() else {
            return Ok(());
        };
        match answer.left() {
            Some(terminating) if terminating.meta().deletion_timestamp.is_some() => {
                store.observe_write(&self.caches, terminating);
            }
            _ => store.observe_removal(&self.caches, &key),
        }
        Ok(())
    }

    async fn send<K: Object>(
        &self,
        verb: &'static str,
        key: Key,
        request: Result<HttpRequest<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Arc<K>> {
        let answer = match request {
            Ok(request) => self.client.request::<K>(request).await,
            Err(unbuilt) => Err(kube::Error::BuildRequest(unbuilt)),
        };
        let object = answer.map_err(|source| refused::<K>(verb, key, source))?;
        Ok(match self.caches.find::<K>() {
            Some(store) => store.observe_write(&self.caches, object),
            None => Arc::new(object),
        })
    }
}

fn requests<K: Object>(key: &Key) -> Request {
    let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
    Request::new(K::url_path(&(), namespace))
}

fn encode<K: Object>(object: &K) -> Result<Vec<u8>> {
    serde_json::to_vec(object)
        .map_err(|error| Error::Invalid(format!("cannot encode {}: {error}", K::kind(&()))))
}

fn refused<K: Object>(verb: &'static str, key: Key, source: kube::Error) -> Error {
    Error::Write { verb, object: format!("{} {key}", K::kind(&()).to_lowercase()), source }
}
