//! Which issuers are believed, and how their claims are read.
//!
//! The `--oidc-*` flags, or the `jwt` part of an AuthenticationConfiguration -> [`JwtIssuer`]s. Counterpart:
//! `apis/apiserver/validation` and the OIDC options. Invariant: every expression compiles before the server starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::Value;
use skiff_cel::Type;

use crate::configuration::{self, FileError};
use crate::expression::Expression;

/// One issuer.
#[derive(Clone)]
pub struct JwtIssuer {
    pub issuer: String,
    pub discovery_url: Option<String>,
    /// PEM certificates that the issuer's must lead to; the system's if there are none.
    pub authority: Option<String>,
    pub audiences: Vec<String>,
    pub audience_match: AudienceMatch,
    pub algorithms: Vec<Algorithm>,
    pub username: Mapping,
    pub groups: Option<Mapping>,
    pub uid: Option<Mapping>,
    pub extra: Vec<(String, Arc<Expression>)>,
    /// Claims and the text that each must have.
    pub required: Vec<(String, String)>,
    pub claim_rules: Vec<Rule>,
    pub user_rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudienceMatch {
    /// The only audience there is to match.
    One,
    Any,
}

#[derive(Clone)]
pub enum Mapping {
    Claim { claim: String, prefix: String },
    Expression(Arc<Expression>),
}

#[derive(Clone)]
pub struct Rule {
    expression: Arc<Expression>,
    message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum JwtConfigError {
    #[error(transparent)]
    Configuration(#[from] FileError),
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("issuer {issuer:?}: {fault}")]
    Issuer { issuer: String, fault: String },
}

/// `--oidc-*`.
#[derive(Clone, Debug)]
pub struct OidcFlags {
    pub issuer_url: String,
    pub client_id: String,
    pub ca_file: Option<PathBuf>,
    pub username_claim: String,
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    pub groups_prefix: String,
    /// `claim=value` each.
    pub required_claims: Vec<String>,
    pub signing_algs: Vec<String>,
}

impl Default for OidcFlags {
    fn default() -> OidcFlags {
        OidcFlags {
            issuer_url: String::new(),
            client_id: String::new(),
            ca_file: None,
            username_claim: "sub".to_owned(),
            username_prefix: None,
            groups_claim: None,
            groups_prefix: String::new(),
            required_claims: Vec::new(),
            signing_algs: vec!["RS256".to_owned()],
        }
    }
}

/// What upstream accepts of an AuthenticationConfiguration's issuers.
const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
];
const VERSIONS: &[&str] = &[
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];

// === impl JwtIssuer ===

impl JwtIssuer {
    pub fn of_flags(flags: OidcFlags) -> Result<JwtIssuer, JwtConfigError> {
        let fault =
            |fault: String| JwtConfigError::Issuer { issuer: flags.issuer_url.clone(), fault };
        check_url(&flags.issuer_url).map_err(fault)?;
        if flags.client_id.is_empty() {
            return Err(fault("--oidc-client-id is required".to_owned()));
        }
        let authority = flags.ca_file.as_ref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|source| JwtConfigError::File { path: path.clone(), source })
        });
        let prefix = match flags.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            // So that nobody becomes somebody of this cluster by having the same name elsewhere.
            None if flags.username_claim == "email" => String::new(),
            None => format!("{}#", flags.issuer_url),
        };
        let pair = |text: &String| match text.split_once('=') {
            Some((claim, value)) => Ok((claim.to_owned(), value.to_owned())),
            None => Err(fault(format!("--oidc-required-claim {text:?} is not claim=value"))),
        };
        let algorithms = flags.signing_algs.iter().map(|name| algorithm(name));
        Ok(JwtIssuer {
            discovery_url: None,
            authority: authority.transpose()?,
            audiences: vec![flags.client_id.clone()],
            audience_match: AudienceMatch::One,
            algorithms: algorithms.collect::<Result<_, _>>().map_err(fault)?,
            username: Mapping::Claim { claim: flags.username_claim.clone(), prefix },
            groups: flags
                .groups_claim
                .clone()
                .map(|claim| Mapping::Claim { claim, prefix: flags.groups_prefix.clone() }),
            uid: None,
            extra: Vec::new(),
            required: flags.required_claims.iter().map(pair).collect::<Result<_, _>>()?,
            claim_rules: Vec::new(),
            user_rules: Vec::new(),
            issuer: flags.issuer_url.clone(),
        })
    }
}

impl std::fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JwtIssuer({})", self.issuer)
    }
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    let found = ALGORITHMS.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, algorithm)| *algorithm)
        .ok_or_else(|| format!("signing algorithm {name:?} is unknown"))
}

fn check_url(url: &str) -> Result<(), String> {
    match url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) {
        true => Ok(()),
        false => Err("the URL must begin with https://".to_owned()),
    }
}

// === impl Rule ===

impl Rule {
    pub fn check(&self, data: &Value) -> Result<(), String> {
        match self.expression.holds(data)? {
            true => Ok(()),
            false => {
                let text = &self.expression.text;
                Err(format!("validation expression '{text}' failed: {}", self.message))
            }
        }
    }
}

