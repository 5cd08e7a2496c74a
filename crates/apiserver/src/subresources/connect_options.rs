//! What a connection is asked for, as the object admission is shown.
//!
//! Path and query -> `PodExecOptions` and its kin. Counterpart: the `ConnecterOptions` of upstream's storages. Admission may refuse a
//! connection; unlike upstream, what it changes in the options has no effect, as the query goes on as it came.

use serde_json::{Map, Value};
use skiff_api::field::{ErrorList, Path};
use skiff_api::{GroupKind, Status};

use crate::admission::{self, Operation, Request};
use crate::call::Call;
use crate::query::Query;

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
        return check_log(&call.query, &info.name);
    }
    let kind = call.kind()?;
    let part = kind.subresource(&info.subresource).ok_or_else(Status::no_such_path)?;
    let mut options = options(call);
    options["kind"] = part.kind.as_str().into();
    options["apiVersion"] = "v1".into();
    admission::admit_part(Request::of_part(call, &kind, part, Operation::Connect), &mut options)
        .await
}

/// What a log may be asked for: counts that can be met, and one beginning.
fn check_log(query: &Query, pod: &str) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    if let Some(lines) = query.int("tailLines")?.filter(|lines| *lines < 0) {
        let why = "must be greater than or equal to 0";
        errors.invalid(&Path::new("tailLines"), lines, why);
    }
    let positive = "must be greater than 0";
    if let Some(bytes) = query.int("limitBytes")?.filter(|bytes| *bytes < 1) {
        errors.invalid(&Path::new("limitBytes"), bytes, positive);
    }
    match query.int("sinceSeconds")? {
        Some(_) if query.has("sinceTime") => {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.forbidden(&Path::ROOT.key(""), why);
        }
        Some(seconds) if seconds < 1 => {
            errors.invalid(&Path::new("sinceSeconds"), seconds, positive);
        }
        _ => {}
    }
    if query.has("stream") {
        errors.forbidden(&Path::new("stream"), "may not be specified");
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), pod, errors)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_asked_for_what_can_be_told() {
        let refused = |query: &str| check_log(&Query::parse(query), "p").err().map(|it| it.message);
        assert_eq!(refused("tailLines=0&limitBytes=1&sinceSeconds=1"), None);
        for (query, wanted) in [
            ("tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"),
            ("limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=0", "sinceSeconds: Invalid value: 0: must be greater than 0"),
            (
                "sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z",
                "[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            ("stream=All", "stream: Forbidden: may not be specified"),
        ] {
            let wanted = format!("PodLogOptions \"p\" is invalid: {wanted}");
            assert_eq!(refused(query), Some(wanted), "{query}");
        }
    }
}
