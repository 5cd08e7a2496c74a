//! Who the process runs as: numbers and names against the image's `/etc/passwd` and `/etc/group`.
//!
//! Counterpart: `moby/sys/user`, `GetExecUser`, with CRI's group rules on top. Called inside the
//! container's root.

use std::fs;

use super::spec::UserSpec;
use crate::cri::ContainerUser;

/// A resolved user and its home directory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Account {
    pub user: ContainerUser,
    pub home: String,
}

pub(super) fn resolve(spec: &UserSpec) -> Result<Account, String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    lookup(spec, &read("/etc/passwd"), &read("/etc/group"))
}

fn lookup(spec: &UserSpec, passwd: &str, group_file: &str) -> Result<Account, String> {
    let (name, group, extra, merge) = match spec {
        UserSpec::Resolved(user) => {
            let entry = passwd_entries(passwd).find(|entry| entry.uid == user.uid);
            let home = entry.map_or("/", |entry| entry.home).to_owned();
            return Ok(Account { user: user.clone(), home });
        }
        UserSpec::Named { name, group, supplemental_groups, merge_image_groups } => {
            (name, group, supplemental_groups, *merge_image_groups)
        }
    };
    let (user_part, group_part) = name.split_once(':').unwrap_or((name, ""));
    let wanted = if user_part.is_empty() { "0" } else { user_part };
    let entry = passwd_entries(passwd)
        .find(|entry| entry.name == wanted || wanted.parse() == Ok(entry.uid));
    let uid =
        entry.as_ref().map(|entry| entry.uid).or_else(|| wanted.parse().ok()).ok_or_else(|| {
            format!("unable to find user {wanted}: no matching entries in passwd file")
        })?;
    let gid = match group {
        Some(gid) => *gid,
        None if group_part.is_empty() => entry.as_ref().map_or(0, |entry| entry.gid),
        None => find_group(group_part, group_file)?,
    };
    let mut supplemental_groups = vec![gid];
    supplemental_groups.extend(extra);
    if let (true, Some(entry)) = (merge, &entry) {
        supplemental_groups.extend(memberships(entry.name, group_file));
    }
    dedup(&mut supplemental_groups);
    let home = entry.map_or("/", |entry| entry.home).to_owned();
    Ok(Account { user: ContainerUser { uid, gid, supplemental_groups }, home })
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Malformed lines are skipped, as every libc does.
fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Passwd {
            name: fields.first()?,
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).copied().filter(|home| !home.is_empty()).unwrap_or("/"),
        })
    })
}

/// Name, number and members of each group.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

fn find_group(wanted: &str, text: &str) -> Result<u32, String> {
    groups(text)
        .find(|(name, gid, _)| *name == wanted || wanted.parse() == Ok(*gid))
        .map(|(_, gid, _)| gid)
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

fn memberships(user: &str, text: &str) -> Vec<u32> {
    groups(text)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

fn dedup(groups: &mut Vec<u32>) {
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nodd\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nvideo:x:44:app,other\n";

    fn check(name: &str, group: Option<u32>, merge: bool, expected: (u32, u32, &[u32], &str)) {
        let spec = UserSpec::Named {
            name: name.to_owned(),
            group,
            supplemental_groups: vec![7],
            merge_image_groups: merge,
        };
        let account = lookup(&spec, PASSWD, GROUP).unwrap();
        let user = account.user;
        assert_eq!(
            (user.uid, user.gid, user.supplemental_groups.as_slice(), account.home.as_str()),
            expected,
            "{name:?}"
        );
    }

    #[test]
    fn users_resolve_as_cri_says() {
        check("", None, true, (0, 0, &[0, 7], "/root"));
        check("app", None, true, (1000, 1001, &[1001, 7, 44], "/home/app"));
        check("1000", None, true, (1000, 1001, &[1001, 7, 44], "/home/app"));
        check("1000", None, false, (1000, 1001, &[1001, 7], "/home/app"));
        check("app:video", None, true, (1000, 44, &[44, 7], "/home/app"));
        check("4242", None, true, (4242, 0, &[0, 7], "/"));
        check("4242:5", None, true, (4242, 5, &[5, 7], "/"));
        check("4242:5", Some(9), true, (4242, 9, &[9, 7], "/"));
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["nobody", "app:wheel"] {
            let spec = UserSpec::Named {
                name: name.to_owned(),
                group: None,
                supplemental_groups: vec![],
                merge_image_groups: true,
            };
            let error = lookup(&spec, PASSWD, GROUP).unwrap_err();
            assert!(error.starts_with("unable to find"), "{error}");
        }
    }
}
