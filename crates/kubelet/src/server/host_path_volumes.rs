//! Directories of this node that stand behind dynamically provisioned volumes.
//!
//! `PUT` makes one and says where it is, `DELETE` removes it with all that is in it; both may be repeated. The caller is the
//! provisioner among the controllers, by way of the API server's node proxy. No upstream counterpart: there, provisioners
//! bring a pod of their own to every node. Invariant: nothing outside of [`DIRECTORY`] is ever touched.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use http::{Method, Response, StatusCode};
use serde_json::json;

use super::{Body, Refusal, json};

/// Beneath the kubelet's root.
const DIRECTORY: &str = "host-path-volumes";
/// Everybody's, as the users of a pod's containers are not known.
const MODE: u32 = 0o777;
const LONGEST_NAME: usize = 255;

/// Answers for the volume `name` of the kubelet whose root is given.
pub async fn serve(root: &Path, method: &Method, name: &str) -> Result<Response<Body>, Refusal> {
    if !is_plain(name) {
        let message = format!("{name:?} is not a name of a volume");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    let path = root.join(DIRECTORY).join(name);
    let removes = match *method {
        Method::PUT => false,
        Method::DELETE => true,
        _ => return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only PUT and DELETE")),
    };
    let done = tokio::task::spawn_blocking(move || match removes {
        true => remove(&path).map(|()| path),
        false => make(&path).map(|()| path),
    });
    let path: PathBuf = done.await.map_err(Refusal::internal)?.map_err(Refusal::internal)?;
    json(&json!({ "path": path }))
}

/// One path component, as names of volumes, namespaces and claims make it up.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && name.chars().all(allowed)
}

fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_volume_is_made_and_removed_as_often_as_asked() {
        let root = std::env::temp_dir().join(format!("skiff-volumes-{}", std::process::id()));
        let path = root.join(DIRECTORY).join("pvc-1_ns_data");
        for _ in 0..2 {
            serve(&root, &Method::PUT, "pvc-1_ns_data").await.expect("made");
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, MODE);
        fs::write(path.join("kept"), "data").expect("writable");
        for _ in 0..2 {
            serve(&root, &Method::DELETE, "pvc-1_ns_data").await.expect("removed");
            assert!(!path.exists());
        }
        fs::remove_dir_all(root).expect("removed");
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", ".hidden", "a/b", "..%2fetc", "UPPER"] {
            let refusal = serve(Path::new("/nowhere"), &Method::DELETE, name).await.err();
            assert_eq!(refusal.map(|it| it.code), Some(StatusCode::BAD_REQUEST), "{name:?}");
        }
    }
}