// === the file ===

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<Anonymous>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Anonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: Issuer,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<UserRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Issuer {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    audiences: Vec<String>,
    audience_match_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClaimRule {
    claim: Option<String>,
    #[serde(default)]
    required_value: String,
    expression: Option<String>,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRule {
    expression: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    username: MappingEntry,
    groups: Option<MappingEntry>,
    uid: Option<MappingEntry>,
    #[serde(default)]
    extra: Vec<ExtraEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingEntry {
    claim: Option<String>,
    prefix: Option<String>,
    expression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtraEntry {
    key: String,
    value_expression: String,
}

/// What an AuthenticationConfiguration says.
pub struct AuthenticationFile {
    pub jwt: Vec<JwtIssuer>,
    /// Whether nobody need be somebody, and on which paths alone (empty: on all); none if the file is silent.
    pub anonymous: Option<(bool, Vec<String>)>,
}

impl AuthenticationFile {
    pub fn read(path: &Path) -> Result<AuthenticationFile, JwtConfigError> {
        let file: File = configuration::read(path, "AuthenticationConfiguration", VERSIONS)?;
        let anonymous = file.anonymous.map(|anonymous| {
            let paths = anonymous.conditions.into_iter().map(|condition| condition.path);
            (anonymous.enabled, paths.collect())
        });
        Ok(AuthenticationFile { jwt: issuers(file.jwt)?, anonymous })
    }
}

/// The issuers of a file without its head, for tests.
#[cfg(test)]
pub fn parse(text: &str) -> Result<Vec<JwtIssuer>, JwtConfigError> {
    let file: File = serde_saphyr::from_str(text).expect("well-formed");
    issuers(file.jwt)
}

fn issuers(entries: Vec<Jwt>) -> Result<Vec<JwtIssuer>, JwtConfigError> {
    let read = |entry: Jwt| {
        let issuer = entry.issuer.url.clone();
        entry.read().map_err(|fault| JwtConfigError::Issuer { issuer, fault })
    };
    entries.into_iter().map(read).collect()
}

impl Jwt {
    fn read(self) -> Result<JwtIssuer, String> {
        check_url(&self.issuer.url)?;
        if self.issuer.audiences.is_empty() {
            return Err("audiences are required".to_owned());
        }
        let audience_match = match self.issuer.audience_match_policy.as_deref() {
            None | Some("") if self.issuer.audiences.len() == 1 => AudienceMatch::One,
            Some("MatchAny") => AudienceMatch::Any,
            _ => {
                return Err("audienceMatchPolicy must be MatchAny for several audiences".to_owned());
            }
        };
        let (mut required, mut claim_rules) = (Vec::new(), Vec::new());
        for rule in self.claim_validation_rules {
            match (rule.claim, rule.expression) {
                (Some(claim), None) => required.push((claim, rule.required_value)),
                (None, Some(text)) => {
                    claim_rules.push(compiled_rule(&text, "claims", rule.message)?)
                }
                _ => return Err("a rule is either a claim or an expression".to_owned()),
            }
        }
        let user_rules = self.user_validation_rules.into_iter();
        let user_rules =
            user_rules.map(|rule| compiled_rule(&rule.expression, "user", rule.message));
        let extra = self.claim_mappings.extra.into_iter().map(|entry| {
            Ok::<_, String>((entry.key, compiled(&entry.value_expression, &text_or_list())?))
        });
        Ok(JwtIssuer {
            issuer: self.issuer.url,
            discovery_url: self.issuer.discovery_url,
            authority: self.issuer.certificate_authority,
            audiences: self.issuer.audiences,
            audience_match,
            algorithms: ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
            username: self.claim_mappings.username.read(&[Type::String], true)?,
            groups: self
                .claim_mappings
                .groups
                .map(|entry| entry.read(&text_or_list(), true))
                .transpose()?,
            uid: self
                .claim_mappings
                .uid
                .map(|entry| entry.read(&[Type::String], false))
                .transpose()?,
            extra: extra.collect::<Result<_, _>>()?,
            required,
            claim_rules,
            user_rules: user_rules.collect::<Result<_, _>>()?,
        })
    }
}

impl MappingEntry {
    fn read(self, kinds: &[Type], prefixed: bool) -> Result<Mapping, String> {
        match (self.claim, self.expression, self.prefix) {
            (Some(claim), None, Some(prefix)) if prefixed => Ok(Mapping::Claim { claim, prefix }),
            (Some(claim), None, None) if !prefixed => {
                Ok(Mapping::Claim { claim, prefix: String::new() })
            }
            (Some(_), None, _) if prefixed => {
                Err("a claim needs a prefix, even an empty one".to_owned())
            }
            (None, Some(text), None) => compiled(&text, kinds).map(Mapping::Expression),
            _ => Err("a mapping is either a claim or an expression".to_owned()),
        }
    }
}

fn text_or_list() -> [Type; 3] {
    [Type::String, Type::list(Type::String), Type::list(Type::Dyn)]
}

fn compiled(text: &str, kinds: &[Type]) -> Result<Arc<Expression>, String> {
    Expression::compile(text, "claims", kinds).map(Arc::new)
}

fn compiled_rule(text: &str, variable: &'static str, message: String) -> Result<Rule, String> {
    let expression = Arc::new(Expression::compile(text, variable, &[Type::Bool])?);
    Ok(Rule { expression, message })
}
