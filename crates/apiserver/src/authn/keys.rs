//! The keys behind service-account tokens: one signs, any of several may have signed.
//!
//! PEM (private keys, public keys, certificates; RSA and elliptic curves) in, keys by their id out, and the JSON web key set
//! that others check tokens with. Counterparts: `client-go/util/keyutil`, `pkg/serviceaccount/jwt.go`,
//! `openidmetadata.go`. Invariant: a key's id is the hash of its public half, so it is the same wherever it is loaded.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no key in PEM form")]
    Empty,
    #[error("key: {0}")]
    Unreadable(String),
    #[error("keys of this type cannot sign tokens")]
    Unsupported,
}

/// What signs.
pub struct SigningKey {
    pub id: String,
    pub algorithm: Algorithm,
    pub key: EncodingKey,
}

/// What may have signed.
pub struct CheckingKey {
    pub id: String,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
    jwk: Value,
}

// === impl SigningKey ===

impl SigningKey {
    pub fn read(pem: &str) -> Result<SigningKey, KeyError> {
        SigningKey::of(&KeyPair::from_pem(pem).map_err(unreadable)?)
    }

    pub fn of(pair: &KeyPair) -> Result<SigningKey, KeyError> {
        let public = CheckingKey::of_public(&pair.subject_public_key_info())?;
        let key = match public.algorithm {
            Algorithm::RS256 => rsa_key(pair)?,
            _ => EncodingKey::from_ec_der(pair.serialized_der()),
        };
        Ok(SigningKey { id: public.id, algorithm: public.algorithm, key })
    }
}

/// An RSA key may come bare or wrapped with the name of its algorithm; signing wants it bare.
fn rsa_key(pair: &KeyPair) -> Result<EncodingKey, KeyError> {
    let der = pair.serialized_der();
    let bare = || {
        let (_, whole) = Any::from_der(der).ok()?;
        let (rest, _version) = Any::from_der(whole.data).ok()?;
        let (rest, second) = Any::from_der(rest).ok()?;
        match second.tag() {
            Tag::Integer => Some(der),
            _ => Some(Any::from_der(rest).ok()?.1.data),
        }
    };
    bare().map(EncodingKey::from_rsa_der).ok_or(KeyError::Unsupported)
}

// === impl CheckingKey ===

impl CheckingKey {
    /// Every key of a PEM file.
    pub fn read_all(pem: &str) -> Result<Vec<CheckingKey>, KeyError> {
        let sections: Vec<(SectionKind, Vec<u8>)> =
            <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|error| KeyError::Unreadable(error.to_string()))?;
        let keys =
            sections.into_iter().filter_map(|(kind, der)| CheckingKey::of_section(kind, der));
        let keys: Vec<CheckingKey> = keys.collect::<Result<_, _>>()?;
        match keys.is_empty() {
            true => Err(KeyError::Empty),
            false => Ok(keys),
        }
    }

    fn of_section(kind: SectionKind, der: Vec<u8>) -> Option<Result<CheckingKey, KeyError>> {
        Some(match kind {
            SectionKind::PublicKey => CheckingKey::of_public(&der),
            SectionKind::Certificate => of_certificate(&der),
            SectionKind::PrivateKey => CheckingKey::of_private(PrivateKeyDer::Pkcs8(der.into())),
            SectionKind::RsaPrivateKey => CheckingKey::of_private(PrivateKeyDer::Pkcs1(der.into())),
            SectionKind::EcPrivateKey => CheckingKey::of_private(PrivateKeyDer::Sec1(der.into())),
            _ => return None,
        })
    }

    fn of_private(der: PrivateKeyDer<'_>) -> Result<CheckingKey, KeyError> {
        let pair = KeyPair::try_from(&der).map_err(unreadable)?;
        CheckingKey::of_public(&pair.subject_public_key_info())
    }

    /// From a SubjectPublicKeyInfo.
    pub fn of_public(der: &[u8]) -> Result<CheckingKey, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(unreadable)?;
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(der));
        match info.parsed().map_err(unreadable)? {
            PublicKey::RSA(rsa) => {
                let modulus = strip_zero(rsa.modulus);
                let key = DecodingKey::from_rsa_raw_components(modulus, rsa.exponent);
                let parts = json!({ "kty": "RSA", "alg": "RS256",
                    "n": encode(modulus), "e": encode(strip_zero(rsa.exponent)) });
                Ok(CheckingKey { jwk: jwk(&id, parts), id, algorithm: Algorithm::RS256, key })
            }
            PublicKey::EC(point) => CheckingKey::of_point(id, point.data()),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// From an uncompressed point: 0x04, x, y.
    fn of_point(id: String, point: &[u8]) -> Result<CheckingKey, KeyError> {
        let (algorithm, name, curve) = match point.len() {
            65 => (Algorithm::ES256, "ES256", "P-256"),
            97 => (Algorithm::ES384, "ES384", "P-384"),
            _ => return Err(KeyError::Unsupported),
        };
        let (x, y) = point[1..].split_at(point.len() / 2);
        let parts =
            json!({ "kty": "EC", "alg": name, "crv": curve, "x": encode(x), "y": encode(y) });
        Ok(CheckingKey {
            jwk: jwk(&id, parts),
            id,
            algorithm,
            key: DecodingKey::from_ec_der(point),
        })
    }
}

