//! Keys and certificates of a cluster: made once, kept in `<data-dir>/pki`, renewed in time.
//!
//! A directory -> CA, front-proxy CA, service-account key, and a leaf per purpose. Counterpart: `kubeadm
//! init phase certs`. Differs from upstream: leaves are issued on demand and renewed while the
//! server runs; a leaf that is missing, expired, near its end, or that lacks a name is simply issued anew, so
//! a cluster that was off for a year starts.
//! Invariant: CA and service-account keys are never replaced once written.

mod signing;

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("certificate {name}: {source}")]
    Issue { name: String, source: rcgen::Error },
    #[error("certificate {name} cannot be read: {reason}")]
    Read { name: String, reason: String },
}

/// The authorities of one cluster and the directory they live in.
pub struct Pki {
    dir: PathBuf,
    ca: Authority,
    front_proxy: Authority,
    service_account: KeyPair,
    clock: Clock,
    /// Held while a leaf is looked at and perhaps replaced: several listeners ask for the same one.
    issuing: Mutex<()>,
}

/// What time it is, so that a year can pass in a test.
type Clock = fn() -> OffsetDateTime;

struct Authority {
    cert_pem: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM encoded; the certificate is followed by nothing (the CA is known).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

/// What a leaf certificate is for.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// File name without extension.
    pub file: String,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub server: bool,
    pub client: bool,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Signed by the front-proxy CA instead of the cluster's.
    pub front_proxy: bool,
}

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// A leaf with less than this left is issued anew.
const RENEW_DAYS: i64 = 90;
/// How far NotBefore is set back, for clients whose clocks run behind.
const BACKDATED: Duration = Duration::days(1);

// === impl Pki ===

impl Pki {
    /// Reads the authorities from `dir`, or makes them.
    pub fn open(dir: &Path) -> Result<Pki, PkiError> {
        Pki::open_at(dir, OffsetDateTime::now_utc)
    }

    fn open_at(dir: &Path, clock: Clock) -> Result<Pki, PkiError> {
        fs::create_dir_all(dir).map_err(|source| file_error(dir, source))?;
        Ok(Pki {
            ca: Authority::open(dir, "ca", "kubernetes", clock())?,
            front_proxy: Authority::open(dir, "front-proxy-ca", "front-proxy-ca", clock())?,
            clock,
            service_account: open_key(dir, "sa")?,
            issuing: Mutex::default(),
            dir: dir.to_owned(),
        })
    }

    fn now(&self) -> OffsetDateTime {
        (self.clock)()
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca.cert_pem
    }

