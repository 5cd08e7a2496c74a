//! Questions to the authoriser: `authorizer.group('').resource('pods').check('get').allowed()`.
//!
//! What is asked is gathered step by step and put to whatever the caller has authorise.
//! Counterpart: `library/authz.go` of `k8s.io/apiserver`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::format::{is_namespace_name, is_service_account_name};
use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Opaque, Value};

/// Two checks fit into what one evaluation may cost.
const CHECK: Cost = Cost::Fixed(350_000);

macro_rules! authz {
    ($name:literal) => {
        concat!("kubernetes.authorization.", $name)
    };
}

macro_rules! on {
    ($on:literal, $params:literal, $result:literal) => {
        concat!(authz!($on), ".(", $params, ") -> ", authz!($result))
    };
}

pub(super) const TABLE: &[Row] = &[
    row("path", "authorizer_path", on!("Authorizer", "string", "PathCheck"), path),
    row("group", "authorizer_group", on!("Authorizer", "string", "GroupCheck"), |args| {
        narrowed(args, Stage::Authorizer, Stage::Group, |question, group| question.group = group)
    }),
    row(
        "serviceAccount",
        "authorizer_serviceaccount",
        on!("Authorizer", "string, string", "Authorizer"),
        service_account,
    ),
    row("resource", "groupcheck_resource", on!("GroupCheck", "string", "ResourceCheck"), resource),
    row(
        "subresource",
        "resourcecheck_subresource",
        on!("ResourceCheck", "string", "ResourceCheck"),
        |args| of_resource(args, |question, subresource| question.subresource = subresource),
    ),
    row(
        "namespace",
        "resourcecheck_namespace",
        on!("ResourceCheck", "string", "ResourceCheck"),
        |args| of_resource(args, |question, namespace| question.namespace = namespace),
    ),
    row("name", "resourcecheck_name", on!("ResourceCheck", "string", "ResourceCheck"), |args| {
        of_resource(args, |question, name| question.name = name)
    }),
    row(
        "fieldSelector",
        "authorizer_fieldselector",
        on!("ResourceCheck", "string", "ResourceCheck"),
        |args| of_resource(args, |question, selector| question.field_selector = selector),
    )
    .costs(Cost::Selector),
    row(
        "labelSelector",
        "authorizer_labelselector",
        on!("ResourceCheck", "string", "ResourceCheck"),
        |args| of_resource(args, |question, selector| question.label_selector = selector),
    )
    .costs(Cost::Selector),
    row("check", "pathcheck_check", on!("PathCheck", "string", "Decision"), check).costs(CHECK),
    row("check", "resourcecheck_check", on!("ResourceCheck", "string", "Decision"), check)
        .costs(CHECK),
    row("errored", "decision_errored", concat!(authz!("Decision"), ".() -> bool"), |args| {
        decided(args, |decision| Value::Bool(decision.error.is_some()))
    }),
    row("error", "decision_error", concat!(authz!("Decision"), ".() -> string"), |args| {
        decided(args, |decision| Value::string(decision.error.clone().unwrap_or_default()))
    }),
    row("allowed", "decision_allowed", concat!(authz!("Decision"), ".() -> bool"), |args| {
        decided(args, |decision| Value::Bool(decision.allowed))
    }),
    row("reason", "decision_reason", concat!(authz!("Decision"), ".() -> string"), |args| {
        decided(args, |decision| Value::string(decision.reason.clone()))
    }),
];

/// Answers what expressions ask.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, question: &Question) -> Decision;
}

/// What an expression asks about. Empty is what was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name of the service account asked about in place of the requesting user.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    /// Set when a path is asked about rather than a resource.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// How far a question has got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
}

#[derive(Clone)]
struct Asking {
    authorizer: Arc<dyn Authorizer>,
    question: Question,
    stage: Stage,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.stage, self.question)
    }
}

