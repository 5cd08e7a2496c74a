//! `skiff secrets-encrypt`: what of the Secrets is encrypted on disk, and with which key.
//!
//! Asks the server, which does the work while it serves. Counterpart: `k3s secrets-encrypt`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Request;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::{Done, block_on};

#[derive(Debug, Args)]
pub struct SecretsEncryptArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    pub command: SecretsEncryptCommand,
}

#[derive(Debug, Subcommand)]
pub enum SecretsEncryptCommand {
    /// Say how many Secrets are encrypted, and with which key
    Status,
    /// Make a new key, encrypt every Secret with it, and forget the old one
    Rotate,
    /// Encrypt every Secret that is not encrypted with the current key
    Reencrypt,
}

const PATH: &str = "/skiff/v1/secrets-encryption";

pub fn run(args: SecretsEncryptArgs) -> Done {
    block_on(async move {
        let client = client(args.kubeconfig.as_deref()).await?;
        match args.command {
            SecretsEncryptCommand::Status => {
                let status: Value = client.request(Request::get(PATH).body(Vec::new())?).await?;
                print(&status);
            }
            SecretsEncryptCommand::Rotate => change(&client, "rotate").await?,
            SecretsEncryptCommand::Reencrypt => change(&client, "reencrypt").await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client, Box<dyn std::error::Error>> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    Ok(Client::try_from(config)?)
}

async fn change(client: &Client, what: &str) -> Result<(), Box<dyn std::error::Error>> {
    let request = Request::post(format!("{PATH}/{what}")).body(Vec::new())?;
    let answer: Value = client.request(request).await?;
    println!("{} values encrypted with the current key", answer["reencrypted"]);
    Ok(())
}

fn print(status: &Value) {
    let enabled = if status["enabled"] == true { "enabled" } else { "disabled" };
    let managed = if status["managed"] == true { "the server" } else { "a configuration file" };
    println!("Encryption of Secrets: {enabled}, keys kept by {managed}");
    for (at, key) in status["keys"].as_array().into_iter().flatten().enumerate() {
        let mark = if at == 0 { " (current)" } else { "" };
        println!("Key: {}{mark}", key.as_str().unwrap_or(""));
    }
    for (prefix, counts) in status["values"].as_object().into_iter().flatten() {
        for (form, count) in counts.as_object().into_iter().flatten() {
            println!("{prefix}: {count} {form}");
        }
    }
}
