//! Cluster DNS answered from Services and EndpointSlices.