impl Opaque for Asking {
    fn cel_type(&self) -> Type {
        Type::object(match self.stage {
            Stage::Authorizer => authz!("Authorizer"),
            Stage::Path => authz!("PathCheck"),
            Stage::Group => authz!("GroupCheck"),
            Stage::Resource => authz!("ResourceCheck"),
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        let other = other.as_any().downcast_ref::<Asking>();
        other.is_some_and(|o| o.stage == self.stage && o.question == self.question)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Opaque for Decision {
    fn cel_type(&self) -> Type {
        Type::object(authz!("Decision"))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Type {
    /// The type of the variable `authorizer`.
    pub fn authorizer() -> Type {
        Type::object(authz!("Authorizer"))
    }

    /// The type of the variable `authorizer.requestResource`.
    pub fn resource_check() -> Type {
        Type::object(authz!("ResourceCheck"))
    }
}

impl Value<'_> {
    /// The value of the variable `authorizer`.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        let stage = Stage::Authorizer;
        Value::opaque(Asking { authorizer, question: Question::default(), stage })
    }

    /// The value of the variable `authorizer.requestResource`.
    pub fn resource_check(authorizer: Arc<dyn Authorizer>, question: Question) -> Self {
        Value::opaque(Asking { authorizer, question, stage: Stage::Resource })
    }
}

// === functions ===

/// What is asked so far and the text added to it.
fn asking<'v>(args: Args<'v, '_>, stage: Stage) -> Option<(&'v Asking, &'v str)> {
    let [asking, Value::String(text)] = args else { return None };
    Some((asking.downcast::<Asking>().filter(|asking| asking.stage == stage)?, text))
}

fn narrowed<'a>(
    args: Args<'_, 'a>,
    from: Stage,
    to: Stage,
    narrow: impl FnOnce(&mut Question, String),
) -> Evaluated<'a> {
    let Some((asking, text)) = asking(args, from) else { return no_overload() };
    let mut asking = Asking { stage: to, ..asking.clone() };
    narrow(&mut asking.question, text.to_owned());
    Ok(Value::opaque(asking))
}

fn of_resource<'a>(args: Args<'_, 'a>, narrow: fn(&mut Question, String)) -> Evaluated<'a> {
    narrowed(args, Stage::Resource, Stage::Resource, narrow)
}

fn path<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    if let [_, Value::String(path)] = args
        && path.trim().is_empty()
    {
        return Err(EvalError::other("path must not be empty"));
    }
    narrowed(args, Stage::Authorizer, Stage::Path, |question, path| question.path = Some(path))
}

fn resource<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    if let [_, Value::String(resource)] = args
        && resource.trim().is_empty()
    {
        return Err(EvalError::other("resource must not be empty"));
    }
    narrowed(args, Stage::Group, Stage::Resource, |question, resource| question.resource = resource)
}

fn service_account<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [asking, Value::String(namespace), Value::String(name)] = args else {
        return no_overload();
    };
    let Some(asking) = asking.downcast::<Asking>() else { return no_overload() };
    if !is_service_account_name(name) {
        return Err(EvalError::other("Invalid service account name"));
    }
    if !is_namespace_name(namespace) {
        return Err(EvalError::other("Invalid service account namespace"));
    }
    let mut asking = asking.clone();
    asking.question.service_account = Some((namespace.to_string(), name.to_string()));
    Ok(Value::opaque(asking))
}

fn check<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let asked = asking(args, Stage::Resource).or_else(|| asking(args, Stage::Path));
    let Some((asking, verb)) = asked else { return no_overload() };
    let question = Question { verb: verb.to_owned(), ..asking.question.clone() };
    Ok(Value::opaque(asking.authorizer.authorize(&question)))
}

fn decided<'a>(args: Args<'_, 'a>, answer: fn(&Decision) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [value] => value.downcast().map_or_else(no_overload, |decision| Ok(answer(decision))),
        _ => no_overload(),
    }
}
