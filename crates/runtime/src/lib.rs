//! Containers: images, layers, snapshots, sandboxes, and a shim per pod.
