//! Credentials for pull and push: given, or as `docker login` wrote them down.

use std::path::PathBuf;

use skiff_kubelet::Keyring;
use skiff_runtime::{AuthConfig, Reference};

use super::door::Result;
use super::grammar::CredentialArgs;

pub fn credentials(given: &CredentialArgs, image: &str) -> Result<Option<AuthConfig>> {
    if let Some(pair) = &given.creds {
        let (username, password) =
            pair.split_once(':').ok_or("--creds wants a name and a password: USER:PASSWORD")?;
        let (username, password) = (username.to_owned(), password.to_owned());
        return Ok(Some(AuthConfig { username, password, ..AuthConfig::default() }));
    }
    let Some(file) = docker_config().filter(|file| file.exists()) else { return Ok(None) };
    let keyring = Keyring::from_docker_config(&std::fs::read(&file)?)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(keyring.lookup(&Reference::parse(image)?.name).into_iter().next())
}

fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    Some(dir.or_else(home)?.join("config.json"))
}
