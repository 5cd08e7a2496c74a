//! Gives every active namespace its `default` ServiceAccount.
//!
//! Namespaces and ServiceAccounts in, creates out. Counterpart: `pkg/controller/serviceaccount`.
//! Invariant: an account that exists is never touched.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::namespace::is_active;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

pub const DEF: ControllerDef = ControllerDef {
    name: "service-account-controller",
    workers: 4,
    watches: |edges| {
        edges.primary::<Namespace>();
        // Only losing the account matters.
        edges.mapped::<ServiceAccount>(|_, delta| {
            let account = delta.latest();
            let lost = delta.new.is_none() && account.metadata.name.as_deref() == Some("default");
            lost.then(|| Key::cluster(account.metadata.namespace.clone().unwrap_or_default()))
                .into_iter()
                .collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let namespace = ctx.lister::<Namespace>().get(&key);
    let account = ctx.lister::<ServiceAccount>().get(&Key::new(&key.name, "default"));
    if let Some(account) = plan(namespace.as_deref(), account.as_deref()) {
        match ctx.create(&account).await {
            // Made by somebody else, or no longer wanted.
            Err(error) if error.status_code() == Some(409) || error.namespace_terminating() => {}
            other => drop(other?),
        }
    }
    Ok(Action::Done)
}

/// The account to create, if one is missing where it should be.
fn plan(namespace: Option<&Namespace>, account: Option<&ServiceAccount>) -> Option<ServiceAccount> {
    let namespace = namespace.filter(|namespace| is_active(namespace))?;
    let metadata = ObjectMeta {
        name: Some("default".into()),
        namespace: namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    account.is_none().then(|| ServiceAccount { metadata, ..ServiceAccount::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn account_is_made_only_where_missing_and_wanted() {
        let active: Namespace = yaml("{metadata: {name: team}, status: {phase: Active}}");
        let terminating: Namespace = yaml("{metadata: {name: team}, status: {phase: Terminating}}");
        let made = plan(Some(&active), None).expect("an active namespace needs an account");
        assert_eq!(Key::of(&made), Key::new("team", "default"));
        assert_eq!(plan(Some(&active), Some(&made)), None);
        assert_eq!(plan(Some(&terminating), None), None);
        assert_eq!(plan(None, None), None);
    }
}
