//! The storage.k8s.io group.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "CSIDriver" => Arc::new(csi_driver::CSIDriver),
        "CSINode" => Arc::new(csi_node::CSINode),
        "CSIStorageCapacity" => Arc::new(csi_storage_capacity::CSIStorageCapacity),
        "StorageClass" => Arc::new(storage_class::StorageClass),
        "VolumeAttachment" => Arc::new(volume_attachment::VolumeAttachment),
        "VolumeAttributesClass" => Arc::new(volume_attributes_class::VolumeAttributesClass),
        _ => return None,
    })
}
