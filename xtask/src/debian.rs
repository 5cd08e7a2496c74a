//! Root file systems from the distribution: unpacked packages, and libraries a binary needs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// A directory to build a root in, emptied first.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let dir = Path::new("target/images").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir.canonicalize()?)
}

/// Downloads packages (without installing them) and unpacks them into `root`.
pub fn unpack(packages: &[String], root: &Path) -> Result<()> {
    let cache = Path::new("target/images/packages");
    fs::create_dir_all(cache)?;
    for package in packages {
        if find(cache, package)?.is_none() {
            run(Command::new("apt-get").args(["-qq", "download", package]).current_dir(cache))?;
        }
        let file = find(cache, package)?.ok_or_else(|| format!("{package} was not downloaded"))?;
        run(Command::new("dpkg-deb").arg("-x").arg(file).arg(root))?;
    }
    Ok(())
}

/// Everything these packages need, themselves included, without what is in `without`.
pub fn with_dependencies(packages: &[&str], without: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]);
    command.args(["--no-breaks", "--no-replaces", "--no-enhances"]).args(packages);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("apt-cache: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    // A package's own name stands at the start of a line; its dependencies are indented.
    let names: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.starts_with([' ', '<', '|']))
        .map(str::to_owned)
        .filter(|name| !without.iter().any(|skip| name.starts_with(skip)))
        .collect();
    Ok(names.into_iter().collect())
}

/// Busybox and its applets in `bin`.
pub fn busybox(root: &Path) -> Result<()> {
    unpack(&["busybox-static".to_owned()], root)?;
    let busybox = root.join("bin/busybox");
    let output = Command::new(&busybox).arg("--list").output()?;
    for applet in String::from_utf8(output.stdout)?.lines() {
        let link = root.join("bin").join(applet);
        if applet != "busybox" && fs::symlink_metadata(&link).is_err() {
            symlink("busybox", link)?;
        }
    }
    for doc in ["usr/share/doc", "usr/share/man", "usr/share/lintian"] {
        remove(&root.join(doc))?;
    }
    Ok(())
}

/// Copies a binary to `place` in the root, with the libraries it is linked to.
pub fn install(binary: &Path, root: &Path, place: &str) -> Result<()> {
    copy(binary, &root.join(place.trim_start_matches('/')))?;
    let output = Command::new("ldd").arg(binary).output()?;
    for word in String::from_utf8(output.stdout)?.split_whitespace() {
        if word.starts_with('/') {
            copy(Path::new(word), &root.join(word.trim_start_matches('/')))?;
        }
    }
    Ok(())
}

/// `/etc/passwd`, `/etc/group` and a `/tmp` for everybody.
pub fn base(root: &Path, users: &[(&str, u32, &str)]) -> Result<()> {
    let line =
        |(name, id, home): &(&str, u32, &str)| format!("{name}:x:{id}:{id}::{home}:/bin/sh\n");
    let group = |(name, id, _): &(&str, u32, &str)| format!("{name}:x:{id}:\n");
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), users.iter().map(line).collect::<String>())?;
    fs::write(root.join("etc/group"), users.iter().map(group).collect::<String>())?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

pub fn remove(path: &Path) -> Result<()> {
    match path.exists() {
        true => Ok(fs::remove_dir_all(path)?),
        false => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(from, to).map_err(|error| format!("copying {}: {error}", from.display()))?;
    Ok(())
}

fn find(cache: &Path, package: &str) -> Result<Option<PathBuf>> {
    let prefix = format!("{package}_");
    let found = fs::read_dir(cache)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    Ok(found.map(|entry| entry.path()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{command:?} failed: {}", said.trim()).into())
        }
    }
}