    pub fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy.cert_pem
    }

    pub fn service_account_key(&self) -> &KeyPair {
        &self.service_account
    }

    /// The identity on disk if it is good for a while yet and covers what is asked, else a new one.
    pub fn identity(&self, leaf: &Leaf) -> Result<Identity, PkiError> {
        let _alone = self.issuing.lock().expect("nothing panics while issuing");
        let (cert_path, key_path) = self.paths(&leaf.file);
        if let (Ok(cert_pem), Ok(key_pem)) =
            (fs::read_to_string(&cert_path), fs::read_to_string(&key_path))
            && self.still_serves(&cert_pem, &key_pem, leaf)
        {
            return Ok(Identity { cert_pem, key_pem });
        }
        let identity = self.issue(leaf)?;
        write_file(&key_path, &identity.key_pem, 0o600)?;
        write_file(&cert_path, &identity.cert_pem, 0o644)?;
        Ok(identity)
    }

    /// A new certificate that is kept nowhere.
    pub fn issue(&self, leaf: &Leaf) -> Result<Identity, PkiError> {
        let failed = |source| PkiError::Issue { name: leaf.file.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let cert = leaf
            .params(self.now())
            .signed_by(&key, &self.authority(leaf).issuer)
            .map_err(failed)?;
        Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// The administrator's way in.
    pub fn admin_kubeconfig(&self, server: &str, context: &str) -> Result<String, PkiError> {
        Ok(self.kubeconfig(
            server,
            context,
            &self.identity(&Leaf::client("admin", "admin", &["system:masters"]))?,
        ))
    }

    /// A kubeconfig file holding one cluster, one user, one context.
    pub fn kubeconfig(&self, server: &str, context: &str, identity: &Identity) -> String {
        let [ca, cert, key] = [self.ca_pem(), &identity.cert_pem, &identity.key_pem]
            .map(|pem| BASE64_STANDARD.encode(pem));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {context}\n\
             clusters:\n- name: {context}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
             users:\n- name: {context}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n\
             contexts:\n- name: {context}\n  context:\n    cluster: {context}\n    user: {context}\n"
        )
    }

    fn authority(&self, leaf: &Leaf) -> &Authority {
        if leaf.front_proxy { &self.front_proxy } else { &self.ca }
    }

    fn paths(&self, file: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")))
    }

    /// A pair that a crash left half replaced does not.
    fn still_serves(&self, cert_pem: &str, key_pem: &str, leaf: &Leaf) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(cert_pem.as_bytes()) else { return false };
        let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else { return false };
        cert.validity().not_after.to_datetime() > self.now() + Duration::days(RENEW_DAYS)
            && covers(&cert, leaf)
            && KeyPair::from_pem(key_pem)
                .is_ok_and(|key| key.subject_public_key_info() == cert.public_key().raw)
    }
}

// === impl Authority ===

impl Authority {
    fn open(
        dir: &Path,
        file: &str,
        common_name: &str,
        now: OffsetDateTime,
    ) -> Result<Authority, PkiError> {
        let path = dir.join(format!("{file}.crt"));
        let key = open_key(dir, file)?;
        let failed = |source| PkiError::Issue { name: file.to_owned(), source };
        let params = authority_params(common_name, now);
        let cert_pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let pem = params.self_signed(&key).map_err(failed)?.pem();
                write_file(&path, &pem, 0o644)?;
                pem
            }
            Err(source) => return Err(file_error(&path, source)),
        };
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(failed)?;
        let not_after = not_after(&cert_pem).ok_or_else(|| PkiError::Read {
            name: file.to_owned(),
            reason: "no certificate".to_owned(),
        })?;
        Ok(Authority { cert_pem, not_after, issuer })
    }
}

fn authority_params(common_name: &str, now: OffsetDateTime) -> CertificateParams {
    let mut params = lifetime(CA_DAYS, now);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

// === impl Identity ===

impl Identity {
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))
    }

    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| unreadable(&error))
    }
}

// === impl Leaf ===

impl Leaf {
    pub fn client(file: &str, common_name: &str, organizations: &[&str]) -> Leaf {
        Leaf {
            file: file.to_owned(),
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(|name| (*name).to_owned()).collect(),
            server: false,
            client: true,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            front_proxy: false,
        }
    }

    pub fn server(
        file: &str,
        common_name: &str,
        dns_names: Vec<String>,
        addresses: Vec<IpAddr>,
    ) -> Leaf {
        Leaf {
            server: true,
            client: false,
            dns_names,
            addresses,
            ..Leaf::client(file, common_name, &[])
        }
    }

    /// What a kubelet shows to those who ask it for logs.
    pub fn kubelet_serving(node: &str, addresses: Vec<IpAddr>) -> Leaf {
        let name = format!("system:node:{node}");
        let leaf = Leaf::server(
            &format!("kubelet-{node}-serving"),
            &name,
            vec![node.to_owned()],
            addresses,
        );
        Leaf { organizations: vec!["system:nodes".to_owned()], ..leaf }
    }

    /// What a kubelet shows to the API server.
    pub fn kubelet_client(node: &str) -> Leaf {
        Leaf::client(
            &format!("kubelet-{node}-client"),
            &format!("system:node:{node}"),
            &["system:nodes"],
        )
    }

