//! Plugins that objects configure: webhooks and policies, each with a mutating and a validating sort.
//!
//! The objects of a plugin, decoded when first asked for after a change -> what a request has to do with them. Counterpart: the
//! informer-fed sources of `plugin/webhook/configuration` and `plugin/policy/generic`.
//! Invariant: a request that no rule names costs a look at the [`Interest`], and nothing that configures admission is subject to it.

use std::sync::Arc;

use skiff_api::Status;

use super::live::Live;
use super::matching::Interest;
use super::{Request, is_admission_configuration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Mutating,
    Validating,
}

/// What all objects say that configure one plugin.
pub trait Configuration: Sized + Send + Sync {
    fn interest(&self) -> &Interest;

    fn load(
        request: &Request<'_>,
        phase: Phase,
    ) -> impl Future<Output = Result<Self, Status>> + Send;
}

pub struct Configured<T> {
    mutating: Live<T>,
    validating: Live<T>,
}

// === impl Phase ===

impl Phase {
    /// How the resources begin that configure it.
    pub fn prefix(self) -> &'static str {
        match self {
            Phase::Mutating => "mutating",
            Phase::Validating => "validating",
        }
    }
}

// === impl Configured ===

impl<T> Default for Configured<T> {
    fn default() -> Configured<T> {
        Configured { mutating: Live::default(), validating: Live::default() }
    }
}

impl<T: Configuration> Configured<T> {
    pub fn changed(&self) {
        self.mutating.changed();
        self.validating.changed();
    }

    /// Whether any of it could be about this. Unknown, so yes, until the objects are read once.
    pub fn may_concern(&self, request: &Request<'_>, phase: Phase) -> bool {
        !is_admission_configuration(request.kind)
            && self.live(phase).current().is_none_or(|of| of.interest().covers(request))
    }

    /// The configuration, if any of it could be about this.
    pub async fn concerning(
        &self,
        request: &Request<'_>,
        phase: Phase,
    ) -> Result<Option<Arc<T>>, Status> {
        let current = self.live(phase).get(|| T::load(request, phase)).await?;
        Ok(current.interest().covers(request).then_some(current))
    }

    fn live(&self, phase: Phase) -> &Live<T> {
        match phase {
            Phase::Mutating => &self.mutating,
            Phase::Validating => &self.validating,
        }
    }
}