fn of_certificate(der: &[u8]) -> Result<CheckingKey, KeyError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(unreadable)?;
    CheckingKey::of_public(certificate.public_key().raw)
}

fn jwk(id: &str, mut parts: Value) -> Value {
    parts["use"] = "sig".into();
    parts["kid"] = id.into();
    parts
}

/// The body of `/openid/v1/jwks`.
pub fn key_set(keys: &[CheckingKey]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>() })
}

/// The names of the algorithms in use, each once, in the order of their names.
pub fn algorithms(keys: &[CheckingKey]) -> Vec<String> {
    let mut names: Vec<String> =
        keys.iter().filter_map(|key| Some(key.jwk["alg"].as_str()?.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A positive ASN.1 integer may begin with a zero that is not part of the number.
fn strip_zero(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn unreadable(error: impl std::fmt::Display) -> KeyError {
    KeyError::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Header, Validation};

    use super::*;

    fn signs_for_itself(pem: &str, expected: Algorithm) {
        let signing = SigningKey::read(pem).expect("a key that signs");
        let checking = CheckingKey::read_all(pem).expect("a key that checks").remove(0);
        assert_eq!((signing.algorithm, &signing.id), (expected, &checking.id));
        let claims = json!({ "sub": "x" });
        let token = jsonwebtoken::encode(&Header::new(expected), &claims, &signing.key);
        let mut rules = Validation::new(expected);
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        let read = jsonwebtoken::decode::<Value>(&token.expect("signed"), &checking.key, &rules);
        assert_eq!(read.expect("checked").claims, claims);
    }

    #[test]
    fn keys_of_every_supported_type_sign_and_check() {
        for (kind, expected) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
            (&rcgen::PKCS_RSA_SHA256, Algorithm::RS256),
        ] {
            let pair = KeyPair::generate_for(kind).expect("made");
            signs_for_itself(&pair.serialize_pem(), expected);
            let public = CheckingKey::read_all(&pair.public_key_pem()).expect("a public key");
            assert_eq!(public[0].id, SigningKey::of(&pair).expect("the pair").id);
        }
    }

    #[test]
    fn a_file_may_hold_several_keys_but_not_none() {
        let pems: Vec<String> =
            (0..2).map(|_| KeyPair::generate().expect("made").public_key_pem()).collect();
        let keys = CheckingKey::read_all(&pems.concat()).expect("two keys");
        assert_eq!(keys.len(), 2);
        assert_eq!(key_set(&keys)["keys"].as_array().map(Vec::len), Some(2));
        assert_eq!(algorithms(&keys), ["ES256"]);
        assert!(matches!(CheckingKey::read_all("nothing"), Err(KeyError::Empty)));
    }
}
