//! Which requests a webhook or a policy is about: rules, selectors, and versions that mean the same.
//!
//! Request -> [`Match`]: the kind, at the version the rule names, in which the object is to be shown. Counterpart:
//! `plugin/webhook/generic`, `plugin/webhook/predicates` and `plugin/policy/matching`.
//! Invariant: a rule is judged before any selector needs another object.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::selector::Labels;
use skiff_api::{GroupResource, KindDef, Status};

use super::{Operation, Request};
use crate::objects;

/// `matchConstraints`, `matchResources`, or the like fields of a webhook.
#[derive(Debug, Default)]
pub struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: Option<Labels>,
    objects: Option<Labels>,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    /// Objects the rule is limited to; policies only.
    names: Vec<String>,
}

/// What a rule found, at the version it asks for.
#[derive(Clone)]
pub struct Match {
    pub kind: Arc<KindDef>,
}

/// The resources that any of several criteria may be about: the look-up that spares every other request.
#[derive(Debug, Default)]
pub struct Interest {
    everything: bool,
    resources: HashSet<String>,
}

// === impl Interest ===

impl Interest {
    pub fn add(&mut self, criteria: &Criteria) {
        for (resource, _) in criteria.rules.iter().flat_map(|rule| &rule.resources) {
            match resource.as_str() {
                "*" => self.everything = true,
                resource => drop(self.resources.insert(resource.to_owned())),
            }
        }
    }

    pub fn covers(&self, request: &Request<'_>) -> bool {
        self.everything || self.resources.contains(&request.kind.resource)
    }
}

// === impl Criteria ===

impl Criteria {
    /// `rules` is the field that holds them: webhooks and policies name it differently.
    pub fn read(holder: &Value, rules: &str) -> Criteria {
        let list = |field: &str| holder[field].as_array().into_iter().flatten().map(Rule::read);
        Criteria {
            rules: list(rules).collect(),
            excluded: list("excludeResourceRules").collect(),
            equivalent: holder["matchPolicy"] != "Exact",
            namespaces: selector(&holder["namespaceSelector"]),
            objects: selector(&holder["objectSelector"]),
        }
    }

    /// The version to show the object at, if the request is matched.
    pub async fn matches(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<Option<Match>, Status> {
        let name = request.attribute_name(object);
        let Some(found) = self.matches_rules(request, name) else { return Ok(None) };
        match self.matches_selectors(request, object).await? {
            true => Ok(Some(found)),
            false => Ok(None),
        }
    }

    /// As [`Criteria::matches`]; without any rule the request's own version matches.
    pub async fn matches_if_set(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<bool, Status> {
        let name = request.attribute_name(object);
        let ruled = match self.rules.is_empty() {
            true => !self.excludes(request, name),
            false => self.matches_rules(request, name).is_some(),
        };
        Ok(ruled && self.matches_selectors(request, object).await?)
    }

    fn excludes(&self, request: &Request<'_>, name: &str) -> bool {
        self.by_any_version(&self.excluded, request, name).is_some()
    }

    fn matches_rules(&self, request: &Request<'_>, name: &str) -> Option<Match> {
        let found = self.by_any_version(&self.rules, request, name)?;
        (!self.excludes(request, name)).then_some(found)
    }

    /// The version that was asked for if any rule names it, else another that the first matching rule names.
    fn by_any_version(&self, rules: &[Rule], request: &Request<'_>, name: &str) -> Option<Match> {
        let own = request.requested;
        if rules.iter().any(|rule| rule.matches(request, own, name)) {
            return Some(Match { kind: own.clone() });
        }
        if rules.is_empty() || !self.equivalent {
            return None;
        }
        let others = equivalents(request);
        let found = rules
            .iter()
            .find_map(|rule| others.iter().find(|kind| rule.matches(request, kind, name)));
        found.map(|kind| Match { kind: kind.clone() })
    }

    async fn matches_selectors(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<bool, Status> {
        let by_labels = |labels: &Labels| {
            let one = |object: &Value| !object.is_null() && labels.matches(meta(object).labels());
            one(object) || request.old.is_some_and(one)
        };
        if self.objects.as_ref().is_some_and(|labels| !by_labels(labels)) {
            return Ok(false);
        }
        match &self.namespaces {
            Some(labels) => in_namespace(labels, request, object).await,
            None => Ok(true),
        }
    }
}

/// A selector of everything is as good as none.
fn selector(value: &Value) -> Option<Labels> {
    let labels = Labels::from_object(value).ok()?;
    (value.is_object() && !labels.is_everything()).then_some(labels)
}

/// Cluster-wide objects are in no namespace that could be left out; a Namespace is judged by its own labels.
async fn in_namespace(
    labels: &Labels,
    request: &Request<'_>,
    object: &Value,
) -> Result<bool, Status> {
    let namespace = request.attribute_namespace(object);
    if namespace.is_empty() && request.kind.resource != "namespaces" {
        return Ok(true);
    }
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    if request.is("", "namespaces") && written {
        return Ok(labels.matches(meta(object).labels()));
    }
    let found = objects::find(request.server, "namespaces", "", namespace).await?;
    let found =
        found.ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), namespace))?;
    Ok(labels.matches(meta(&found).labels()))
}

/// The same objects under other versions or groups.
fn equivalents(request: &Request<'_>) -> Vec<Arc<KindDef>> {
    let own = request.requested;
    let same = |kind: &&Arc<KindDef>| {
        kind.kind == own.kind
            && kind.key_prefix == own.key_prefix
            && (kind.group != own.group || kind.version != own.version)
            && (request.subresource.is_empty() || kind.subresource(request.subresource).is_some())
    };
    request.server.kinds().iter().filter(same).cloned().collect()
}

// === impl Rule ===

impl Rule {
    fn read(rule: &Value) -> Rule {
        let list = |field: &str| -> Vec<String> {
            let items = rule[field].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let split = |text: String| match text.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (text, String::new()),
        };
        Rule {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources").into_iter().map(split).collect(),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: list("resourceNames"),
        }
    }

    /// Whether a request is meant, taken as one for this version of its kind.
    fn matches(&self, request: &Request<'_>, kind: &KindDef, name: &str) -> bool {
        let has = |list: &[String], wanted: &str| {
            list.iter().any(|entry| entry == "*" || entry == wanted)
        };
        let sub = request.subresource;
        let resource = |(resource, part): &(String, String)| {
            (resource == "*" || *resource == kind.resource) && (part == "*" || part == sub)
        };
        self.in_scope(request)
            && has(&self.operations, request.operation.name())
            && has(&self.groups, &kind.group)
            && has(&self.versions, &kind.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|own| own == name))
    }

    fn in_scope(&self, request: &Request<'_>) -> bool {
        match self.scope.as_str() {
            "Namespaced" => request.kind.namespaced,
            "Cluster" => !request.kind.namespaced,
            _ => true,
        }
    }
}
