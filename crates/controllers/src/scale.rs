//! The size of a workload of any kind, read and set through its `scale` subresource.
//!
//! Kind and name -> resource by discovery -> Scale. Counterpart: client-go `scale` and the RESTMapper.
//! Invariant: knows no kind of workload by name, so that custom resources scale like built-in ones.

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::api::PostParams;
use kube::core::Request;

use crate::runtime::{Ctx, Error, Result};

/// One object whose size is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// What discovery says of a kind.
pub struct Resource {
    pub plural: String,
    has_scale: bool,
}

// === impl Target ===

impl Target<'_> {
    /// None if there is no such object; an error if its kind is not known or has no scale.
    pub async fn read(&self, ctx: &Ctx) -> Result<Option<Scale>> {
        let Resource { plural, has_scale } = self.resource(ctx).await?;
        let request = self.requests(&plural).get_subresource("scale", self.name);
        let request = request.map_err(|source| self.unread(kube::Error::BuildRequest(source)))?;
        match ctx.client.request::<Scale>(request).await {
            Ok(scale) => Ok(Some(scale)),
            Err(kube::Error::Api(status)) if status.code == 404 && has_scale => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::Invalid(format!(
                "{} does not implement the scale subresource",
                self.group_resource(&plural)
            ))),
            Err(source) => Err(self.unread(source)),
        }
    }

    pub async fn write(&self, ctx: &Ctx, scale: &Scale) -> Result<()> {
        let Resource { plural, .. } = self.resource(ctx).await?;
        let bytes = serde_json::to_vec(scale)
            .map_err(|error| Error::Invalid(format!("cannot encode a scale: {error}")))?;
        let params = PostParams::default();
        let request =
            self.requests(&plural).replace_subresource("scale", self.name, &params, bytes);
        let refused = |source| Error::Write {
            verb: "scale",
            object: format!("{} {}/{}", self.kind, self.namespace, self.name),
            source,
        };
        let request = request.map_err(|source| refused(kube::Error::BuildRequest(source)))?;
        ctx.client.request::<Scale>(request).await.map(|_| ()).map_err(refused)
    }

    pub fn group_resource(&self, plural: &str) -> String {
        match self.api_version.split_once('/') {
            Some((group, _)) => format!("{plural}.{group}"),
            None => plural.to_owned(),
        }
    }

    pub async fn resource(&self, ctx: &Ctx) -> Result<Resource> {
        let known = match self.api_version.contains('/') {
            true => ctx.client.list_api_group_resources(self.api_version).await,
            false => ctx.client.list_core_api_resources(self.api_version).await,
        };
        let unknown = || {
            let Target { kind, api_version, .. } = self;
            Error::Invalid(format!("no matches for kind {kind:?} in version {api_version:?}"))
        };
        let known = match known {
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(unknown()),
            other => other.map_err(|source| self.unread(source))?.resources,
        };
        let of_kind = known.iter().find(|one| one.kind == self.kind && !one.name.contains('/'));
        let plural = of_kind.map(|one| one.name.clone()).ok_or_else(unknown)?;
        let scale = format!("{plural}/scale");
        let has_scale = known.iter().any(|one| one.name == scale);
        Ok(Resource { plural, has_scale })
    }

    fn requests(&self, plural: &str) -> Request {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let Target { api_version, namespace, .. } = self;
        Request::new(format!("/{root}/{api_version}/namespaces/{namespace}/{plural}"))
    }

    fn unread(&self, source: kube::Error) -> Error {
        Error::Read { what: format!("the scale of {} {}", self.kind, self.name), source }
    }
}
