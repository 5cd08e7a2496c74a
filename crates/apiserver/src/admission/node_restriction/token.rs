//! Which tokens a kubelet may ask for: those of its pods, for audiences that the pods name.

use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{GroupResource, Status};

use super::{Verdict, refuse};
use crate::admission::Request;
use crate::authz::{self, Attributes};
use crate::objects;

const VERB: &str = "request-serviceaccounts-token-audience";

pub async fn judge(request: &Request<'_>, node: &str, asked: &Value) -> Verdict {
    let to = &asked["spec"]["boundObjectRef"];
    let text = |field: &str| to[field].as_str().unwrap_or("");
    let (name, uid) = (text("name"), text("uid"));
    if text("apiVersion") != "v1" || text("kind") != "Pod" || name.is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = objects::find(request.server, "pods", request.namespace, name).await?;
    let pod = pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))?;
    if uid != meta(&pod).uid() {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    check_audience(request, asked, &pod).await
}

async fn check_audience(request: &Request<'_>, asked: &Value, pod: &Value) -> Verdict {
    let given = asked["spec"]["audiences"].as_array().map_or(&[][..], Vec::as_slice);
    let audience = match given {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return refuse("node may only request 0 or 1 audiences"),
    };
    if names_audience(request, pod, audience).await? {
        return Ok(());
    }
    let attributes = Attributes {
        verb: VERB.to_owned(),
        is_resource: true,
        version: "v1".to_owned(),
        resource: audience.to_owned(),
        namespace: request.namespace.to_owned(),
        name: request.name.clone(),
        ..Attributes::default()
    };
    let decision = authz::decide(request.server, request.user, &attributes).await?;
    match decision.is_allowed() {
        true => Ok(()),
        false => refuse(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            request.user.name
        )),
    }
}

/// Whether a volume of the pod wants a token for the audience: a projected one, or by way of a CSI driver.
async fn names_audience(
    request: &Request<'_>,
    pod: &Value,
    audience: &str,
) -> Result<bool, Status> {
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        let tokens = sources.filter_map(|source| source.get("serviceAccountToken"));
        if tokens.into_iter().any(|token| token["audience"].as_str().unwrap_or("") == audience) {
            return Ok(true);
        }
        let Some(driver) = driver_of(request, pod, volume).await? else { continue };
        let found = objects::find(request.server, "csidrivers", "", &driver).await?;
        let requests = found.as_ref().and_then(|driver| driver["spec"]["tokenRequests"].as_array());
        if requests.into_iter().flatten().any(|one| one["audience"].as_str() == Some(audience)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The CSI driver behind a volume: its own, or that of the claim's PersistentVolume.
async fn driver_of(
    request: &Request<'_>,
    pod: &Value,
    volume: &Value,
) -> Result<Option<String>, Status> {
    if let Some(driver) = volume["csi"]["driver"].as_str() {
        return Ok(Some(driver.to_owned()));
    }
    let ephemeral = || {
        volume.get("ephemeral")?;
        Some(format!("{}-{}", meta(pod).name(), volume["name"].as_str()?))
    };
    let claim = volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
    let Some(claim) = claim.or_else(ephemeral) else { return Ok(None) };
    let server = request.server;
    let claim = objects::find(server, "persistentvolumeclaims", request.namespace, &claim).await?;
    let name = claim.as_ref().and_then(|claim| claim["spec"]["volumeName"].as_str()).unwrap_or("");
    let volume = objects::find(server, "persistentvolumes", "", name).await?;
    Ok(volume.and_then(|volume| Some(volume["spec"]["csi"]["driver"].as_str()?.to_owned())))
}
