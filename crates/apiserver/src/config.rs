//! What an API server needs to be told, once, by value.
//!
//! Counterpart: the flags of kube-apiserver, as a struct.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::audit::AuditConfig;

use crate::authn::AuthenticationConfig;
use crate::authz::AuthorizerConfig;
use crate::encryption::EncryptionConfig;

#[derive(Clone, Debug)]
pub struct ApiServerConfig {
    /// Holds `store/` and `pki/`.
    pub data_dir: PathBuf,
    /// Where clients outside and pods inside reach this server; the endpoint of the `kubernetes` Service.
    pub advertise_address: IpAddr,
    pub port: u16,
    /// IPv4 network that cluster IPs come from, such as `10.96.0.0/16`.
    pub service_cidr: Cidr,
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// `iss` of service-account tokens, and by default their audience.
    pub issuer: String,
    pub allow_privileged: bool,
    pub anonymous: Anonymous,
    pub authentication: AuthenticationConfig,
    /// Who is asked whether a request is allowed, in this order.
    pub authorization: Vec<AuthorizerConfig>,
    /// How Secrets, or what else is named, are kept on disk.
    pub encryption: EncryptionConfig,
    /// Further names and addresses of the serving certificate.
    pub extra_names: Vec<String>,
    pub extra_addresses: Vec<IpAddr>,
    /// Names of admission plugins beside those on by default, and of those not to run.
    pub enable_admission_plugins: Vec<String>,
    pub disable_admission_plugins: Vec<String>,
    pub token_file: Option<PathBuf>,
    /// Requests that change something, and requests that read, in flight at once (watches apart).
    pub max_mutating_in_flight: usize,
    pub max_in_flight: usize,
    /// Serve versions that manifests from before v1.25 may speak, converted on the way.
    pub legacy_apis: bool,
    /// What is recorded of requests; nothing without.
    pub audit: Option<AuditConfig>,
}

/// What a request without credentials may reach, before RBAC is even asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Refused,
    /// Health, version, and whatever RBAC grants `system:anonymous`.
    Allowed,
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub base: std::net::Ipv4Addr,
    pub prefix: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no IPv4 network such as 10.96.0.0/16")]
pub struct CidrError(String);

// === impl ApiServerConfig ===

impl ApiServerConfig {
    pub fn new(data_dir: impl Into<PathBuf>) -> ApiServerConfig {
        ApiServerConfig {
            data_dir: data_dir.into(),
            advertise_address: [127, 0, 0, 1].into(),
            port: 6443,
            service_cidr: Cidr { base: [10, 96, 0, 0].into(), prefix: 16 },
            node_ports: 30000..=32767,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            allow_privileged: true,
            anonymous: Anonymous::Allowed,
            authentication: AuthenticationConfig::default(),
            authorization: AuthorizerConfig::defaults(),
            encryption: EncryptionConfig::default(),
            extra_names: Vec::new(),
            extra_addresses: Vec::new(),
            enable_admission_plugins: Vec::new(),
            disable_admission_plugins: Vec::new(),
            token_file: None,
            max_mutating_in_flight: 200,
            max_in_flight: 400,
            legacy_apis: false,
            audit: None,
        }
    }
}

// === impl Cidr ===

impl Cidr {
    /// The nth address, counted from the network's own.
    pub fn nth(self, at: u32) -> std::net::Ipv4Addr {
        (u32::from(self.base) + at).into()
    }

    /// How many addresses there are, the network's own and the last included.
    pub fn size(self) -> u32 {
        1_u32.checked_shl(32 - u32::from(self.prefix)).unwrap_or(u32::MAX)
    }

    /// The position of an address inside.
    pub fn position(self, address: std::net::Ipv4Addr) -> Option<u32> {
        let at = u32::from(address).checked_sub(u32::from(self.base))?;
        (at < self.size()).then_some(at)
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let bad = || CidrError(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(bad)?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let base: std::net::Ipv4Addr = base.parse().map_err(|_| bad())?;
        if !(8..=30).contains(&prefix) {
            return Err(bad());
        }
        let mask = u32::MAX << (32 - u32::from(prefix));
        Ok(Cidr { base: (u32::from(base) & mask).into(), prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}
