//! A verified client certificate -> user: common name is the name, organisations are the groups.
//!
//! TLS has checked the chain and the validity by now. Counterpart: `request/x509`.

use sha2::{Digest, Sha256};
use x509_parser::prelude::parse_x509_certificate;

use crate::user::UserInfo;

/// `None` for a certificate without a common name: it identifies nobody.
pub fn user(der: &[u8]) -> Option<UserInfo> {
    let (_, cert) = parse_x509_certificate(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect();
    let credential = format!("X509SHA256={}", hex(&Sha256::digest(der)));
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])];
    (!name.is_empty()).then(|| UserInfo {
        name,
        groups,
        extra: extra.into(),
        ..UserInfo::default()
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
