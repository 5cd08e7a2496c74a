//! Pod network and service dataplane over netlink.