    /// What the API server shows to kubelets.
    pub fn apiserver_kubelet_client() -> Leaf {
        Leaf::client(
            "apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            &["kubeadm:cluster-admins", "system:masters"],
        )
    }

    /// What the API server shows to aggregated API servers.
    pub fn front_proxy_client() -> Leaf {
        Leaf { front_proxy: true, ..Leaf::client("front-proxy-client", "front-proxy-client", &[]) }
    }

    fn params(&self, now: OffsetDateTime) -> CertificateParams {
        let mut params = lifetime(LEAF_DAYS, now);
        for organization in &self.organizations {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let usages = [
            (self.server, ExtendedKeyUsagePurpose::ServerAuth),
            (self.client, ExtendedKeyUsagePurpose::ClientAuth),
        ];
        params.extended_key_usages =
            usages.into_iter().filter(|(wanted, _)| *wanted).map(|(_, usage)| usage).collect();
        let dns = self
            .dns_names
            .iter()
            .filter_map(|name| name.as_str().try_into().ok())
            .map(SanType::DnsName);
        params.subject_alt_names =
            dns.chain(self.addresses.iter().copied().map(SanType::IpAddress)).collect();
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// Every name that is asked for stands in the certificate.
fn covers(cert: &x509_parser::certificate::X509Certificate<'_>, leaf: &Leaf) -> bool {
    use x509_parser::extensions::GeneralName;
    let names =
        cert.subject_alternative_name().ok().flatten().map(|found| &found.value.general_names);
    let has = |wanted: &dyn Fn(&GeneralName<'_>) -> bool| {
        names.is_some_and(|names| names.iter().any(wanted))
    };
    let subject = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    subject == Some(leaf.common_name.as_str())
        && leaf
            .dns_names
            .iter()
            .all(|dns| has(&|name| matches!(name, GeneralName::DNSName(have) if have == dns)))
        && leaf.addresses.iter().all(|ip| {
            has(&|name| matches!(name, GeneralName::IPAddress(have) if *have == octets(*ip)))
        })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn not_after(pem: &str) -> Option<OffsetDateTime> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(cert.validity().not_after.to_datetime())
}

fn lifetime(days: i64, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days);
    params.distinguished_name = DistinguishedName::new();
    params
}

fn open_key(dir: &Path, file: &str) -> Result<KeyPair, PkiError> {
    let path = dir.join(format!("{file}.key"));
    let failed = |source| PkiError::Issue { name: file.to_owned(), source };
    match fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(failed),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(failed)?;
            write_file(&path, &key.serialize_pem(), 0o600)?;
            Ok(key)
        }
        Err(source) => Err(file_error(&path, source)),
    }
}

/// Whole or not at all: a crash half way leaves the old file.
fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let fresh = path.with_extension("new");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), source }
}

