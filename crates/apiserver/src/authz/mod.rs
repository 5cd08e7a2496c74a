//! Authorisation: who may do what.
//!
//! User + [`Attributes`] -> [`Decision`]. Superusers come first; then the authorisers are asked in the order of the
//! configuration, and the first with an opinion decides. Counterpart: `k8s.io/apiserver/pkg/authorization`.
//! Invariant: nothing is allowed because something failed.

pub mod claims;
mod config;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod rules;
mod webhook;

use skiff_api::selector::{FieldRequirement, Labels};
use skiff_api::{GroupResource, Status};

use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::user::{PRIVILEGED_GROUP, UserInfo};
use webhook::WebhookAuthorizer;

pub use config::{AuthorizationModeError, AuthorizerConfig};
pub use webhook::WebhookAuthorizerError;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub verb: String,
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
    /// What the request restricts itself to, as far as it could be read.
    pub field_selector: Vec<FieldRequirement>,
    pub label_selector: Labels,
}

/// Who is asked.
pub enum Authorizer {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(Box<WebhookAuthorizer>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opinion {
    Allow,
    /// Whoever is asked next is not.
    Deny,
    #[default]
    None,
}

#[derive(Clone, Debug, Default)]
pub struct Decision {
    pub opinion: Opinion,
    /// Why, or what kept it from being decided.
    pub reason: String,
}

/// Refuses what is not allowed with upstream's 403; says why the rest is.
pub async fn require(
    server: &Server,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<Decision, Status> {
    let decision = decide(server, user, attributes).await?;
    match decision.is_allowed() {
        true => Ok(decision),
        false => Err(forbidden(user, attributes, &decision.reason)),
    }
}

pub async fn decide(
    server: &Server,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<Decision, Status> {
    if user.is_in(PRIVILEGED_GROUP) {
        return Ok(Decision::allow(""));
    }
    let mut reasons = Vec::new();
    for authorizer in &server.authorizers {
        let decision = authorizer.decide(server, user, attributes).await?;
        if decision.opinion != Opinion::None {
            return Ok(decision);
        }
        reasons.push(decision.reason);
    }
    reasons.retain(|reason| !reason.is_empty());
    Ok(Decision::no_opinion(reasons.join("\n")))
}

// === impl Authorizer ===

impl Authorizer {
    pub fn all(configs: &[AuthorizerConfig]) -> Result<Vec<Authorizer>, WebhookAuthorizerError> {
        configs.iter().map(Authorizer::new).collect()
    }

    fn new(config: &AuthorizerConfig) -> Result<Authorizer, WebhookAuthorizerError> {
        Ok(match config {
            AuthorizerConfig::AlwaysAllow => Authorizer::AlwaysAllow,
            AuthorizerConfig::AlwaysDeny => Authorizer::AlwaysDeny,
            AuthorizerConfig::Node => Authorizer::Node,
            AuthorizerConfig::Rbac => Authorizer::Rbac,
            AuthorizerConfig::Webhook(config) => {
                Authorizer::Webhook(Box::new(WebhookAuthorizer::new(config)?))
            }
        })
    }

    async fn decide(
        &self,
        server: &Server,
        user: &UserInfo,
        attributes: &Attributes,
    ) -> Result<Decision, Status> {
        match self {
            Authorizer::AlwaysAllow => Ok(Decision::allow("")),
            Authorizer::AlwaysDeny => Ok(Decision::no_opinion("Everything is forbidden.")),
            Authorizer::Node => match user.node_name() {
                Some(node) => node::decide(server, node, attributes).await,
                None => Ok(Decision::default()),
            },
            Authorizer::Rbac => {
                Ok(server.rbac.policy(&server.store).await?.decide(user, attributes))
            }
            Authorizer::Webhook(webhook) => {
                Ok(webhook.decide(&server.webhooks, user, attributes).await)
            }
        }
    }

    /// Why the rules that this one applies cannot be listed for a user.
    pub fn unlisted(&self, user: &UserInfo) -> Option<&'static str> {
        match self {
            Authorizer::Node => {
                user.node_name().map(|_| "node authorizer does not support user rule resolution")
            }
            Authorizer::Webhook(_) => {
                Some("webhook authorizer does not support user rule resolution")
            }
            _ => None,
        }
    }
}

// === impl Decision ===

impl Decision {
    pub fn allow(reason: impl Into<String>) -> Decision {
        Decision { opinion: Opinion::Allow, reason: reason.into() }
    }

    pub fn no_opinion(reason: impl Into<String>) -> Decision {
        Decision { opinion: Opinion::None, reason: reason.into() }
    }

    pub fn is_allowed(&self) -> bool {
        self.opinion == Opinion::Allow
    }
}

// === impl Attributes ===

impl Attributes {
    /// What a request asks for. Selectors count where they restrict what is read or deleted.
    pub fn of(info: &RequestInfo, query: &Query) -> Attributes {
        let mut attributes = Attributes {
            verb: info.verb.clone(),
            is_resource: info.is_resource,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            ..Attributes::default()
        };
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
            // A selector that cannot be read restricts nothing here, and is refused later.
            let fields = FieldRequirement::parse_all(query.text("fieldSelector"));
            attributes.field_selector = fields.unwrap_or_default();
            let labels = Labels::parse(query.text("labelSelector"));
            attributes.label_selector = labels.unwrap_or_default();
        }
        attributes
    }

    /// `pods/log`, as rules name it.
    pub fn resource_path(&self) -> String {
        match self.subresource.is_empty() {
            true => self.resource.clone(),
            false => format!("{}/{}", self.resource, self.subresource),
        }
    }

    /// Whether only objects whose field has this value are asked for.
    pub fn selects_field(&self, field: &str, value: &str) -> bool {
        let fits = |one: &FieldRequirement| one.equal && one.field == field && one.value == value;
        self.field_selector.iter().any(fits)
    }
}

pub fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> Status {
    let mut why = denial(user, attributes);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource = GroupResource::new(&attributes.group, &attributes.resource);
    Status::forbidden(&resource, &attributes.name, &why)
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "y"`.
fn denial(user: &UserInfo, attributes: &Attributes) -> String {
    let Attributes { verb, namespace, group, path, .. } = attributes;
    if !attributes.is_resource {
        return format!("User {:?} cannot {verb} path {path:?}", user.name);
    }
    let place = match namespace.is_empty() {
        true => "at the cluster scope".to_owned(),
        false => format!("in the namespace {namespace:?}"),
    };
    let resource = attributes.resource_path();
    format!(
        "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
        user.name
    )
}
