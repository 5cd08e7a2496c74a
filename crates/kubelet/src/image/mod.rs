//! Images of containers: when to fetch, with whose credentials, how many at once, and when to let
//! go.
//!
//! [`pull`] decides by the pull policy and talks to the runtime, [`keyring`] and
//! [`credential_provider`] find credentials, [`garbage`] frees the disk. Counterpart: `pkg/kubelet/images` and `pkg/credentialprovider`.

pub mod credential_provider;
pub mod garbage;
pub mod keyring;
pub mod pull;
