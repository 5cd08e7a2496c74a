//! Names that the parties to a CSI volume must agree on without asking each other.
//!
//! Handle, driver and node -> the VolumeAttachment that stands for them, and the volume's name in node statuses. Counterpart:
//! `getAttachmentName` and `GetVolumeName` of `pkg/volume/csi`. Pure; a name follows from its arguments alone.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The VolumeAttachment by which the volume is attached to the node.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    format!("csi-{}", sha256_hex(&[handle, driver, node]))
}

/// What `volumesInUse` and `volumesAttached` of a node call the volume.
pub fn unique_volume_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The digest of the texts one after the other.
pub fn sha256_hex(texts: &[&str]) -> String {
    let mut digest = Sha256::new();
    texts.iter().for_each(|text| digest.update(text));
    let mut hex = String::with_capacity(64);
    for byte in digest.finalize() {
        write!(hex, "{byte:02x}").expect("a String takes all");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_named_by_the_digest_of_handle_driver_and_node() {
        // What `printf handledrivernode | sha256sum` says.
        let expected = "csi-fdef298eb16db6fa42906ef1ff09a93a7f3028f8290cc9d71628ff91c237bfa7";
        assert_eq!(attachment_name("driver", "handle", "node"), expected);
    }
}
