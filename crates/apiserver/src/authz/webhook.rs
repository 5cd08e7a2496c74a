//! The webhook authoriser: asks a remote service by SubjectAccessReview.
//!
//! User + attributes -> the answer, remembered for a while, or the failure policy. Counterpart:
//! `plugin/pkg/authorizer/webhook`. Invariant: an answer that both allows and denies denies.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_api::selector::{Operator, Requirement};

use super::config::WebhookAuthorizerConfig;
use super::{Attributes, Decision, Opinion};
use crate::expression::Expression;
use crate::user::UserInfo;
use crate::webhook::{KubeconfigError, Patience, Reviewer, Target, WebhookClient};

const GROUP: &str = "authorization.k8s.io";
/// How many answers are remembered, and how long a question may be that is.
const REMEMBERED: usize = 8192;
const LONGEST: usize = 10_000;

pub struct WebhookAuthorizer {
    name: String,
    reviewer: Reviewer,
    authorized_ttl: Duration,
    unauthorized_ttl: Duration,
    on_error: Opinion,
    conditions: Vec<Expression>,
    answers: Mutex<BTreeMap<String, (Instant, Value)>>,
}

#[derive(Debug, thiserror::Error)]
pub enum WebhookAuthorizerError {
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    #[error("authorizer {name:?}: match condition {text:?}: {fault}")]
    Condition { name: String, text: String, fault: String },
}

impl WebhookAuthorizer {
    pub fn new(
        config: &WebhookAuthorizerConfig,
    ) -> Result<WebhookAuthorizer, WebhookAuthorizerError> {
        let compile = |text: &String| {
            Expression::compile(text, "request", &[skiff_cel::Type::Bool]).map_err(|fault| {
                let (name, text) = (config.name.clone(), text.clone());
                WebhookAuthorizerError::Condition { name, text, fault }
            })
        };
        Ok(WebhookAuthorizer {
            name: config.name.clone(),
            reviewer: Reviewer {
                target: Target::read(&config.kubeconfig)?,
                api_version: format!("{GROUP}/{}", config.version),
                kind: "SubjectAccessReview",
                patience: Patience { timeout: config.timeout, ..Patience::default() },
            },
            authorized_ttl: config.authorized_ttl,
            unauthorized_ttl: config.unauthorized_ttl,
            on_error: config.on_error,
            conditions: config.conditions.iter().map(compile).collect::<Result<_, _>>()?,
            answers: Mutex::default(),
        })
    }

    pub async fn decide(
        &self,
        client: &WebhookClient,
        user: &UserInfo,
        asked: &Attributes,
    ) -> Decision {
        match self.concerns(user, asked) {
            Ok(true) => {}
            Ok(false) => return Decision::default(),
            Err(fault) => {
                tracing::error!(fault, authorizer = self.name, "a match condition fails");
                return Decision { opinion: self.on_error, reason: String::new() };
            }
        }
        let spec = spec(user, asked, &self.reviewer.api_version);
        let key = spec.to_string();
        if let Some(status) = self.remembered(&key) {
            return decision(&status);
        }
        match self.reviewer.ask(client, &spec).await {
            Ok(status) => {
                self.remember(key, &status);
                decision(&status)
            }
            Err(error) => {
                tracing::error!(%error, authorizer = self.name, "an authoriser cannot be asked");
                Decision { opinion: self.on_error, reason: String::new() }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Value)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all conditions hold. One that does not outweighs one that cannot be evaluated.
    fn concerns(&self, user: &UserInfo, asked: &Attributes) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let spec = spec(user, asked, "v1");
        let mut fault = None;
        for condition in &self.conditions {
            match condition.holds(&spec) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => fault = fault.or(Some(why)),
            }
        }
        fault.map_or(Ok(true), Err)
    }

    fn remembered(&self, key: &str) -> Option<Value> {
        let answers = self.lock();
        let (until, status) = answers.get(key)?;
        (*until > Instant::now()).then(|| status.clone())
    }

