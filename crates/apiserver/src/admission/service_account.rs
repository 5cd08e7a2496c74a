//! ServiceAccount: every pod runs as one, and finds its token mounted.
//!
//! Counterpart: `plugin/pkg/admission/serviceaccount`. Mirror pods are left alone: they exist already.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::meta::meta;

use super::{Plugin, Request};
use crate::objects;
use crate::verbs::write::generated_name;

pub struct ServiceAccount;

const MIRROR: &str = "kubernetes.io/config.mirror";
/// An account that says so gives its pods the secrets it lists, and no others.
const LIMITED: &str = "kubernetes.io/enforce-mountable-secrets";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a little, so that the kubelet's hourly renewal comes in time.
const TOKEN_SECONDS: i64 = 3607;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "pods")
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if meta(pod).annotation(MIRROR).is_some() {
            return Ok(());
        }
        let name = match pod["spec"]["serviceAccountName"].as_str().unwrap_or("") {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        pod["spec"]["serviceAccountName"] = name.clone().into();
        pod["spec"]["serviceAccount"] = name.clone().into();
        let account =
            objects::find(request.server, "serviceaccounts", request.namespace, &name).await?;
        let Some(account) = account else {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                request.namespace
            );
            return Err(request.forbidden(pod, &why));
        };
        if mounts_token(pod, &account) {
            mount_token(pod);
        }
        if pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
            && account["imagePullSecrets"].is_array()
        {
            pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        if meta(&account).annotation(LIMITED) == Some("true")
            && let Some(why) = foreign_secret(&pod["spec"], &account)
        {
            return Err(request.forbidden(pod, &why));
        }
        Ok(())
    }
}

/// The first secret of a pod that its account, by its own word, does not let it have.
fn foreign_secret(spec: &Value, account: &Value) -> Option<String> {
    let who = meta(account).name();
    let items = |object: &Value, list: &str| object[list].as_array().cloned().unwrap_or_default();
    let lists =
        |list: &str, name: &Value| items(account, list).iter().any(|it| it["name"] == *name);
    let refused = |what: String, name: &Value| {
        let name = name.as_str().filter(|_| !lists("secrets", name))?;
        Some(format!(
            "{what} secret.secretName=\"{name}\" is not allowed because service account {who} does not reference that secret"
        ))
    };
    let volumes = items(spec, "volumes");
    let of_volume = |it: &Value| refused("volume with".to_owned(), &it["secret"]["secretName"]);
    if let Some(why) = volumes.iter().find_map(of_volume) {
        return Some(why);
    }
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in items(spec, list) {
            let place = format!("{word} {}", container["name"].as_str().unwrap_or_default());
            let of_env = |env: &Value| {
                let of = env["name"].as_str().unwrap_or_default();
                let what = format!("{place} with envVar {of} referencing");
                refused(what, &env["valueFrom"]["secretKeyRef"]["name"])
            };
            let of_source = |source: &Value| {
                refused(format!("{place} with envFrom referencing"), &source["secretRef"]["name"])
            };
            let found = items(&container, "env").iter().find_map(of_env);
            let found = found.or_else(|| items(&container, "envFrom").iter().find_map(of_source));
            if found.is_some() {
                return found;
            }
        }
    }
    let pulls = items(spec, "imagePullSecrets");
    let at = pulls.iter().position(|pull| !lists("imagePullSecrets", &pull["name"]))?;
    let name = pulls[at]["name"].as_str().unwrap_or_default();
    Some(format!(
        "imagePullSecrets[{at}].name=\"{name}\" is not allowed because service account {who} does not reference that imagePullSecret"
    ))
}

/// The pod's word counts before the account's; without either it is yes.
fn mounts_token(pod: &Value, account: &Value) -> bool {
    let said = |object: &Value| object["automountServiceAccountToken"].as_bool();
    said(&pod["spec"]).or_else(|| said(account)).unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let existing = volumes
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX));
    let had = existing.is_some();
    let name = existing.map_or_else(|| generated_name(VOLUME_PREFIX), str::to_owned);
    let mut mounted = false;
    for containers in ["initContainers", "containers"] {
        for container in
            pod["spec"].get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten()
        {
            let mounts = container["volumeMounts"].as_array();
            if mounts
                .is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH))
            {
                continue;
            }
            push(
                container,
                "volumeMounts",
                json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }),
            );
            mounted = true;
        }
    }
    if mounted && !had {
        push(&mut pod["spec"], "volumes", token_volume(&name));
    }
}

fn push(object: &mut Value, list: &str, item: Value) {
    match object.get_mut(list).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[list] = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_account_lends_the_secrets_it_lists() {
        let account = json!({ "metadata": { "name": "m" }, "secrets": [{ "name": "mine" }] });
        let why = |spec: Value| foreign_secret(&spec, &account);
        let volume = |name: &str| json!({ "volumes": [{ "secret": { "secretName": name } }] });
        assert_eq!(why(volume("mine")), None);
        assert_eq!(
            why(volume("other")).as_deref(),
            Some(
                "volume with secret.secretName=\"other\" is not allowed because service account m does not reference that secret"
            )
        );
        let env = json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "other" } } }]);
        let pod = json!({ "containers": [{ "name": "c", "env": env }] });
        assert_eq!(
            why(pod).as_deref(),
            Some(
                "container c with envVar A referencing secret.secretName=\"other\" is not allowed because service account m does not reference that secret"
            )
        );
        assert_eq!(
            why(json!({ "imagePullSecrets": [{ "name": "p" }] })).as_deref(),
            Some(
                "imagePullSecrets[0].name=\"p\" is not allowed because service account m does not reference that imagePullSecret"
            )
        );
    }

    #[test]
    fn a_place_that_is_taken_stays_taken() {
        let mount = json!([{ "name": "v", "mountPath": MOUNT_PATH }]);
        let mut pod = json!({ "spec": { "containers": [{ "name": "a", "volumeMounts": mount }] } });
        mount_token(&mut pod);
        assert_eq!(pod["spec"].get("volumes"), None);
        pod["spec"]["containers"] = json!([{ "name": "a" }]);
        mount_token(&mut pod);
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1));
        mount_token(&mut pod);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"].as_array().map(Vec::len), Some(1));
    }
}
