//! What the expressions of policies and match conditions may refer to, and what they must evaluate to.
//!
//! Expression + [`Scope`] -> a checked program, or the text users know. The same scope serves validation of what is written and, in the
//! API server, evaluation of what is stored. Counterpart: `apiserver/pkg/admission/plugin/cel` (`compile.go`, `composition.go`).
//! Invariant: an expression that validation lets through is one that evaluation can run.

use std::sync::{Arc, LazyLock};

use skiff_cel::{CompileError, DeclField, DeclType, Env, ObjectType, Program, Type};

/// The environment of one policy, which grows with its variables.
#[derive(Clone)]
pub struct Scope {
    env: Env,
    variables: Option<ObjectType>,
}

/// What an expression is for, and so what it must evaluate to and may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Condition,
    Message,
    AuditAnnotation,
    Variable,
    ApplyConfiguration,
    JsonPatch,
}

pub const AUTHORIZER: &str = "authorizer";
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";
const VARIABLES: &str = "variables";

/// `request`, as it is declared.
pub static REQUEST: LazyLock<Arc<DeclType>> = LazyLock::new(|| Arc::new(request_type()));
/// `namespaceObject`, as it is declared.
pub static NAMESPACE: LazyLock<Arc<DeclType>> = LazyLock::new(|| Arc::new(namespace_type()));

// === impl Scope ===

impl Scope {
    /// Match conditions have no variables; those of webhooks no parameters either.
    pub fn of_conditions(has_params: bool) -> Scope {
        Scope { env: environment(has_params), variables: None }
    }

    pub fn of_policy(has_params: bool) -> Scope {
        let variables = ObjectType::new("kubernetes.variables");
        Scope { env: environment(has_params), variables: Some(variables) }
    }

    /// As [`Scope::of_policy`], where it is known of what kind objects and parameters are.
    pub fn of_kind(
        object: &Arc<DeclType>,
        has_params: bool,
        params: Option<&Arc<DeclType>>,
    ) -> Scope {
        let mut scope = Scope::of_policy(has_params).with_variables();
        scope.env =
            scope.env.declare("object", object.clone()).declare("oldObject", object.clone());
        if let Some(params) = params {
            scope.env = scope.env.declare("params", params.clone());
        }
        scope
    }

    /// What does not fit in an expression, whatever it is to evaluate to.
    pub fn issues(&self, expression: &str) -> Option<String> {
        // Upstream does not know `authorizer.requestResource` here.
        let env = self.env.clone().variable(AUTHORIZER, Type::authorizer());
        match env.compile(expression) {
            Err(CompileError::Issues(issues)) => Some(issues.to_string()),
            Err(CompileError::Constant(_)) | Ok(_) => None,
        }
    }

    /// `variables` is known before the first of them is, and not at all where there are none.
    pub fn with_variables_of(self, spec: &serde_json::Value) -> Scope {
        match spec["variables"].as_array() {
            Some(list) if !list.is_empty() => self.with_variables(),
            _ => self,
        }
    }

    /// Also the types that mutations make values of.
    pub fn with_patches(mut self) -> Scope {
        let patch = ObjectType::new("JSONPatch")
            .field("op", DeclType::string())
            .field("path", DeclType::string())
            .field("from", DeclType::string())
            .field("value", DeclType::dynamic());
        self.env = self.env.object_type(Arc::new(patch)).open_type("Object");
        self
    }

    pub fn with_variables(mut self) -> Scope {
        if let Some(variables) = &self.variables {
            let decl = DeclType::object(variables.clone(), 2);
            self.env = self.env.declare(VARIABLES, Arc::new(decl));
        }
        self
    }

    /// Compiles a variable; later expressions may refer to it. One that fails is known, but of no certain type.
    pub fn add_variable(&mut self, name: &str, expression: &str) -> Result<Program, String> {
        let program = self.compile(expression, Purpose::Variable);
        let decl = program.as_ref().map_or_else(|_| DeclType::dynamic(), |p| declared(p.output()));
        if let Some(variables) = self.variables.take() {
            self.variables = Some(variables.field(name, decl));
            *self = self.clone().with_variables();
        }
        program
    }

