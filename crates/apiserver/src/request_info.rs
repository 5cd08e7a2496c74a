//! What a request is about, read from its method and path alone.
//!
//! `GET /apis/apps/v1/namespaces/x/deployments/web/scale` -> verb get, group apps, resource
//! deployments, subresource scale, namespace x, name web. Everything after it (authorisation, metrics,
//! dispatch) reads this and no path. Counterpart: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.
//! Invariant: only names are read here; whether the resource exists is decided later.

use http::Method;

use crate::query::{Query, decode_segment};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Below `/api/<version>` or `/apis/<group>/<version>`, and naming a resource.
    pub is_resource: bool,
    pub path: String,
    /// API verb of a resource request, lower-case method of any other.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource in the path of a proxy request.
    pub rest: Vec<String>,
}

/// What stands after a namespace's name and is no resource inside of it.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

// === impl RequestInfo ===

impl RequestInfo {
    pub fn read(method: &Method, path: &str, query: &Query) -> RequestInfo {
        let mut info = RequestInfo {
            path: path.to_owned(),
            verb: method.as_str().to_ascii_lowercase(),
            ..RequestInfo::default()
        };
        let mut parts: Vec<String> =
            path.trim_matches('/').split('/').map(decode_segment).collect();
        let head = match parts.first().map(String::as_str) {
            Some("api") => 2,
            Some("apis") => 3,
            _ => return info,
        };
        if parts.len() < head {
            return info;
        }
        if head == 3 {
            info.group = parts[1].clone();
        }
        info.version = parts[head - 1].clone();
        parts.drain(..head);
        if parts.is_empty() {
            return info;
        }
        info.is_resource = true;
        info.verb = verb_of(method).unwrap_or(&info.verb).to_owned();
        info.read_resource(parts);
        info.refine_verb(query);
        info
    }

    fn read_resource(&mut self, mut parts: Vec<String>) {
        // Verbs that once stood in the path.
        if matches!(parts[0].as_str(), "proxy" | "watch") && parts.len() > 1 {
            self.verb = parts.remove(0);
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].clone();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        self.resource = parts.next().unwrap_or_default();
        self.name = parts.next().unwrap_or_default();
        self.subresource = parts.next().unwrap_or_default();
        self.rest = parts.collect();
    }

    /// A read or delete without a name is about the collection.
    fn refine_verb(&mut self, query: &Query) {
        if self.name.is_empty() {
            match self.verb.as_str() {
                "get" if query.flag("watch") => self.verb = "watch".to_owned(),
                "get" => self.verb = "list".to_owned(),
                "delete" => self.verb = "deletecollection".to_owned(),
                _ => {}
            }
        }
        if matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
            && self.name.is_empty()
        {
            self.name = selected_name(query.text("fieldSelector"));
        }
    }

    /// Answers keep coming for as long as the client wants them.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "log" | "exec" | "attach" | "portforward" | "proxy"
            )
    }
}

/// The API verb of a method; a method of no verb is refused later.
fn verb_of(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    })
}

/// A list restricted to one name is authorised as if it were about that object.
fn selected_name(selector: &str) -> String {
    selector
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| *key == "metadata.name")
        .map(|(_, value)| value.trim_start_matches('=').to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str, expected: [&str; 7]) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let info = RequestInfo::read(&method, path, &Query::parse(query));
        let got = [
            &info.verb,
            &info.group,
            &info.version,
            &info.namespace,
            &info.resource,
            &info.name,
            &info.subresource,
        ];
        assert_eq!(got.map(String::as_str), expected, "{method} {path}");
    }

    #[test]
    fn resource_paths() {
        check(Method::GET, "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]);
        check(Method::GET, "/api/v1/pods?watch=true", ["watch", "", "v1", "", "pods", "", ""]);
        check(Method::GET, "/api/v1/proxy/pods/p", ["proxy", "", "v1", "", "pods", "p", ""]);
        check(Method::GET, "/api/v1/watch/pods", ["watch", "", "v1", "", "pods", "", ""]);
        check(
            Method::GET,
            "/api/v1/namespaces/x/pods/p?watch=true",
            ["get", "", "v1", "x", "pods", "p", ""],
        );
        check(
            Method::GET,
            "/api/v1/watch/namespaces/x/pods/p",
            ["watch", "", "v1", "x", "pods", "p", ""],
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/x/deployments",
            ["deletecollection", "apps", "v1", "x", "deployments", "", ""],
        );
        check(
            Method::PUT,
            "/apis/apps/v1/namespaces/x/deployments/web/scale",
            ["update", "apps", "v1", "x", "deployments", "web", "scale"],
        );
        check(Method::GET, "/api/v1/namespaces/x", ["get", "", "v1", "x", "namespaces", "x", ""]);
        check(
            Method::PUT,
            "/api/v1/namespaces/x/finalize",
            ["update", "", "v1", "x", "namespaces", "x", "finalize"],
        );
        check(
            Method::GET,
            "/api/v1/namespaces/x/secrets?fieldSelector=metadata.name%3Dmine",
            ["list", "", "v1", "x", "secrets", "mine", ""],
        );
    }

    #[test]
    fn other_paths_keep_their_method() {
        let info = RequestInfo::read(&Method::GET, "/healthz/ping", &Query::default());
        assert!(!info.is_resource);
        assert_eq!((info.verb.as_str(), info.path.as_str()), ("get", "/healthz/ping"));
        assert!(!RequestInfo::read(&Method::GET, "/apis/apps/v1", &Query::default()).is_resource);
    }
}
