//! Who calls, and may they?
//!
//! Consumes a client certificate or bearer token, asks the API server what it cannot know itself (TokenReview,
//! SubjectAccessReview), emits admission or a refusal. Counterpart: `pkg/kubelet/server/auth.go`.
//! Invariant: an answer is believed for five minutes when it was yes and for half a minute when it was no; an error
//! is never a yes.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Refusal;

const MASTERS: &str = "system:masters";
const YES_FOR: Duration = Duration::from_secs(300);
const NO_FOR: Duration = Duration::from_secs(30);
const MAX_CACHED: usize = 1024;

/// (first path segment, subresource of nodes); everything else is `proxy`, which includes running code.
const SUBRESOURCES: [(&str, &str); 6] = [
    ("stats", "stats"),
    ("metrics", "metrics"),
    ("logs", "log"),
    ("healthz", "healthz"),
    ("pods", "pods"),
    ("configz", "configz"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    pub name: String,
    pub groups: Vec<String>,
}

// === impl Caller ===

impl Caller {
    /// The subject of a certificate that the TLS layer has verified: common name and organisations.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let text =
            |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        let name = subject.iter_common_name().find_map(text)?;
        Some(Caller { name, groups: subject.iter_organization().filter_map(text).collect() })
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Question {
    Token(String),
    Access(Caller, &'static str, &'static str),
}

#[derive(Clone)]
enum Belief {
    Caller(Option<Caller>),
    Allowed(bool),
}

pub struct Authorizer {
    client: Client,
    node_name: String,
    beliefs: Mutex<HashMap<Question, (Instant, Belief)>>,
}

// === impl Authorizer ===

impl Authorizer {
    pub fn new(client: Client, node_name: &str) -> Self {
        Authorizer { client, node_name: node_name.to_owned(), beliefs: Mutex::default() }
    }

    /// Lets the request pass or says why not.
    pub async fn admit<B>(
        &self,
        request: &Request<B>,
        certified: Option<Caller>,
    ) -> Result<(), Refusal> {
        let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        let bearer = bearer(request);
        let segment =
            request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        let method = request.method().clone();
        let caller = match (certified, bearer) {
            (Some(caller), _) => caller,
            (None, Some(token)) => self.whose(token).await?.ok_or_else(unauthorized)?,
            (None, None) => return Err(unauthorized()),
        };
        if caller.groups.iter().any(|g| g == MASTERS) {
            return Ok(());
        }
        let verb = verb(&method);
        let subresource =
            SUBRESOURCES.iter().find(|(s, _)| *s == segment).map_or("proxy", |(_, r)| r);
        // Who may do everything may also do each of the finer things.
        let coarse = matches!(subresource, "healthz" | "pods" | "configz").then_some("proxy");
        for subresource in [Some(subresource), coarse].into_iter().flatten() {
            if self.allowed(&caller, verb, subresource).await? {
                return Ok(());
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])",
            caller.name
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, message))
    }

    async fn whose(&self, token: String) -> Result<Option<Caller>, Refusal> {
        if let Some(Belief::Caller(caller)) = self.believed(&Question::Token(token.clone())) {
            return Ok(caller);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.clone(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status =
            api.create(&PostParams::default(), &review).await.map_err(Refusal::internal)?.status;
        let user = status.filter(|s| s.authenticated == Some(true)).and_then(|s| s.user);
        let caller = user.map(|u| Caller {
            name: u.username.unwrap_or_default(),
            groups: u.groups.unwrap_or_default(),
        });
        self.believe(Question::Token(token), caller.is_some(), Belief::Caller(caller.clone()));
        Ok(caller)
    }

    async fn allowed(
        &self,
        caller: &Caller,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Refusal> {
        let question = || Question::Access(caller.clone(), verb, subresource);
        if let Some(Belief::Allowed(allowed)) = self.believed(&question()) {
            return Ok(allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.into()),
                    name: Some(self.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer =
            api.create(&PostParams::default(), &review).await.map_err(Refusal::internal)?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        self.believe(question(), allowed, Belief::Allowed(allowed));
        Ok(allowed)
    }

    fn believed(&self, question: &Question) -> Option<Belief> {
        let beliefs = self.beliefs.lock().expect("no holder panics");
        let (until, belief) = beliefs.get(question)?;
        (*until > Instant::now()).then(|| belief.clone())
    }

    fn believe(&self, question: Question, yes: bool, belief: Belief) {
        let now = Instant::now();
        let mut beliefs = self.beliefs.lock().expect("no holder panics");
        if beliefs.len() >= MAX_CACHED {
            beliefs.retain(|_, (until, _)| *until > now);
        }
        if beliefs.len() < MAX_CACHED {
            beliefs.insert(question, (now + if yes { YES_FOR } else { NO_FOR }, belief));
        }
    }
}

fn bearer<B>(request: &Request<B>) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()).filter(|t| !t.is_empty())
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}