    pub fn compile(&self, expression: &str, purpose: Purpose) -> Result<Program, String> {
        let env = match purpose {
            Purpose::Message => self.env.clone(),
            _ => with_authorizer(self.env.clone()),
        };
        let program =
            env.compile(expression).map_err(|found| format!("compilation failed: {found}"))?;
        let wanted = purpose.returns();
        if wanted.is_empty() || wanted.contains(program.output()) {
            return Ok(program);
        }
        let got = program.output();
        let (got, shown) = (runtime_name(got), wanted.iter().map(runtime_name));
        let shown: Vec<String> = shown.collect();
        Err(match shown.as_slice() {
            [one] => format!("must evaluate to {one} but got {got}"),
            many => format!("must evaluate to one of [{}] but got {got}", many.join(" ")),
        })
    }
}

fn environment(has_params: bool) -> Env {
    let env = Env::kubernetes()
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .declare("request", REQUEST.clone())
        .declare("namespaceObject", NAMESPACE.clone());
    if has_params { env.variable("params", Type::Dyn) } else { env }
}

fn with_authorizer(env: Env) -> Env {
    env.variable(AUTHORIZER, Type::authorizer()).variable(REQUEST_RESOURCE, Type::resource_check())
}

// === impl Purpose ===

impl Purpose {
    /// Empty for anything.
    fn returns(self) -> Vec<Type> {
        match self {
            Purpose::Condition => vec![Type::Bool],
            Purpose::Message => vec![Type::String],
            Purpose::AuditAnnotation => vec![Type::String, Type::Null],
            Purpose::Variable => Vec::new(),
            Purpose::ApplyConfiguration => vec![Type::object("Object")],
            Purpose::JsonPatch => vec![Type::list(Type::object("JSONPatch"))],
        }
    }
}

/// A type as Go prints it here: not quite as messages of the type checker have it.
pub(crate) fn runtime_name(of: &Type) -> String {
    match of {
        Type::Null => "null_type".to_owned(),
        Type::Any => "google.protobuf.Any".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::List(element) => format!("list({})", runtime_name(element)),
        Type::Map(key, value) => format!("map({}, {})", runtime_name(key), runtime_name(value)),
        other => other.to_string(),
    }
}

// === declarations ===

/// What later expressions know of a variable.
fn declared(output: &Type) -> DeclType {
    match output {
        Type::Bool => DeclType::bool(),
        Type::Int => DeclType::int(),
        Type::Double => DeclType::double(),
        Type::String => DeclType::string(),
        Type::List(element) => DeclType::list(declared(element), None),
        Type::Map(key, value) if **key == Type::String => DeclType::map(declared(value), None),
        Type::Bytes | Type::Duration | Type::Timestamp | Type::Uint | Type::Null => {
            DeclType::scalar(output.clone(), 2, skiff_cel::MAX_REQUEST_SIZE)
        }
        _ => DeclType::dynamic(),
    }
}

fn object(name: &str, fields: Vec<(&str, DeclType)>) -> DeclType {
    let mut object = ObjectType::new(name);
    for (field, decl) in fields {
        // Not escaped, though `namespace` is a word of the language: `request.namespace` is what everyone writes.
        let decl = DeclField { json: field.to_owned(), decl: Arc::new(decl) };
        object.fields.insert(field.to_owned(), decl);
    }
    DeclType::object(object, 2)
}