    fn remember(&self, key: String, status: &Value) {
        let ttl = match status["allowed"] == true {
            true => self.authorized_ttl,
            false => self.unauthorized_ttl,
        };
        if ttl.is_zero() || key.len() > LONGEST {
            return;
        }
        let (mut answers, now) = (self.lock(), Instant::now());
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (until, _)| *until > now);
        }
        if answers.len() >= REMEMBERED {
            answers.pop_first();
        }
        answers.insert(key, (now + ttl, status.clone()));
    }
}

fn decision(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or("").to_owned();
    let opinion = match (status["denied"] == true, status["allowed"] == true) {
        (true, _) => Opinion::Deny,
        (false, true) => Opinion::Allow,
        (false, false) => Opinion::None,
    };
    Decision { opinion, reason }
}

/// The spec of the review; what is empty is left out. The beta version names groups in the singular.
fn spec(user: &UserInfo, asked: &Attributes, api_version: &str) -> Value {
    let groups = if api_version.ends_with("v1beta1") { "group" } else { "groups" };
    let mut spec = json!({ "user": user.name, "uid": user.uid, groups: user.groups,
        "extra": user.extra });
    match asked.is_resource {
        true => spec["resourceAttributes"] = resource(asked),
        false => spec["nonResourceAttributes"] = json!({ "path": asked.path, "verb": asked.verb }),
    }
    drop_empty(&mut spec);
    spec
}

fn resource(asked: &Attributes) -> Value {
    let mut attributes = json!({
        "namespace": asked.namespace, "verb": asked.verb, "group": asked.group,
        "version": asked.version, "resource": asked.resource, "subresource": asked.subresource,
        "name": asked.name,
    });
    let fields: Vec<Value> = asked
        .field_selector
        .iter()
        .map(|one| {
            let operator = if one.equal { "In" } else { "NotIn" };
            json!({ "key": one.field, "operator": operator, "values": [one.value] })
        })
        .collect();
    let labels: Vec<Value> = asked.label_selector.requirements().iter().filter_map(label).collect();
    for (selector, requirements) in [("fieldSelector", fields), ("labelSelector", labels)] {
        if !requirements.is_empty() {
            attributes[selector] = json!({ "requirements": requirements });
        }
    }
    drop_empty(&mut attributes);
    attributes
}

/// Comparisons of numbers are left out: the question gets wider, which is safe.
fn label(requirement: &Requirement) -> Option<Value> {
    let operator = match requirement.operator {
        Operator::Equals | Operator::In => "In",
        Operator::NotEquals | Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::GreaterThan | Operator::LessThan => return None,
    };
    let mut shown = json!({ "key": requirement.key, "operator": operator,
        "values": requirement.values });
    drop_empty(&mut shown);
    Some(shown)
}

fn drop_empty(value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    map.retain(|_, value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    use skiff_api::selector::{FieldRequirement, Labels};

    use super::*;

    #[test]
    fn the_question_says_what_is_known_and_nothing_else() {
        let asked = Attributes {
            verb: "list".to_owned(),
            is_resource: true,
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
            field_selector: vec![FieldRequirement {
                field: "spec.nodeName".to_owned(),
                value: "n".to_owned(),
                equal: true,
            }],
            label_selector: Labels::parse("a in (b),!c,d>1").expect("a selector"),
            ..Attributes::default()
        };
        let user = UserInfo::new("jane", &["devs"]);
        assert_eq!(
            spec(&user, &asked, "authorization.k8s.io/v1beta1"),
            json!({ "user": "jane", "group": ["devs"], "resourceAttributes": {
                "verb": "list", "version": "v1", "resource": "pods",
                "fieldSelector": { "requirements": [
                    { "key": "spec.nodeName", "operator": "In", "values": ["n"] }] },
                "labelSelector": { "requirements": [
                    { "key": "a", "operator": "In", "values": ["b"] },
                    { "key": "c", "operator": "DoesNotExist" }] } } })
        );
    }

    #[test]
    fn an_answer_that_says_both_denies() {
        let opinion = |status: Value| decision(&status).opinion;
        assert_eq!(opinion(json!({ "allowed": true, "denied": true })), Opinion::Deny);
        assert_eq!(opinion(json!({ "allowed": true })), Opinion::Allow);
        assert_eq!(opinion(json!({ "allowed": false, "reason": "no" })), Opinion::None);
    }
}
