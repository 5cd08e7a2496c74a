//! Follows the directory of manifests.
//!
//! Consumes the directory's files and the kernel's word that they changed, emits the pods they describe, all of them
//! each time. Counterpart: `pkg/kubelet/config/file.go` and `file_linux.go`.
//! Invariant: a file that cannot be understood is told of and passed over; a pod whose file says the same as before is
//! the same object as before; a directory that does not exist is empty.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::inotify::AddWatchFlags;
use skiff_api::KindDef;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Pods, full_name,
    manifest::{self, Origin},
};
use crate::directory_watch::DirectoryWatch;

/// A look for whatever the kernel did not tell of, such as a directory that has only now been made.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// An editor writes, renames and touches: one look for all of it.
const SETTLE: Duration = Duration::from_millis(50);

/// Sends the pods once at the start and again whenever they change, until nobody listens.
pub async fn follow(dir: PathBuf, node: String, pods: mpsc::Sender<Pods>) {
    let kinds = skiff_api::kinds::builtin();
    let kind = kinds.get("", "v1", "pods").expect("pods are built in");
    let (mut known, mut watching, mut told) = (Pods::new(), None, false);
    loop {
        if watching.is_none() {
            watching = watch(&dir).ok();
        }
        match read(&dir, &node, kind, &known) {
            Ok(found) => {
                if !told || !same(&found, &known) {
                    if pods.send(found.clone()).await.is_err() {
                        return;
                    }
                    told = true;
                }
                known = found;
            }
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "manifests cannot be read"),
        }
        match &watching {
            None => sleep(LOOK_EVERY).await,
            Some(kernel) => match timeout(LOOK_EVERY, changed(kernel)).await {
                Ok(Ok(())) => sleep(SETTLE).await,
                Ok(Err(_)) => watching = None,
                Err(_) => {}
            },
        }
    }
}

fn same(a: &Pods, b: &Pods) -> bool {
    a.len() == b.len() && a.iter().all(|(n, pod)| b.get(n).is_some_and(|p| Arc::ptr_eq(p, pod)))
}

fn read(dir: &Path, node: &str, kind: &KindDef, known: &Pods) -> io::Result<Pods> {
    let mut pods = Pods::new();
    for file in files(dir)? {
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "manifest cannot be read");
                continue;
            }
        };
        match manifest::pod(&text, kind, &Origin { node, file: &file }) {
            Ok(pod) => {
                let name = full_name(&pod);
                let same = known.get(&name).filter(|k| k.metadata.uid == pod.metadata.uid);
                let pod = same.cloned().unwrap_or_else(|| Arc::new(pod));
                if pods.insert(name, pod).is_some() {
                    tracing::warn!(file = %file.display(), "another manifest has a pod of this name");
                }
            }
            Err(error) => tracing::warn!(file = %file.display(), %error, "manifest passed over"),
        }
    }
    Ok(pods)
}

/// In the order of their names. What begins with a dot is an editor's.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn watch(dir: &Path) -> io::Result<DirectoryWatch> {
    let changes = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    DirectoryWatch::of([dir], changes)
}

/// An error when the directory is no longer the one that was watched.
async fn changed(watch: &DirectoryWatch) -> io::Result<()> {
    let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
    match watch.next().await?.intersects(gone) {
        true => Err(io::Error::from(io::ErrorKind::NotFound)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, \
             spec: {{containers: [{{name: c, image: {image}}}]}}}}"
        )
    }

    async fn names(pods: &mut mpsc::Receiver<Pods>) -> Vec<String> {
        let pods = pods.recv().await.expect("it goes on");
        pods.into_keys().map(|(_, name)| name).collect()
    }

    #[tokio::test]
    async fn files_that_come_change_and_go_are_followed() {
        let dir = Dir(std::env::temp_dir().join(format!("skiff-manifests-{}", std::process::id())));
        fs::create_dir_all(&dir.0).unwrap();
        fs::write(dir.0.join("a.yaml"), manifest("a", "i")).unwrap();
        fs::write(dir.0.join(".b.yaml.swp"), manifest("b", "i")).unwrap();
        fs::write(dir.0.join("broken.yaml"), "{").unwrap();
        let (sender, mut pods) = mpsc::channel(1);
        let following = tokio::spawn(follow(dir.0.clone(), "n".into(), sender));
        assert_eq!(names(&mut pods).await, ["a-n"]);

        // By rename, so that no look sees half a file.
        let put = |name: &str, text: String| {
            fs::write(dir.0.join(".new"), text).unwrap();
            fs::rename(dir.0.join(".new"), dir.0.join(name)).unwrap();
        };
        put("b.json", manifest("b", "i"));
        assert_eq!(names(&mut pods).await, ["a-n", "b-n"]);
        put("a.yaml", manifest("a", "j"));
        assert_eq!(names(&mut pods).await, ["a-n", "b-n"]);
        fs::remove_file(dir.0.join("a.yaml")).unwrap();
        assert_eq!(names(&mut pods).await, ["b-n"]);
        following.abort();
    }

    #[test]
    fn an_unchanged_file_is_the_same_pod() {
        let dir = Dir(std::env::temp_dir().join(format!("skiff-manifest-{}", std::process::id())));
        fs::create_dir_all(&dir.0).unwrap();
        fs::write(dir.0.join("a"), manifest("a", "i")).unwrap();
        let kinds = skiff_api::kinds::builtin();
        let kind = kinds.get("", "v1", "pods").expect("pods are built in");
        let first = read(&dir.0, "n", kind, &Pods::new()).unwrap();
        let second = read(&dir.0, "n", kind, &first).unwrap();
        assert!(same(&first, &second));
        assert!(read(&dir.0.join("missing"), "n", kind, &first).unwrap().is_empty());
    }
}
