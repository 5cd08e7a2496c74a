//! How much of each resource a quota names is used in its namespace.
//!
//! Pods, Services and claims are measured from the caches by the rules of [`skiff_api::quota`]; anything else is one each, and
//! the API server says how many there are without handing them over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client};
use serde_json::Value;
use skiff_api::quota::{self, Amounts, Used};
use skiff_api::{KindDef, Kinds};

use crate::runtime::{Ctx, Error, Object, Result};

static KINDS: LazyLock<Kinds> = LazyLock::new(skiff_api::kinds::builtin);
const COUNT: &str = "count/";

/// A namespace whose objects are counted.
pub struct Namespace<'a> {
    ctx: &'a Ctx,
    name: &'a str,
}

/// What was found for one quota.
pub struct Counted {
    pub used: BTreeMap<String, Quantity>,
    /// The resources that were counted by asking for their number.
    pub counted_by_number: BTreeSet<Resource>,
}

/// A resource as quotas name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub group: String,
    pub plural: String,
}

/// What an object of a measured kind counts as.
pub fn of<K: Object>(object: &K) -> Amounts {
    let value = serde_json::to_value(object).unwrap_or(Value::Null);
    kind_of::<K>().map(|kind| quota::of(Used { kind, object: &value })).unwrap_or_default()
}

fn kind_of<K: Object>() -> Option<&'static Arc<KindDef>> {
    KINDS.by_kind(&K::group(&()), &K::version(&()), &K::kind(&()))
}

/// A resource's served version, or nothing if it is not served (any more).
pub async fn resolve(client: &Client, resource: &Resource) -> Result<Option<ApiResource>> {
    match kube::discovery::group(client, &resource.group).await {
        Ok(group) => {
            let mut resources = group.recommended_resources().into_iter();
            Ok(resources.find(|(found, _)| found.plural == resource.plural).map(|(found, _)| found))
        }
        Err(kube::Error::Discovery(_)) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(source) => {
            Err(Error::Read { what: format!("discovery of {:?}", resource.group), source })
        }
    }
}

// === impl Namespace ===

impl<'a> Namespace<'a> {
    pub fn new(ctx: &'a Ctx, name: &'a str) -> Namespace<'a> {
        Namespace { ctx, name }
    }

    pub async fn count(&self, quota: &ResourceQuota) -> Result<Counted> {
        let spec = quota.spec.as_ref();
        let named: Vec<&String> = spec
            .and_then(|spec| spec.hard.as_ref())
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .collect();
        let quota = serde_json::to_value(quota).unwrap_or(Value::Null);
        let mut amounts = Amounts::new();
        self.measure::<Pod>(&quota, &named, &mut amounts);
        self.measure::<Service>(&quota, &named, &mut amounts);
        self.measure::<PersistentVolumeClaim>(&quota, &named, &mut amounts);
        self.measure::<ResourceClaim>(&quota, &named, &mut amounts);
        let mut counted_by_number = BTreeSet::new();
        for name in named {
            if amounts.contains_key(name) {
                continue;
            }
            let Some(resource) = Resource::named(name) else { continue };
            if let Some(number) = self.number_of(&resource, &quota).await? {
                amounts.insert(name.clone(), skiff_api::quantity::Quantity::from_units(number));
            }
            counted_by_number.insert(resource);
        }
        let used = amounts.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string())));
        Ok(Counted { used: used.collect(), counted_by_number })
    }

    /// Adds up the objects of a kind, for those resources that the quota names; none is zero.
    fn measure<K: Object>(&self, quota: &Value, named: &[&String], amounts: &mut Amounts) {
        let Some(kind) = kind_of::<K>() else { return };
        let zero = skiff_api::quantity::Quantity::from_units(0);
        let names = named.iter().filter(|name| quota::counts(kind, name));
        let mut sums: Amounts = names.map(|name| ((*name).clone(), zero)).collect();
        if sums.is_empty() {
            return;
        }
        for object in self.ctx.lister::<K>().in_namespace(self.name) {
            let object = serde_json::to_value(object.as_ref()).unwrap_or(Value::Null);
            if !quota::all_match(kind, &object, quota) {
                continue;
            }
            for (name, amount) in quota::of(Used { kind, object: &object }) {
                if let Some(sum) = sums.get_mut(&name) {
                    *sum += amount;
                }
            }
        }
        amounts.extend(sums);
    }

    /// How many objects there are: one is asked for, and how many remain. A quota with scopes holds no such objects.
    async fn number_of(&self, resource: &Resource, quota: &Value) -> Result<Option<i64>> {
        let Some(served) = resolve(&self.ctx.client, resource).await? else { return Ok(None) };
        if is_scoped(quota) {
            return Ok(Some(0));
        }
        let api = Api::<PartialObjectMeta<DynamicObject>>::namespaced_with(
            self.ctx.client.clone(),
            self.name,
            &served,
        );
        let first = api
            .list_metadata(&ListParams::default().limit(1))
            .await
            .map_err(|source| Error::Read { what: served.plural.clone(), source })?;
        let shown = i64::try_from(first.items.len()).unwrap_or(i64::MAX);
        Ok(Some(shown + first.metadata.remaining_item_count.unwrap_or(0)))
    }
}

fn is_scoped(quota: &Value) -> bool {
    let filled = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    filled(&quota["spec"]["scopes"]) || filled(&quota["spec"]["scopeSelector"]["matchExpressions"])
}

// === impl Resource ===

impl Resource {
    /// `count/deployments.apps`, or the plain name of a core resource such as `secrets`.
    fn named(text: &str) -> Option<Resource> {
        let resource =
            |plural: &str, group: &str| Resource { group: group.into(), plural: plural.into() };
        match text.strip_prefix(COUNT) {
            Some(counted) => Some(match counted.split_once('.') {
                Some((plural, group)) => resource(plural, group),
                None => resource(counted, ""),
            }),
            None => KINDS
                .get("", "v1", text)
                .filter(|kind| quota::counts(kind, text))
                .map(|kind| resource(&kind.resource, "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_as_quotas_name_them() {
        for (text, expected) in [
            ("count/deployments.apps", Some(("deployments", "apps"))),
            ("count/secrets", Some(("secrets", ""))),
            ("configmaps", Some(("configmaps", ""))),
            ("count/widgets.example.com", Some(("widgets", "example.com"))),
            ("endpoints", None),
            ("requests.example.com/gpu", None),
        ] {
            let found = Resource::named(text);
            let found = found.as_ref().map(|of| (of.plural.as_str(), of.group.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
