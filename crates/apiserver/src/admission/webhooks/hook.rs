//! One webhook of a configuration, decided once: whom it is about, how it is called, what its failure means.
//!
//! Webhook configurations -> [`Hooks`] in the order they are called. Counterpart: `webhook.WebhookAccessor` and the configuration
//! managers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;
use skiff_cel::MATCH_CONDITIONS_BUDGET;

use super::review;
use crate::admission::asking::RequestAuthorizer;
use crate::admission::evaluation::{Conditions, Evaluation, Subject};
use crate::admission::matching::{Criteria, Interest, Match};
use crate::admission::{Request, versions};
use crate::webhook::{ClientConfig, ConfigError};

/// Every webhook of one kind of configuration.
pub struct Hooks {
    pub interest: Interest,
    pub hooks: Vec<Hook>,
}

pub struct Hook {
    /// Unique among all webhooks: names are so in their configuration only.
    pub id: String,
    pub name: String,
    pub client: Result<ClientConfig, ConfigError>,
    pub timeout: Duration,
    pub ignores_failures: bool,
    pub reinvoke: bool,
    pub side_effects: String,
    pub mutating: bool,
    pub review_versions: Vec<String>,
    criteria: Criteria,
    conditions: Conditions,
}

const DEFAULT_TIMEOUT: u64 = 10;

// === impl Hooks ===

impl Hooks {
    pub fn read(configurations: &[Value], mutating: bool) -> Hooks {
        let mut ordered: Vec<&Value> = configurations.iter().collect();
        ordered.sort_by_key(|configuration| meta(configuration).name());
        let mut hooks = Hooks { interest: Interest::default(), hooks: Vec::new() };
        for configuration in ordered {
            let name = meta(configuration).name();
            let list = configuration["webhooks"].as_array().into_iter().flatten();
            let id = |at: usize| format!("{name}/{at}");
            hooks
                .hooks
                .extend(list.enumerate().map(|(at, hook)| Hook::read(id(at), hook, mutating)));
        }
        hooks.hooks.iter().for_each(|hook| hooks.interest.add(&hook.criteria));
        hooks
    }
}

// === impl Hook ===

impl Hook {
    fn read(id: String, hook: &Value, mutating: bool) -> Hook {
        let text = |field: &str| hook[field].as_str().unwrap_or("").to_owned();
        let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten();
        Hook {
            id,
            mutating,
            name: text("name"),
            client: ClientConfig::read(&hook["clientConfig"]),
            timeout: Duration::from_secs(
                hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT),
            ),
            ignores_failures: hook["failurePolicy"] == "Ignore",
            reinvoke: hook["reinvocationPolicy"] == "IfNeeded",
            side_effects: text("sideEffects"),
            review_versions: versions.filter_map(Value::as_str).map(str::to_owned).collect(),
            criteria: Criteria::read(hook, "rules"),
            conditions: Conditions::read(&hook["matchConditions"], false),
        }
    }

    /// The version of the object to show, if the hook wants to see it.
    pub async fn asked_about(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<Option<Match>, Status> {
        let Some(found) = self.criteria.matches(request, object).await? else { return Ok(None) };
        Ok(self.conditions_hold(request, &found, object)?.then_some(found))
    }

    /// What cannot be evaluated keeps the webhook from being asked, or the request from succeeding.
    fn conditions_hold(
        &self,
        request: &Request<'_>,
        found: &Match,
        object: &Value,
    ) -> Result<bool, Status> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let subject = Subject {
            object: versions::shown(request, &found.kind, object)?,
            old: versions::shown(request, &found.kind, request.old.unwrap_or(&Value::Null))?,
            request: review::attributes(request, found, object),
            namespace: Value::Null,
            authorizer: Arc::new(RequestAuthorizer::of(request)),
        };
        let evaluation = Evaluation::new(&subject, None, &[], MATCH_CONDITIONS_BUDGET);
        match self.conditions.hold(&evaluation) {
            Ok(hold) => Ok(hold),
            Err(_) if self.ignores_failures => Ok(false),
            Err(why) => Err(request.forbidden(object, &why)),
        }
    }

    pub fn has_side_effects(&self) -> bool {
        !matches!(self.side_effects.as_str(), "None" | "NoneOnDryRun")
    }
}
