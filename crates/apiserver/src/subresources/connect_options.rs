//! What a connection is asked for, as the object admission is shown.
//!
//! Path and query -> `PodExecOptions` and its kin. Counterpart: the `ConnecterOptions` of upstream's storages. Admission may refuse a
//! connection; unlike upstream, what it changes in the options has no effect, as the query goes on as it came.

use serde_json::{Map, Value};
use skiff_api::Status;

use crate::admission::{self, Operation, Request};
use crate::call::Call;

/// Subresource, its flags, and its texts. Every one may have a `path`.
const FIELDS: &[(&str, &[&str], &[&str])] = &[
    ("attach", &["stdin", "stdout", "stderr", "tty"], &["container"]),
    ("exec", &["stdin", "stdout", "stderr", "tty"], &["container"]),
    ("portforward", &[], &[]),
    ("proxy", &[], &["path"]),
];

/// Logs are read and not connected to, so nobody is asked about them.
pub async fn admit(call: &Call) -> Result<(), Status> {
    let info = &call.info;
    if info.subresource == "log" {
        return Ok(());
    }
    let kind = call.kind()?;
    let part = kind.subresource(&info.subresource).ok_or_else(Status::no_such_path)?;
    let mut options = options(call);
    options["kind"] = part.kind.as_str().into();
    options["apiVersion"] = "v1".into();
    admission::admit_part(Request::of_part(call, &kind, part, Operation::Connect), &mut options)
        .await
}

fn options(call: &Call) -> Value {
    let (info, query) = (&call.info, &call.query);
    let mut options = Map::new();
    let Some((_, flags, texts)) = FIELDS.iter().find(|(sub, ..)| *sub == info.subresource) else {
        return options.into();
    };
    for flag in flags.iter().filter(|flag| query.flag(flag)) {
        options.insert((*flag).to_owned(), true.into());
    }
    for field in *texts {
        let text = match *field {
            "path" => info.rest.join("/"),
            field => query.text(field).to_owned(),
        };
        if !text.is_empty() {
            options.insert((*field).to_owned(), text.into());
        }
    }
    let command: Vec<Value> = query.all("command").map(Value::from).collect();
    if info.subresource == "exec" && !command.is_empty() {
        options.insert("command".to_owned(), command.into());
    }
    let ports: Vec<Value> =
        query.all("ports").filter_map(|port| port.parse::<i64>().ok()).map(Value::from).collect();
    if info.subresource == "portforward" && !ports.is_empty() {
        options.insert("ports".to_owned(), ports.into());
    }
    options.into()
}
