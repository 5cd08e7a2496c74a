//! What is about to happen to which object, as plugins, webhooks and policies see it.
//!
//! Counterpart: `admission.Attributes`.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status, Subresource};

use super::reinvocation::Reinvocation;
use crate::call::Call;
use crate::server::Server;
use crate::user::UserInfo;
use crate::verbs::delete::DeleteOptions;
use crate::verbs::write::{Empties, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

pub struct Request<'a> {
    pub call: &'a Call,
    pub server: &'a Server,
    pub user: &'a UserInfo,
    pub operation: Operation,
    /// As objects are stored; what plugins are given.
    pub kind: &'a Arc<KindDef>,
    /// As the path names it.
    pub requested: &'a Arc<KindDef>,
    pub subresource: &'a str,
    /// The subresource's own kind, where the object is of that: a Scale, a Binding, options of exec.
    pub part: Option<&'a Subresource>,
    pub namespace: &'a str,
    pub name: String,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// What the body gave empty, which the object does not show.
    empties: Option<&'a Empties>,
    /// The options of a deletion; those of other operations are read from the call.
    pub delete_options: Option<Value>,
    pub reinvocation: Reinvocation,
}

// === impl Operation ===

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    pub fn new(write: &'a Write<'a>, operation: Operation, old: Option<&'a Value>) -> Request<'a> {
        let (call, kind) = (write.call, &write.kind);
        Request {
            kind: &write.stored,
            subresource: &write.subresource,
            part: write.facet.and_then(|_| kind.subresource(&write.subresource)),
            old,
            dry_run: write.options.dry_run,
            empties: Some(&write.empties),
            ..Request::about(call, kind, operation)
        }
    }

    pub fn deletion(
        call: &'a Call,
        kind: &'a Arc<KindDef>,
        stored: &'a Arc<KindDef>,
        namespace: &'a str,
        name: &str,
        old: &'a Value,
        options: &DeleteOptions,
    ) -> Request<'a> {
        Request {
            kind: stored,
            namespace,
            name: name.to_owned(),
            old: Some(old),
            dry_run: options.dry_run,
            delete_options: Some(options.to_value()),
            ..Request::about(call, kind, Operation::Delete)
        }
    }

    /// A request for a subresource whose object is of a kind of its own.
    pub fn of_part(
        call: &'a Call,
        kind: &'a Arc<KindDef>,
        part: &'a Subresource,
        operation: Operation,
    ) -> Request<'a> {
        Request {
            subresource: &part.name,
            part: Some(part),
            dry_run: call.query.has("dryRun"),
            ..Request::about(call, kind, operation)
        }
    }

    fn about(call: &'a Call, kind: &'a Arc<KindDef>, operation: Operation) -> Request<'a> {
        Request {
            call,
            server: &call.server,
            user: &call.user,
            operation,
            kind,
            requested: kind,
            subresource: "",
            part: None,
            namespace: if kind.namespaced { &call.info.namespace } else { "" },
            name: call.info.name.clone(),
            old: None,
            dry_run: false,
            empties: None,
            delete_options: None,
            reinvocation: Reinvocation::default(),
        }
    }

    /// Whether the body gave an empty list or map at this pointer.
    pub fn gave_empty(&self, pointer: &str) -> bool {
        self.empties.is_some_and(|empties| empties.contains(pointer))
    }

    /// Whether this is about objects of a resource themselves, not a part of them.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.kind.group == group && self.kind.resource == resource && self.subresource.is_empty()
    }

    pub fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource)
    }

    /// The name as webhooks and policies are told it: a generated one only once it is known.
    pub fn attribute_name<'o>(&'o self, object: &'o Value) -> &'o str {
        if self.name.is_empty() { meta(object).name() } else { &self.name }
    }

    /// The namespace as webhooks and policies are told it: that of a Namespace is itself.
    pub fn attribute_namespace<'o>(&'o self, object: &'o Value) -> &'o str {
        let is_namespace = self.kind.group.is_empty() && self.kind.resource == "namespaces";
        if is_namespace { self.attribute_name(object) } else { self.namespace }
    }

    /// `CreateOptions`, `UpdateOptions` or `DeleteOptions`; `Null` for a connection.
    pub fn options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = Map::from_iter([
            ("kind".to_owned(), kind.into()),
            ("apiVersion".to_owned(), "meta.k8s.io/v1".into()),
        ]);
        if let Some(Value::Object(given)) = &self.delete_options {
            let own = given.iter().filter(|(field, _)| !options.contains_key(*field));
            let own: Vec<_> = own.map(|(field, value)| (field.clone(), value.clone())).collect();
            options.extend(own);
            return options.into();
        }
        let dry_run: Vec<&str> = self.call.query.all("dryRun").collect();
        if !dry_run.is_empty() {
            options.insert("dryRun".to_owned(), json!(dry_run));
        }
        for field in ["fieldManager", "fieldValidation"] {
            let given = self.call.query.text(field);
            if !given.is_empty() {
                options.insert(field.to_owned(), given.into());
            }
        }
        options.into()
    }

    /// A line for the audit log about this request.
    pub fn annotate(&self, key: &str, value: &str) {
        if let Some(trail) = &self.call.trail {
            trail.annotate(key, value);
        }
    }

    pub fn forbidden(&self, object: &Value, why: &str) -> Status {
        let about = meta(object);
        let name = [about.name(), &self.name, about.generate_name()];
        let name = name.into_iter().find(|name| !name.is_empty()).unwrap_or("");
        Status::forbidden(&self.requested.group_resource(), name, why)
    }
}
