//! Which of all a list is asked for, and who an abbreviated id means.
//!
//! Counterpart: the filters of CRI's lists. Invariant: an id that could mean two is nobody's.

use std::collections::BTreeMap;

use skiff_grpc::{Code, Status};
use skiff_runtime::{ContainerStatus, PodSandboxStatus};

use super::Served;
use crate::{api::StateValue, error::status_of};

/// Whether an object is one of those asked for; what is empty does not matter.
pub struct Wanted<'a> {
    pub id: &'a str,
    pub sandbox_id: &'a str,
    pub state: Option<StateValue>,
    pub labels: &'a BTreeMap<String, String>,
}

impl Wanted<'_> {
    pub fn takes(
        &self,
        id: &str,
        sandbox: &str,
        state: i32,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        id.starts_with(self.id)
            && sandbox.starts_with(self.sandbox_id)
            && self.state.as_ref().is_none_or(|wanted| wanted.state == state)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Served {
    pub async fn sandboxes(&self) -> Result<Vec<PodSandboxStatus>, Status> {
        self.runtime.list_pod_sandboxes().await.map_err(status_of)
    }

    pub async fn containers(&self) -> Result<Vec<ContainerStatus>, Status> {
        self.runtime.list_containers().await.map_err(status_of)
    }

    /// The sandbox of a whole or abbreviated id.
    pub async fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        one_of(self.sandboxes().await?, id, "pod sandbox", |sandbox| &sandbox.id)
    }

    /// The container of a whole or abbreviated id.
    pub async fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        one_of(self.containers().await?, id, "container", |container| &container.id)
    }
}

/// For verbs that are content when there is nobody.
pub fn if_there<T>(found: Result<T, Status>) -> Result<Option<T>, Status> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(status) if status.code == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

fn one_of<T>(all: Vec<T>, id: &str, kind: &str, id_of: impl Fn(&T) -> &str) -> Result<T, Status> {
    let mut found: Vec<T> = all.into_iter().filter(|one| id_of(one).starts_with(id)).collect();
    let whole = found.iter().position(|one| id_of(one) == id);
    match (whole, found.len()) {
        (Some(place), _) => Ok(found.swap_remove(place)),
        (None, 1) if !id.is_empty() => Ok(found.remove(0)),
        (None, 0 | 1) => Err(Status::new(Code::NotFound, format!("{kind} {id:?} not found"))),
        (None, _) => {
            let message = format!("{kind} {id:?} is ambiguous: there is more than one");
            Err(Status::new(Code::InvalidArgument, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abbreviated_id_means_one_or_nobody() {
        let find = |id: &str| {
            let all = ["abc", "abd", "abdx", "e"].map(str::to_owned).to_vec();
            one_of(all, id, "container", |one| one).map_err(|status| status.code)
        };
        assert_eq!(find("abc"), Ok("abc".to_owned()));
        assert_eq!(find("abd"), Ok("abd".to_owned()), "whole although it begins another");
        assert_eq!(find("e"), Ok("e".to_owned()));
        assert_eq!(find("ab"), Err(Code::InvalidArgument));
        assert_eq!(find("f"), Err(Code::NotFound));
        let nobody = one_of(Vec::<String>::new(), "", "container", |one| one);
        assert_eq!(nobody.map_err(|status| status.code), Err(Code::NotFound));
    }

    #[test]
    fn a_filter_takes_what_has_all_it_names() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("tier", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let app: BTreeMap<String, String> = [("app".to_owned(), "web".to_owned())].into();
        let all = Wanted { id: "", sandbox_id: "", state: None, labels: &BTreeMap::new() };
        assert!(all.takes("c", "s", 1, &labels));
        let some =
            Wanted { id: "c", sandbox_id: "s", state: Some(StateValue { state: 1 }), labels: &app };
        assert!(some.takes("c1", "s1", 1, &labels));
        assert!(!some.takes("d", "s1", 1, &labels) && !some.takes("c1", "t", 1, &labels));
        assert!(
            !some.takes("c1", "s1", 2, &labels) && !some.takes("c1", "s1", 1, &BTreeMap::new())
        );
    }
}