fn texts(names: &[&'static str]) -> Vec<(&'static str, DeclType)> {
    names.iter().map(|name| (*name, DeclType::string())).collect()
}

fn timestamp() -> DeclType {
    DeclType::scalar(Type::Timestamp, 21, 32)
}

fn request_type() -> DeclType {
    let kind = || object("kubernetes.GroupVersionKind", texts(&["group", "version", "kind"]));
    let resource =
        || object("kubernetes.GroupVersionResource", texts(&["group", "version", "resource"]));
    let list = || DeclType::list(DeclType::string(), None);
    let mut user = texts(&["username", "uid"]);
    user.push(("groups", list()));
    user.push(("extra", DeclType::map(list(), None)));
    let mut fields =
        texts(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    fields.extend([
        ("kind", kind()),
        ("resource", resource()),
        ("requestKind", kind()),
        ("requestResource", resource()),
        ("userInfo", object("kubernetes.UserInfo", user)),
        ("dryRun", DeclType::bool()),
        ("options", DeclType::dynamic()),
    ]);
    object("kubernetes.AdmissionRequest", fields)
}

fn namespace_type() -> DeclType {
    let list = || DeclType::list(DeclType::string(), None);
    let map = || DeclType::map(DeclType::string(), None);
    let mut condition = texts(&["status", "type", "message", "reason"]);
    condition.push(("lastTransitionTime", timestamp()));
    let condition = object("kubernetes.NamespaceCondition", condition);
    let status =
        vec![("conditions", DeclType::list(condition, None)), ("phase", DeclType::string())];
    let mut metadata = texts(&["name", "generateName", "namespace", "UID", "resourceVersion"]);
    metadata.extend([
        ("labels", map()),
        ("annotations", map()),
        ("creationTimestamp", timestamp()),
        ("deletionGracePeriodSeconds", DeclType::int()),
        ("deletionTimestamp", timestamp()),
        ("generation", DeclType::int()),
        ("finalizers", list()),
    ]);
    object(
        "kubernetes.Namespace",
        vec![
            ("metadata", object("kubernetes.NamespaceMetadata", metadata)),
            ("spec", object("kubernetes.NamespaceSpec", vec![("finalizers", list())])),
            ("status", object("kubernetes.NamespaceStatus", status)),
        ],
    )
    .with_nullable(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(scope: &Scope, expression: &str, purpose: Purpose) -> String {
        scope.compile(expression, purpose).expect_err("must not compile")
    }

    #[test]
    fn expressions_see_what_their_purpose_allows() {
        let scope = Scope::of_policy(true);
        for fine in [
            "object.metadata.name == 'x' && params.max > 3",
            "authorizer.group('').resource('pods').check('get').allowed()",
            "authorizer.requestResource.check('get').allowed()",
            "request.namespace == 'x' && namespaceObject.metadata.namespace == ''",
            "request.userInfo.username != '' && namespaceObject.metadata.labels['a'] == 'b'",
        ] {
            assert!(scope.compile(fine, Purpose::Condition).is_ok(), "{fine}");
        }
        let unknown = fault(&scope, "request.nonsense == ''", Purpose::Condition);
        assert!(
            unknown
                .starts_with("compilation failed: ERROR: <input>:1:8: undefined field 'nonsense'")
        );
        let params = fault(&Scope::of_policy(false), "params.x == 1", Purpose::Condition);
        assert!(params.contains("undeclared reference to 'params'"), "{params}");
    }

    #[test]
    fn results_have_the_type_they_are_for() {
        let scope = Scope::of_policy(false);
        let number = fault(&scope, "1 + 1", Purpose::Condition);
        assert_eq!(number, "must evaluate to bool but got int");
        let annotation = fault(&scope, "1", Purpose::AuditAnnotation);
        assert_eq!(annotation, "must evaluate to one of [string null_type] but got int");
    }

    #[test]
    fn variables_are_known_to_later_expressions_by_their_type() {
        let mut scope = Scope::of_policy(false);
        assert!(scope.add_variable("size", "size(object.data)").is_ok());
        assert!(scope.compile("variables.size > 3", Purpose::Condition).is_ok());
        let typed = fault(&scope, "variables.size == 'x'", Purpose::Condition);
        assert!(typed.contains("found no matching overload for '_==_'"), "{typed}");
        let unknown = fault(&scope, "variables.other", Purpose::Condition);
        assert!(unknown.contains("undefined field 'other'"), "{unknown}");
    }

    #[test]
    fn mutations_make_objects_and_patches() {
        let scope = Scope::of_policy(false).with_patches();
        let object = "Object{metadata: Object.metadata{labels: {'a': 'b'}}}";
        assert!(scope.compile(object, Purpose::ApplyConfiguration).is_ok());
        let patch = "[JSONPatch{op: 'add', path: '/a', value: 'b'}]";
        assert!(scope.compile(patch, Purpose::JsonPatch).is_ok());
    }
}
