//! One plugin's registration socket, as it is called: who are you, and this became of it.
//!
//! Counterpart: `pluginregistration/v1`, whose field numbers these are. Invariant: a call ends after [`TIMEOUT`].

use std::{path::Path, time::Duration};

use prost::Message;
use skiff_grpc::{Channel, Status};

const TIMEOUT: Duration = Duration::from_secs(120);

/// What a plugin says of itself.
#[derive(Clone, PartialEq, Message)]
pub struct PluginInfo {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub name: String,
    /// None: the registration socket itself.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub versions: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    plugin_registered: bool,
    #[prost(string, tag = "2")]
    error: String,
}

pub struct RegistrationSocket(Channel);

// === impl RegistrationSocket ===

impl RegistrationSocket {
    pub fn at(path: &Path) -> Self {
        RegistrationSocket(Channel::unix(path))
    }

    pub async fn info(&self) -> Result<PluginInfo, Status> {
        self.0.unary("/pluginregistration.Registration/GetInfo", &(), Some(TIMEOUT)).await
    }

    /// Tells the plugin whether it is registered, or why it is not.
    pub async fn notify(&self, error: Option<String>) -> Result<(), Status> {
        let method = "/pluginregistration.Registration/NotifyRegistrationStatus";
        let plugin_registered = error.is_none();
        let error = error.unwrap_or_default();
        self.0.unary(method, &RegistrationStatus { plugin_registered, error }, Some(TIMEOUT)).await
    }
}
