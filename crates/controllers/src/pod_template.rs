//! The hash by which the objects of one pod template are told from those of another.
//!
//! Counterpart: `ComputeHash` and `SafeEncodeString`. Differs from upstream: hashes the template's JSON, so equal
//! templates hash alike here but not across products. Invariant: stable over restarts.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// Without vowels and look-alikes: no hash spells a word.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `collisions` moves on to another hash where this one is taken by another template.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(template).expect("a pod template always encodes");
    bytes.extend(collisions.into_iter().flat_map(i32::to_le_bytes));
    let decimal = fnv1a(&bytes).to_string();
    decimal.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn hash_is_stable_and_safe() {
        let template: PodTemplateSpec =
            yaml("{metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}");
        let first = hash(&template, None);
        assert_eq!(first, hash(&template.clone(), None));
        assert_ne!(first, hash(&template, Some(1)));
        assert!(first.bytes().all(|letter| ALPHABET.contains(&letter)));
    }
}
