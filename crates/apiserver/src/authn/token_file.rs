//! Static tokens from a file: `token,user,uid,"group1,group2"` a line.
//!
//! Counterpart: `--token-auth-file`.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::user::UserInfo;

#[derive(Debug, Default)]
pub struct TokenFile {
    users: HashMap<String, UserInfo>,
}

impl TokenFile {
    pub fn read(path: &Path) -> io::Result<TokenFile> {
        let text = std::fs::read_to_string(path)?;
        let users = text.lines().filter_map(|line| entry(&fields(line))).collect();
        Ok(TokenFile { users })
    }

    pub fn user(&self, token: &str) -> Option<UserInfo> {
        self.users.get(token).cloned()
    }
}

fn entry(fields: &[String]) -> Option<(String, UserInfo)> {
    let [token, name, uid, rest @ ..] = fields else { return None };
    let groups = rest.first().map_or("", String::as_str).split(',');
    let groups =
        groups.map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect();
    let user = UserInfo { name: name.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
    (!token.is_empty() && !name.is_empty()).then(|| (token.clone(), user))
}

/// One CSV line; quotes protect commas.
fn fields(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => out.last_mut().expect("never empty").push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_groups_are_split() {
        let (token, user) = entry(&fields(r#"t0k,jane,42,"a,b""#)).expect("a full line");
        assert_eq!((token.as_str(), user.name.as_str(), user.uid.as_str()), ("t0k", "jane", "42"));
        assert_eq!(user.groups, ["a", "b"]);
        assert!(entry(&fields("only,two")).is_none());
    }
}
