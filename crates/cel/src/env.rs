//! What expressions may refer to, and the way from text to program.
//!
//! Counterpart: `k8s.io/apiserver/pkg/cel/environment`, cel-go's `cel.Env`. An environment is
//! cheap to copy and extend; the functions of Kubernetes are shared by all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::check;
use crate::cost::estimate;
use crate::decl::{DeclType, ObjectType};
use crate::error::EvalError;
use crate::library::{self, Function, Functions};
use crate::macros::Features;
use crate::parser;
use crate::program::{self, Program};
use crate::source::Issues;
use crate::types::Type;

/// Types that can be named in expressions.
const NAMED_TYPES: [(&str, Type); 11] = [
    ("bool", Type::Bool),
    ("bytes", Type::Bytes),
    ("double", Type::Double),
    ("duration", Type::Duration),
    ("google.protobuf.Duration", Type::Duration),
    ("int", Type::Int),
    ("null_type", Type::Null),
    ("string", Type::String),
    ("timestamp", Type::Timestamp),
    ("google.protobuf.Timestamp", Type::Timestamp),
    ("uint", Type::Uint),
];

#[derive(Clone, Debug)]
pub struct Env {
    functions: Arc<Functions>,
    features: Features,
    variables: HashMap<String, Type>,
    /// Declarations of variables, for what they say about sizes.
    decls: HashMap<String, Arc<DeclType>>,
    objects: HashMap<Arc<str>, Arc<ObjectType>>,
    /// Names of types whose fields, and the types named by them, are not declared.
    open: Vec<String>,
}

/// Why there is no program.
///
/// Users are told which: "compilation failed: ..." and "program instantiation failed: ...".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The text makes no sense.
    #[error(transparent)]
    Issues(#[from] Issues),
    /// The text makes sense, but a constant in it cannot be: `int('x')`.
    #[error(transparent)]
    Constant(#[from] EvalError),
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Found {
    Variable(String, Type),
    Type(Type),
}

// === impl Env ===

impl Env {
    /// The language and libraries of Kubernetes v1.36, no variables.
    pub fn kubernetes() -> Env {
        Env {
            functions: library::kubernetes(),
            features: Features::default(),
            variables: HashMap::new(),
            decls: HashMap::new(),
            objects: HashMap::new(),
            open: Vec::new(),
        }
    }

    /// Adds `cel.bind(name, value, expression)`.
    pub fn with_bindings(mut self) -> Env {
        self.features.bindings = true;
        self
    }

    /// Allows fields to be written between backquotes.
    pub fn with_quoted_identifiers(mut self) -> Env {
        self.features.quoted_identifiers = true;
        self
    }

    /// Declares a variable of which nothing but the type is known.
    pub fn variable(mut self, name: &str, kind: Type) -> Env {
        self.variables.insert(name.to_owned(), kind);
        self
    }

    /// Declares a variable by what is known about its data. Object types in it should have been
    /// given names of their own ([`DeclType::named`]).
    pub fn declare(mut self, name: &str, decl: Arc<DeclType>) -> Env {
        decl.visit_objects(&mut |object| {
            self.objects.insert(object.name.clone(), object.clone());
        });
        self.variables.insert(name.to_owned(), decl.cel_type());
        self.decls.insert(name.to_owned(), decl);
        self
    }

    /// Declares a type expressions can make values of: `JSONPatch{op: 'add'}`.
    pub fn object_type(mut self, object: Arc<ObjectType>) -> Env {
        self.objects.insert(object.name.clone(), object);
        self
    }

    /// Declares a type of any fields, each of any type; `name.field` names the types of fields.
    pub fn open_type(mut self, name: &str) -> Env {
        self.open.push(name.to_owned());
        self
    }

    /// Reads and checks an expression and makes it ready to be evaluated.
    ///
    /// Takes any text. What is wrong with it is in the error, worded as users know it.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        let ast = parser::parse(text, self.features)?;
        let checked = check::check(ast, self, text)?;
        let estimate = estimate::estimate(&checked, &self.decls);
        Ok(program::plan(&checked, estimate)?)
    }

    pub(crate) fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.functions.get(name).cloned()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Found> {
        if let Some((name, kind)) = self.variables.get_key_value(name) {
            return Some(Found::Variable(name.clone(), kind.clone()));
        }
        let named = || NAMED_TYPES.iter().find(|(n, _)| *n == name).map(|(_, kind)| kind.clone());
        let kind = match name {
            "list" => Some(Type::list(Type::Dyn)),
            "map" => Some(Type::map(Type::Dyn, Type::Dyn)),
            "type" => Some(Type::Type(None)),
            "net.IP" | "net.CIDR" => Some(Type::opaque(name)),
            "optional_type" => Some(Type::optional(Type::Dyn)),
            name if self.objects.contains_key(name) || self.is_open(name) => {
                Some(Type::object(name))
            }
            _ => named(),
        };
        kind.map(Found::Type)
    }

    fn is_open(&self, name: &str) -> bool {
        self.open.iter().any(|open| {
            let rest = name.strip_prefix(&open[..]);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    pub(crate) fn find_field(&self, object: &str, field: &str) -> Option<Type> {
        match self.objects.get(object) {
            Some(object) => Some(object.fields.get(field)?.decl.cel_type()),
            None => self.is_open(object).then_some(Type::Dyn),
        }
    }
}
