//! Writes a set of files so that readers see all of the old or all of the new.
//!
//! Consumes paths with content and mode, emits `<dir>/..data -> ..<time>/` plus one link per top-level name.
//! Counterpart: `pkg/volume/util/atomic_writer.go`; containers rely on this very layout.
//! Invariant: `..data` is only ever replaced by rename(2); an unchanged payload writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt, lchown, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// Owner, for tokens of a container that does not run as root.
    pub uid: Option<u32>,
}

pub type Payload = BTreeMap<PathBuf, File>;

/// Whether a path may be written below a volume.
pub fn is_safe(path: &Path) -> bool {
    let normal = path.components().all(|c| matches!(c, Component::Normal(_)));
    let hidden = path.to_str().is_none_or(|p| p.starts_with(".."));
    normal && !hidden && path.components().next().is_some()
}

/// True when something was written.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let current = fs::read_link(dir.join(DATA)).ok().map(|name| dir.join(name));
    if current.as_deref().is_some_and(|c| holds(c, payload)) {
        return Ok(false);
    }
    let name = version_name(dir);
    let version = dir.join(&name);
    write_version(&version, payload, group)?;
    let tmp = dir.join(DATA_TMP);
    remove_if_there(&tmp)?;
    symlink(&name, &tmp)?;
    fs::rename(&tmp, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = current {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

/// Whether the version directory is exactly the payload.
fn holds(version: &Path, payload: &Payload) -> bool {
    let mut present = BTreeSet::new();
    if files_below(version, Path::new(""), &mut present).is_err() || present.len() != payload.len()
    {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let at = version.join(path);
        let same_mode = fs::metadata(&at)
            .is_ok_and(|m| m.permissions().mode() & 0o777 & file.mode == file.mode & 0o777);
        present.contains(path) && same_mode && fs::read(&at).is_ok_and(|c| c == file.content)
    })
}

fn files_below(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files_below(root, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// `..2026_11_21_06_10_00.123456789`
fn version_name(dir: &Path) -> String {
    loop {
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        let name = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%9f"));
        if !dir.join(&name).exists() {
            return name;
        }
    }
}

fn write_version(version: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    make_dir(version, group)?;
    for (path, file) in payload {
        let mut parent = version.to_owned();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            make_dir(&parent, group)?;
        }
        let at = version.join(path);
        fs::write(&at, &file.content)?;
        if group.is_some() || file.uid.is_some() {
            lchown(&at, file.uid, group)?;
        }
        // With a group, its members may read too.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn make_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    fs::set_permissions(
        dir,
        fs::Permissions::from_mode(if group.is_some() { 0o2775 } else { 0o755 }),
    )?;
    match group {
        Some(_) => lchown(dir, None, group),
        None => Ok(()),
    }
}

/// One link per top-level name, and none for names that are gone.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |p: &Path| p.components().next().map(|c| c.as_os_str().to_owned());
    let names: BTreeSet<_> = payload.keys().filter_map(|p| first(p)).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("..") && !names.contains(&name) {
            fs::remove_file(dir.join(&name))?;
        }
    }
    for name in names {
        match symlink(Path::new(DATA).join(&name), dir.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { content: text.into(), mode: 0o644, uid: None };
        files.iter().map(|(path, text)| (PathBuf::from(path), file(text))).collect()
    }

    #[test]
    fn swaps_whole_versions() {
        let dir = std::env::temp_dir().join(format!("skiff-atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let first = payload(&[("a", "1"), ("sub/b", "2")]);
        assert!(write(&dir, &first, None).expect("written"));
        assert!(
            !write(&dir, &first, None).expect("compared"),
            "an unchanged payload writes nothing"
        );
        let version = fs::read_link(dir.join(DATA)).expect("a link");

        assert!(write(&dir, &payload(&[("a", "1"), ("c", "3")]), None).expect("written"));
        assert_ne!(fs::read_link(dir.join(DATA)).expect("a link"), version);
        assert!(!dir.join(version).exists(), "the old version is gone");
        assert_eq!(fs::read_to_string(dir.join("c")).expect("readable"), "3");
        assert!(dir.join("sub").symlink_metadata().is_err(), "the link of a vanished name is gone");
        assert_eq!(fs::read_link(dir.join("a")).expect("a link"), Path::new("..data/a"));
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn refuses_paths_that_leave() {
        for (path, safe) in [
            ("a", true),
            ("a/b", true),
            ("../a", false),
            ("/a", false),
            ("..a", false),
            ("", false),
        ] {
            assert_eq!(is_safe(Path::new(path)), safe, "{path}");
        }
    }
}
