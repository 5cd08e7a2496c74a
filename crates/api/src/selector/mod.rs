//! Which objects a list, watch or controller is about.
//!
//! Selector text or object -> [`Labels`] or [`Fields`] -> yes or no for an object, held as a tree or
//! as the JSON bytes it is stored in. Counterparts: `apimachinery/pkg/labels` and `pkg/fields`.

mod fields;
mod labels;
mod scan;

pub use fields::{FieldRequirement, Fields};
pub use labels::{Labels, Operator, Requirement};
pub use scan::{Scanner, value_at};
