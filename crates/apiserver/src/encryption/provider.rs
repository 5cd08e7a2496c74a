//! The ways a value may be sealed, and the names they go by in front of it.
//!
//! Bytes + the key they are stored under -> sealed bytes, and back. The form is upstream's: `k8s:enc:<provider>:v1:<key>:`, then
//! nonce and ciphertext. Counterparts: `storage/value/encrypt/{aes,secretbox,identity}`. Invariant: what was sealed
//! for one key of the store opens under no other (AES-GCM).

use aws_lc_rs::aead::{
    self, AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};

/// What begins so is sealed; everything else is as it was written.
pub const SEALED: &[u8] = b"k8s:enc:";
const NONCE: usize = 12;
const BLOCK: usize = 16;
const BOX_NONCE: usize = 24;

/// One provider of a list; the first seals, any may have sealed.
pub enum Provider {
    /// Nothing is sealed.
    Identity,
    AesGcm(Vec<GcmKey>),
    AesCbc(Vec<CbcKey>),
    SecretBox(Vec<BoxKey>),
}

pub struct GcmKey {
    pub name: String,
    key: LessSafeKey,
}

pub struct CbcKey {
    pub name: String,
    bytes: Vec<u8>,
}

/// XSalsa20 and Poly1305, as NaCl puts them together.
pub struct BoxKey {
    pub name: String,
    cipher: XSalsa20Poly1305,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SealError {
    #[error("a key must have 16, 24 or 32 bytes, not {0}")]
    KeyLength(usize),
    #[error("a key of secretbox must have 32 bytes, not {0}")]
    BoxKeyLength(usize),
    #[error("no provider has the key that this was sealed with")]
    NoKey,
    #[error("what was sealed has been changed, or the key is another one")]
    Broken,
}

// === impl Provider ===

impl Provider {
    /// What values begin with that are sealed now; empty for values as they are.
    pub fn prefix(&self) -> String {
        match self {
            Provider::Identity => String::new(),
            Provider::AesGcm(keys) => prefix("aesgcm", &keys[0].name),
            Provider::AesCbc(keys) => prefix("aescbc", &keys[0].name),
            Provider::SecretBox(keys) => prefix("secretbox", &keys[0].name),
        }
    }

    pub fn seal(&self, plain: &[u8], stored_under: &str) -> Result<Vec<u8>, SealError> {
        let mut out = self.prefix().into_bytes();
        match self {
            Provider::Identity => out.extend_from_slice(plain),
            Provider::AesGcm(keys) => keys[0].seal(&mut out, plain, stored_under)?,
            Provider::AesCbc(keys) => keys[0].seal(&mut out, plain)?,
            Provider::SecretBox(keys) => keys[0].seal(&mut out, plain)?,
        }
        Ok(out)
    }

    /// `None` if another provider sealed it.
    fn open(&self, sealed: &[u8], stored_under: &str) -> Option<Result<Vec<u8>, SealError>> {
        match self {
            Provider::Identity => (!sealed.starts_with(SEALED)).then(|| Ok(sealed.to_vec())),
            Provider::AesGcm(keys) => keys.iter().find_map(|key| {
                let body = sealed.strip_prefix(prefix("aesgcm", &key.name).as_bytes())?;
                Some(key.open(body, stored_under))
            }),
            Provider::AesCbc(keys) => keys.iter().find_map(|key| {
                let body = sealed.strip_prefix(prefix("aescbc", &key.name).as_bytes())?;
                Some(key.open(body))
            }),
            Provider::SecretBox(keys) => keys.iter().find_map(|key| {
                let body = sealed.strip_prefix(prefix("secretbox", &key.name).as_bytes())?;
                Some(key.open(body))
            }),
        }
    }
}

/// Opens with whichever provider sealed it.
pub fn open(
    providers: &[Provider],
    sealed: &[u8],
    stored_under: &str,
) -> Result<Vec<u8>, SealError> {
    let opened = providers.iter().find_map(|provider| provider.open(sealed, stored_under));
    opened.unwrap_or(Err(SealError::NoKey))
}

fn prefix(provider: &str, key: &str) -> String {
    format!("k8s:enc:{provider}:v1:{key}:")
}

// === impl GcmKey ===

impl GcmKey {
    pub fn new(name: &str, bytes: &[u8]) -> Result<GcmKey, SealError> {
        let algorithm: &'static aead::Algorithm = match bytes.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            other => return Err(SealError::KeyLength(other)),
        };
        let key = UnboundKey::new(algorithm, bytes).map_err(|_| SealError::Broken)?;
        Ok(GcmKey { name: name.to_owned(), key: LessSafeKey::new(key) })
    }

    /// Appends nonce, ciphertext and tag. A random nonce is good for four billion values under one key.
    pub fn seal(&self, out: &mut Vec<u8>, plain: &[u8], bound: &str) -> Result<(), SealError> {
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SealError::Broken)?;
        out.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound.as_bytes()),
                &mut body,
            )
            .map_err(|_| SealError::Broken)?;
        out.extend_from_slice(&body);
        Ok(())
    }

    pub fn open(&self, body: &[u8], bound: &str) -> Result<Vec<u8>, SealError> {
        let (nonce, sealed) = body.split_at_checked(NONCE).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(bound.as_bytes()), &mut sealed)
            .map_err(|_| SealError::Broken)?
            .len();
        sealed.truncate(plain);
        Ok(sealed)
    }
}

// === impl CbcKey ===

