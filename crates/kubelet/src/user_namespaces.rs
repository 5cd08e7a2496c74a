//! Which of the node's user ids each pod with users of its own gets.
//!
//! Consumes the uids of pods, emits a range of ids that no other pod here has, and remembers it in the pod's directory.
//! Counterpart: `pkg/kubelet/userns`.
//! Invariant: a range is on disk before it is used, so that a restarted agent gives the pod the same again and nobody
//! else; the node's own ids are in none.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use skiff_runtime::{IdMapping, UserNamespace};

const FILE: &str = "userns";

/// All ranges of the node. Shared; every method is one short critical section.
pub struct UserNamespaces {
    pods_dir: PathBuf,
    ids_per_pod: u32,
    /// The first id of each pod, by uid.
    first: Mutex<BTreeMap<String, u32>>,
    pub started: AtomicU64,
    pub failed: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("create user namespace: could not find an empty slot to allocate a user namespace")]
    NoneLeft,
    #[error("create user namespace: {0}")]
    Unwritten(#[source] io::Error),
    #[error("user namespace: {0}")]
    Unusable(String),
}

/// The file in the pod's directory, in upstream's form.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    uid_mappings: Vec<RecordedMapping>,
    gid_mappings: Vec<RecordedMapping>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordedMapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

// === impl UserNamespaces ===

impl UserNamespaces {
    /// Finds again what pods were given in an earlier life.
    pub fn read(pods_dir: PathBuf, ids_per_pod: u32) -> Self {
        let mut first = BTreeMap::new();
        for uid in fs::read_dir(&pods_dir).into_iter().flatten().flatten() {
            let Ok(uid) = uid.file_name().into_string() else { continue };
            match read(&pods_dir.join(&uid), ids_per_pod) {
                Ok(Some(id)) => drop(first.insert(uid, id)),
                Ok(None) => {}
                Err(error) => tracing::error!(uid, %error, "the pod will not be started again"),
            }
        }
        let (started, failed) = Default::default();
        UserNamespaces { pods_dir, ids_per_pod, first: Mutex::new(first), started, failed }
    }

    /// The range of a pod, which has it until it is released.
    pub fn claim(&self, uid: &str) -> Result<UserNamespace, UsersError> {
        let mut first = self.first.lock().expect("no holder panics");
        let dir = self.pods_dir.join(uid);
        let id = match read(&dir, self.ids_per_pod)? {
            Some(id) => id,
            None => {
                let id = self.free(&first).ok_or(UsersError::NoneLeft)?;
                write(&dir, id, self.ids_per_pod).map_err(UsersError::Unwritten)?;
                id
            }
        };
        if first.iter().any(|(other, taken)| other != uid && *taken == id) {
            let reason = format!("range picked for pod {uid:?} already taken");
            return Err(UsersError::Unusable(reason));
        }
        first.insert(uid.to_owned(), id);
        let mapping = IdMapping { container_id: 0, host_id: id, length: self.ids_per_pod };
        Ok(UserNamespace { uids: vec![mapping], gids: vec![mapping] })
    }

    /// The pod runs nothing any more.
    pub fn release(&self, uid: &str) {
        let mut first = self.first.lock().expect("no holder panics");
        if first.remove(uid).is_some()
            && let Err(error) = fs::remove_file(self.pods_dir.join(uid).join(FILE))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(uid, %error, "cannot forget the user ids of a pod");
        }
    }

    /// Whether what a pod with users of its own asked for came about.
    pub fn count<T, E>(&self, outcome: &Result<T, E>) {
        if outcome.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The lowest range that nobody has. The first of all is the node's.
    fn free(&self, taken: &BTreeMap<String, u32>) -> Option<u32> {
        let mut taken: Vec<u32> = taken.values().copied().collect();
        taken.sort_unstable();
        let mut candidate = self.ids_per_pod;
        for id in taken {
            if id > candidate {
                break;
            }
            candidate = id.checked_add(self.ids_per_pod)?;
        }
        // The last id of the last range has to be one.
        candidate.checked_add(self.ids_per_pod - 1).map(|_| candidate)
    }
}