fn unreadable(error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Read { name: "pem".to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_that_start_together_share_one_certificate() {
        let dir = std::env::temp_dir().join(format!("skiff-pki-race-{}", std::process::id()));
        let pki = Pki::open(&dir).expect("made");
        let leaf = Leaf::kubelet_serving("node", vec![[127, 0, 0, 1].into()]);
        let issued: Vec<String> = std::thread::scope(|scope| {
            let ask = || pki.identity(&leaf).expect("issued once").cert_pem;
            let askers: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            askers.into_iter().map(|asker| asker.join().expect("no panic")).collect()
        });
        assert!(issued.iter().all(|cert| *cert == issued[0]));
        fs::remove_dir_all(&dir).expect("the directory is ours");
    }

    fn at_the_start() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::days(365 * 60)
    }

    fn a_year_later() -> OffsetDateTime {
        at_the_start() + Duration::days(400)
    }

    #[test]
    fn a_directory_that_was_off_for_a_year_is_given_new_leaves_and_keeps_its_authorities() {
        let dir = std::env::temp_dir().join(format!("skiff-pki-year-{}", uuid::Uuid::new_v4()));
        let pki = Pki::open_at(&dir, at_the_start).expect("made");
        let leaves = [
            Leaf::server("apiserver", "kube-apiserver", vec!["localhost".to_owned()], Vec::new()),
            Leaf::kubelet_client("node"),
            Leaf::front_proxy_client(),
        ];
        for leaf in &leaves {
            let before = pki.identity(leaf).expect("issued");
            assert!(not_after(&before.cert_pem).expect("readable") < a_year_later());
        }
        let later = Pki::open_at(&dir, a_year_later).expect("opened");
        assert_eq!(later.ca_pem(), pki.ca_pem());
        assert_eq!(later.front_proxy_ca_pem(), pki.front_proxy_ca_pem());
        for leaf in &leaves {
            let after = later.identity(leaf).expect("issued anew");
            let end = not_after(&after.cert_pem).expect("readable");
            assert_eq!(end, a_year_later() + Duration::days(LEAF_DAYS), "{}", leaf.file);
            assert!(end < later.ca.not_after);
        }
        fs::remove_dir_all(&dir).expect("ours to remove");
    }

    /// A clock that a test can move while the authorities are in use.
    static PASSED: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

    #[test]
    fn a_leaf_is_renewed_in_use_before_it_ends() {
        let clock: Clock =
            || at_the_start() + Duration::days(PASSED.load(std::sync::atomic::Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("skiff-pki-renew-{}", uuid::Uuid::new_v4()));
        let pki = Pki::open_at(&dir, clock).expect("made");
        let leaf = Leaf::kubelet_serving("node", Vec::new());
        let after = |days: i64| {
            PASSED.store(days, std::sync::atomic::Ordering::Relaxed);
            pki.identity(&leaf).expect("an identity").cert_pem
        };
        let first = after(0);
        assert_eq!(after(LEAF_DAYS - RENEW_DAYS - 1), first);
        let second = after(LEAF_DAYS - RENEW_DAYS);
        assert_ne!(second, first);
        assert_eq!(after(LEAF_DAYS), second);
        fs::remove_dir_all(&dir).expect("ours to remove");
    }

    #[test]
    fn a_key_without_its_certificate_is_replaced_together_with_it() {
        let dir = std::env::temp_dir().join(format!("skiff-pki-half-{}", std::process::id()));
        let pki = Pki::open(&dir).expect("made");
        let leaf = Leaf::kubelet_client("node");
        let first = pki.identity(&leaf).expect("issued");
        let other = pki.issue(&leaf).expect("issued");
        fs::write(pki.paths(&leaf.file).1, &other.key_pem).expect("writable");
        let healed = pki.identity(&leaf).expect("issued anew");
        assert_ne!(healed.cert_pem, first.cert_pem);
        assert_eq!(pki.identity(&leaf).expect("read").cert_pem, healed.cert_pem);
        fs::remove_dir_all(&dir).expect("the directory is ours");
    }

    #[test]
    fn authorities_stay_and_leaves_follow_what_is_asked() {
        let dir = std::env::temp_dir().join(format!("skiff-pki-{}", uuid::Uuid::new_v4()));
        let pki = Pki::open(&dir).expect("a new directory");
        let local: IpAddr = [127, 0, 0, 1].into();
        let leaf =
            Leaf::server("apiserver", "kube-apiserver", vec!["localhost".to_owned()], vec![local]);
        let first = pki.identity(&leaf).expect("issued");
        let again = Pki::open(&dir).expect("reopened");
        assert_eq!(again.ca_pem(), pki.ca_pem());
        assert_eq!(again.identity(&leaf).expect("read").cert_pem, first.cert_pem);
        let wider = Leaf { dns_names: vec!["localhost".to_owned(), "x.test".to_owned()], ..leaf };
        assert_ne!(again.identity(&wider).expect("issued anew").cert_pem, first.cert_pem);
        fs::remove_dir_all(&dir).expect("ours to remove");
    }
}