impl CbcKey {
    pub fn new(name: &str, bytes: &[u8]) -> Result<CbcKey, SealError> {
        let key = CbcKey { name: name.to_owned(), bytes: bytes.to_vec() };
        key.cipher()?;
        Ok(key)
    }

    fn cipher(&self) -> Result<UnboundCipherKey, SealError> {
        let algorithm = match self.bytes.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            other => return Err(SealError::KeyLength(other)),
        };
        UnboundCipherKey::new(algorithm, &self.bytes).map_err(|_| SealError::Broken)
    }

    fn seal(&self, out: &mut Vec<u8>, plain: &[u8]) -> Result<(), SealError> {
        let broken = |_| SealError::Broken;
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(self.cipher()?).map_err(broken)?;
        let mut body = plain.to_vec();
        let DecryptionContext::Iv128(iv) = key.encrypt(&mut body).map_err(broken)? else {
            return Err(SealError::Broken);
        };
        out.extend_from_slice(iv.as_ref());
        out.extend_from_slice(&body);
        Ok(())
    }

    fn open(&self, body: &[u8]) -> Result<Vec<u8>, SealError> {
        let broken = |_| SealError::Broken;
        let (iv, sealed) = body.split_at_checked(BLOCK).ok_or(SealError::Broken)?;
        let iv: [u8; BLOCK] = iv.try_into().map_err(|_| SealError::Broken)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(self.cipher()?).map_err(broken)?;
        let mut sealed = sealed.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let plain = key.decrypt(&mut sealed, context).map_err(broken)?.len();
        sealed.truncate(plain);
        Ok(sealed)
    }
}

// === impl BoxKey ===

impl BoxKey {
    pub fn new(name: &str, bytes: &[u8]) -> Result<BoxKey, SealError> {
        let cipher = XSalsa20Poly1305::new_from_slice(bytes)
            .map_err(|_| SealError::BoxKeyLength(bytes.len()))?;
        Ok(BoxKey { name: name.to_owned(), cipher })
    }

    fn seal(&self, out: &mut Vec<u8>, plain: &[u8]) -> Result<(), SealError> {
        let mut nonce = [0; BOX_NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SealError::Broken)?;
        let sealed = self.cipher.encrypt(&nonce.into(), plain).map_err(|_| SealError::Broken)?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(())
    }

    fn open(&self, body: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, sealed) = body.split_first_chunk::<BOX_NONCE>().ok_or(SealError::Broken)?;
        self.cipher.decrypt(nonce.into(), sealed).map_err(|_| SealError::Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gcm(name: &str, length: usize) -> Provider {
        Provider::AesGcm(vec![GcmKey::new(name, &vec![7; length]).expect("a key")])
    }

    fn cbc(name: &str, length: usize) -> Provider {
        Provider::AesCbc(vec![CbcKey::new(name, &vec![7; length]).expect("a key")])
    }

    fn secret_box(name: &str, length: usize) -> Provider {
        Provider::SecretBox(vec![BoxKey::new(name, &vec![7; length]).expect("a key")])
    }

    type Make = fn(&str, usize) -> Provider;

    #[test]
    fn whatever_sealed_a_value_opens_it() {
        let any = &[16, 24, 32][..];
        let all: [(Make, &[usize]); 3] = [(gcm, any), (cbc, any), (secret_box, &[32])];
        for (make, lengths) in all {
            for &length in lengths {
                let providers = [Provider::Identity, make("k", length)];
                let sealed = providers[1].seal(b"hushed", "/a").expect("sealed");
                assert!(sealed.starts_with(SEALED));
                assert!(!sealed.windows(6).any(|window| window == b"hushed"));
                assert_eq!(open(&providers, &sealed, "/a").expect("opened"), b"hushed");
                assert_eq!(open(&providers, b"{plain}", "/a").expect("as it is"), b"{plain}");
                let other = [Provider::Identity, make("other", length)];
                assert_eq!(open(&other, &sealed, "/a"), Err(SealError::NoKey));
            }
        }
    }

    #[test]
    fn a_value_moved_to_another_key_or_changed_does_not_open() {
        let provider = [gcm("k", 32)];
        let mut sealed = provider[0].seal(b"secret", "/a").expect("sealed");
        assert_eq!(open(&provider, &sealed, "/b"), Err(SealError::Broken));
        *sealed.last_mut().expect("not empty") ^= 1;
        assert_eq!(open(&provider, &sealed, "/a"), Err(SealError::Broken));
        assert_eq!(open(&provider, b"k8s:enc:aesgcm:v1:k:short", "/a"), Err(SealError::Broken));
    }

    /// The vector of NaCl's own tests: what Go sealed is read here, and the other way round.
    #[test]
    fn boxes_are_those_of_nacl() {
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37";
        let sealed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let plain = "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705";
        let key = BoxKey::new("k", &key).expect("a key");
        assert_eq!(key.open(&bytes(&format!("{nonce}{sealed}"))), Ok(bytes(plain)));
    }

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let pairs = (0..hexadecimal.len()).step_by(2).map(|at| &hexadecimal[at..at + 2]);
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
    }

    #[test]
    fn a_key_has_one_of_three_lengths() {
        assert!(matches!(GcmKey::new("k", &[0; 5]), Err(SealError::KeyLength(5))));
        assert!(matches!(CbcKey::new("k", &[0; 5]), Err(SealError::KeyLength(5))));
        assert!(matches!(BoxKey::new("k", &[0; 16]), Err(SealError::BoxKeyLength(16))));
    }
}