fn read(pod_dir: &Path, ids_per_pod: u32) -> Result<Option<u32>, UsersError> {
    let unusable = |reason: String| UsersError::Unusable(reason);
    let text = match fs::read(pod_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| unusable(error.to_string()))?,
    };
    let recorded: Recorded = serde_json::from_slice(&text)
        .map_err(|error| unusable(format!("invalid user namespace mappings file: {error}")))?;
    let ([uids], [gids]) = (&recorded.uid_mappings[..], &recorded.gid_mappings[..]) else {
        return Err(unusable("invalid user namespace configuration: not one mapping".into()));
    };
    let fits = uids.container_id == 0
        && uids.length == ids_per_pod
        && uids.host_id >= ids_per_pod
        && uids.host_id % ids_per_pod == 0;
    match uids == gids && fits {
        true => Ok(Some(uids.host_id)),
        false => Err(unusable(format!(
            "invalid user namespace configuration: not {ids_per_pod} ids from a multiple of that"
        ))),
    }
}

/// Beside its place and then into it, and safe from a crash of the machine: two pods must never share their ids.
fn write(pod_dir: &Path, host_id: u32, length: u32) -> io::Result<()> {
    let mapping = RecordedMapping { host_id, container_id: 0, length };
    let recorded = Recorded { uid_mappings: vec![mapping], gid_mappings: vec![mapping] };
    fs::create_dir_all(pod_dir)?;
    let next = pod_dir.join(format!("{FILE}.next"));
    fs::write(&next, serde_json::to_vec(&recorded)?)?;
    fs::File::open(&next)?.sync_all()?;
    fs::rename(next, pod_dir.join(FILE))?;
    fs::File::open(pod_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: u32 = 65536;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            Dir(std::env::temp_dir().join(format!("skiff-users-{}-{name}", std::process::id())))
        }

        fn open(&self) -> UserNamespaces {
            UserNamespaces::read(self.0.clone(), IDS)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn first(users: &UserNamespaces, uid: &str) -> u32 {
        users.claim(uid).expect("a range").uids[0].host_id
    }

    #[test]
    fn no_two_pods_share_ids_and_none_has_the_nodes() {
        let dir = Dir::new("apart");
        let users = dir.open();
        assert_eq!([first(&users, "a"), first(&users, "b")], [IDS, 2 * IDS]);
        assert_eq!(first(&users, "a"), IDS, "the same pod has the same");
        users.release("a");
        assert_eq!([first(&users, "c"), first(&users, "d")], [IDS, 3 * IDS]);
    }

    #[test]
    fn a_restarted_agent_knows_who_has_what() {
        let dir = Dir::new("again");
        assert_eq!(first(&dir.open(), "a"), IDS);
        let users = dir.open();
        assert_eq!([first(&users, "b"), first(&users, "a")], [2 * IDS, IDS]);
        users.release("b");
        assert_eq!(first(&dir.open(), "c"), 2 * IDS, "what was given back is free");
        let text = fs::read_to_string(dir.0.join("a/userns")).expect("a file");
        let mapping = r#"[{"hostId":65536,"containerId":0,"length":65536}]"#;
        assert_eq!(text, format!(r#"{{"uidMappings":{mapping},"gidMappings":{mapping}}}"#));
    }

    #[test]
    fn a_damaged_range_starts_no_pod() {
        let dir = Dir::new("damaged");
        for (uid, text) in [
            ("torn", "{"),
            (
                "root",
                r#"{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[{"hostId":0,"containerId":0,"length":65536}]}"#,
            ),
        ] {
            fs::create_dir_all(dir.0.join(uid)).expect("a directory");
            fs::write(dir.0.join(uid).join(FILE), text).expect("written");
            assert!(matches!(dir.open().claim(uid), Err(UsersError::Unusable(_))), "{uid}");
        }
    }

    #[test]
    fn the_last_range_ends_with_the_last_id() {
        let dir = Dir::new("last");
        let users = UserNamespaces::read(dir.0.clone(), 1 << 31);
        assert_eq!(first(&users, "a"), 1 << 31);
        assert!(matches!(users.claim("b"), Err(UsersError::NoneLeft)));
    }
}
