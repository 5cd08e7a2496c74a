//! Loops over lists and maps.
//!
//! Invariant: a turn leaves the stack of variables as it found it, the accumulator aside.

use std::sync::Arc;

use super::errors::not_iterable;
use super::{Evaluator, Local};
use crate::cost::LIST_COST;
use crate::error::EvalError;
use crate::library::insert_into;
use crate::program::node::{Fold, Growth, Node, Step};
use crate::value::{Evaluated, List, Map, Value};

impl<'v, 'a> Evaluator<'v, 'a> {
    pub(super) fn fold(&mut self, fold: &'v Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        let accu = self.locals.len();
        self.locals.push(Local::Ready(init));
        let result = match &range {
            Value::List(list) => self.fold_list(fold, list),
            Value::Map(map) => self.fold_map(fold, map),
            other => Err(not_iterable(other, fold.two)),
        };
        let result = result.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(accu);
        result
    }

    fn fold_list(&mut self, fold: &'v Fold, list: &List<'a>) -> Result<(), EvalError> {
        for (index, element) in list.iter().enumerate() {
            let go_on = match fold.two {
                true => self.turn(fold, [Ok(Value::Int(index as i64)), element])?,
                false => self.turn(fold, [element])?,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn fold_map(&mut self, fold: &'v Fold, map: &Map<'a>) -> Result<(), EvalError> {
        for (key, value) in map.iter() {
            let go_on = match fold.two {
                true => self.turn(fold, [Ok(key.into()), value])?,
                false => self.turn(fold, [Ok(key.into())])?,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// One turn of a loop; false when it was the last.
    fn turn<const N: usize>(
        &mut self,
        fold: &'v Fold,
        vars: [Evaluated<'a>; N],
    ) -> Result<bool, EvalError> {
        let accu = self.locals.len() - 1;
        self.locals.extend(vars.map(Local::Ready));
        let go_on = matches!(self.eval(&fold.condition)?, Value::Bool(true));
        if go_on {
            match &fold.step {
                Step::Become(step) => {
                    let value = self.eval(step);
                    if let Err(EvalError::CostLimitExceeded) = value {
                        return Err(EvalError::CostLimitExceeded);
                    }
                    self.locals[accu] = Local::Ready(value);
                }
                Step::Grow { filter, by } => self.grow(accu, filter.as_ref(), by)?,
            }
        }
        self.locals.truncate(accu + 1);
        Ok(go_on)
    }

    /// Adds to the accumulator in place. Costs what making a new one would.
    fn grow(
        &mut self,
        accu: usize,
        filter: Option<&'v Node>,
        by: &'v Growth,
    ) -> Result<(), EvalError> {
        if let Some(filter) = filter {
            match self.eval(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return self.meter.charge(0),
                _ => return Err(EvalError::NoSuchOverload),
            }
        }
        // The accumulator is read, and the sum or the insertion is a call.
        self.meter.charge(2)?;
        match by {
            Growth::Element(element) => {
                // A list of a constant is a constant.
                if !matches!(element, Node::Constant(_)) {
                    self.meter.charge(LIST_COST)?;
                }
                let element = self.eval(element)?;
                match &mut self.locals[accu] {
                    Local::Ready(Ok(Value::List(List::Made(made)))) => {
                        Arc::make_mut(made).push(element)
                    }
                    _ => return Err(EvalError::NoSuchOverload),
                }
            }
            Growth::Entry(parts) => {
                let parts: Vec<_> =
                    parts.iter().map(|part| self.eval(part)).collect::<Result<_, _>>()?;
                match &mut self.locals[accu] {
                    Local::Ready(Ok(Value::Map(Map::Made(made)))) => insert_into(made, &parts)?,
                    _ => return Err(EvalError::NoSuchOverload),
                }
            }
        }
        Ok(())
    }
}
