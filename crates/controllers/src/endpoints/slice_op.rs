//! What is to be done to an EndpointSlice: decided by a controller's `plan`, carried out here.
//!
//! Counterpart: `slicesByAction` and `finalize` of upstream's reconcilers.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::runtime::{Ctx, Result};

#[derive(Clone, Debug, PartialEq)]
pub enum SliceOp {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

// === impl SliceOp ===

impl SliceOp {
    /// What will be there, if anything.
    pub fn slice_mut(&mut self) -> Option<&mut EndpointSlice> {
        match self {
            SliceOp::Create(slice) | SliceOp::Update(slice) => Some(slice),
            SliceOp::Delete(_) => None,
        }
    }

    pub async fn carry_out(self, ctx: &Ctx) -> Result<()> {
        match self {
            SliceOp::Create(slice) => ctx.create(slice.as_ref()).await.map(drop),
            SliceOp::Update(slice) => ctx.update(slice.as_ref()).await.map(drop),
            SliceOp::Delete(slice) => match ctx.delete(slice.as_ref()).await {
                Err(error) if error.is_not_found() => Ok(()),
                outcome => outcome,
            },
        }
    }

    /// What the API server would keep.
    #[cfg(test)]
    pub fn apply_to(self, state: &mut Vec<Arc<EndpointSlice>>, drawn: usize) {
        let at = |state: &[Arc<EndpointSlice>], slice: &EndpointSlice| {
            let mut names = state.iter().map(|known| &known.metadata.name);
            names.position(|name| *name == slice.metadata.name).expect("it is there")
        };
        match self {
            SliceOp::Create(mut slice) => {
                slice.metadata.name =
                    slice.metadata.generate_name.as_ref().map(|base| format!("{base}{drawn}"));
                state.push(Arc::new(*slice));
            }
            SliceOp::Update(slice) => {
                let at = at(state, &slice);
                state[at] = Arc::new(*slice);
            }
            SliceOp::Delete(slice) => drop(state.remove(at(state, &slice))),
        }
    }
}
