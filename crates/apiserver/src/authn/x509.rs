//! A verified client certificate -> who shows it.
//!
//! Common name is the user's name, organisations are the groups, one attribute of its own the uid. TLS has checked the chain and
//! the validity by now; which authority it leads to decides whether it is a user's, or that of a proxy which
//! speaks for users. Counterpart: `request/x509`. Invariant: a proxy's certificate alone makes nobody a user.

use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::parse_x509_certificate;

use crate::user::UserInfo;

/// The attribute of a subject that holds a uid.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// What a connection's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    User(UserInfo),
    /// A proxy, by its common name.
    FrontProxy(String),
    /// Good, but not of anybody.
    Nobody,
}

/// `front_proxy` are the authorities of proxies, in DER.
pub fn shown(der: &[u8], front_proxy: &[Vec<u8>]) -> Shown {
    let Ok((_, certificate)) = parse_x509_certificate(der) else { return Shown::Nobody };
    if front_proxy.iter().any(|authority| is_signed_by(&certificate, authority)) {
        return Shown::FrontProxy(common_name(&certificate).unwrap_or_default());
    }
    user(der, &certificate).map_or(Shown::Nobody, Shown::User)
}

fn is_signed_by(certificate: &X509Certificate<'_>, authority: &[u8]) -> bool {
    let Ok((_, authority)) = parse_x509_certificate(authority) else { return false };
    certificate.issuer() == authority.subject()
        && certificate.verify_signature(Some(authority.public_key())).is_ok()
}

/// `None` for a certificate without a common name, or with a uid that cannot be read.
fn user(der: &[u8], certificate: &X509Certificate<'_>) -> Option<UserInfo> {
    let name = common_name(certificate).filter(|name| !name.is_empty())?;
    let subject = certificate.subject();
    let groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
    let mut uids =
        subject.iter_attributes().filter(|attribute| attribute.attr_type().to_id_string() == UID);
    let uid = match (uids.next(), uids.next()) {
        (None, _) => String::new(),
        (Some(uid), None) => uid.as_str().ok().filter(|uid| !uid.is_empty())?.to_owned(),
        _ => return None,
    };
    let credential = format!("X509SHA256={}", hex(&Sha256::digest(der)));
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])];
    Some(UserInfo { name, uid, groups: groups.map(str::to_owned).collect(), extra: extra.into() })
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    Some(certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, Issuer, KeyPair};

    use super::*;

    fn authority() -> (Vec<u8>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("made");
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        (der, Issuer::new(params, key))
    }

    fn leaf(issuer: &Issuer<'_, KeyPair>, subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.custom_extensions = Vec::<CustomExtension>::new();
        params.distinguished_name = DistinguishedName::new();
        for (of, value) in subject {
            params.distinguished_name.push(of.clone(), *value);
        }
        let key = KeyPair::generate().expect("made");
        params.signed_by(&key, issuer).expect("signed").der().to_vec()
    }

    #[test]
    fn a_subject_is_a_user_with_groups_and_uid() {
        let (_, issuer) = authority();
        let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let subject = [
            (DnType::CommonName, "jane"),
            (DnType::OrganizationName, "devs"),
            (uid.clone(), "u-7"),
        ];
        let Shown::User(jane) = shown(&leaf(&issuer, &subject), &[]) else { panic!("a user") };
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "u-7"));
        assert_eq!(jane.groups, ["devs"]);
        let nameless = leaf(&issuer, &[(DnType::OrganizationName, "devs")]);
        assert_eq!(shown(&nameless, &[]), Shown::Nobody);
        let empty = leaf(&issuer, &[(DnType::CommonName, "jane"), (uid, "")]);
        assert_eq!(shown(&empty, &[]), Shown::Nobody);
    }

    #[test]
    fn a_certificate_of_the_proxies_authority_is_no_user() {
        let ((_, users), (proxies_der, proxies)) = (authority(), authority());
        let subject = [(DnType::CommonName, "front-proxy-client")];
        let proxy = Shown::FrontProxy("front-proxy-client".to_owned());
        assert_eq!(shown(&leaf(&proxies, &subject), std::slice::from_ref(&proxies_der)), proxy);
        // The authorities have one name: the signature tells them apart.
        assert!(matches!(shown(&leaf(&users, &subject), &[proxies_der]), Shown::User(_)));
    }
}
