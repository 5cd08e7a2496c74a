//! Publishes the cluster's CA certificate as the ConfigMap `kube-root-ca.crt` of every active namespace.
//!
//! Pods mount it to trust the API server. Counterpart: `pkg/controller/certificates/rootcacertpublisher`.
//! Invariant: the ConfigMap's data is put back whenever it differs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::namespace::is_active;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

pub const DEF: ControllerDef = ControllerDef {
    name: "root-ca-cert-publisher",
    workers: 4,
    watches: |edges| {
        edges.primary::<Namespace>();
        edges.selected::<ConfigMap>("metadata.name=kube-root-ca.crt", |_, delta| {
            vec![Key::cluster(delta.latest().metadata.namespace.clone().unwrap_or_default())]
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

#[derive(Debug, PartialEq)]
enum Op {
    Create(ConfigMap),
    Update(ConfigMap),
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let namespace = ctx.lister::<Namespace>().get(&key);
    let present = ctx.lister::<ConfigMap>().get(&Key::new(&key.name, NAME));
    match plan(namespace.as_deref(), present.as_deref(), &ctx.config.root_ca) {
        None => {}
        Some(Op::Update(map)) => drop(ctx.update(&map).await?),
        Some(Op::Create(map)) => match ctx.create(&map).await {
            Err(error) if error.namespace_terminating() => {}
            other => drop(other?),
        },
    }
    Ok(Action::Done)
}

fn plan(namespace: Option<&Namespace>, present: Option<&ConfigMap>, root_ca: &str) -> Option<Op> {
    let namespace = namespace.filter(|namespace| is_active(namespace))?;
    let data = Some(BTreeMap::from([("ca.crt".to_owned(), root_ca.to_owned())]));
    match present {
        Some(map) if map.data == data => None,
        Some(map) => Some(Op::Update(ConfigMap { data, ..map.clone() })),
        None => {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(BTreeMap::from([(
                    "kubernetes.io/description".to_owned(),
                    DESCRIPTION.to_owned(),
                )])),
                ..ObjectMeta::default()
            };
            Some(Op::Create(ConfigMap { metadata, data, ..ConfigMap::default() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn map_is_created_repaired_and_then_left_alone() {
        let namespace: Namespace = yaml("{metadata: {name: team}, status: {phase: Active}}");
        let Some(Op::Create(map)) = plan(Some(&namespace), None, "PEM") else {
            panic!("a missing map is created")
        };
        assert_eq!(plan(Some(&namespace), Some(&map), "PEM"), None);
        assert!(matches!(plan(Some(&namespace), Some(&map), "NEW PEM"), Some(Op::Update(_))));
        let terminating: Namespace = yaml("{metadata: {name: team}, status: {phase: Terminating}}");
        assert_eq!(plan(Some(&terminating), None, "PEM"), None);
    }
}
