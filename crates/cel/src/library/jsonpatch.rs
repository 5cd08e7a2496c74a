//! `jsonpatch.escapeKey`. Counterpart: `library/jsonpatch.go` of `k8s.io/apiserver`.

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::value::{Evaluated, Value};

pub(super) const TABLE: &[Row] = &[row(
    "jsonpatch.escapeKey",
    "string_jsonpatch_escapeKey_string",
    "(string) -> string",
    escape_key,
)
.costs(Cost::Scan)];

/// A key as one step of a JSON pointer.
fn escape_key<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(key)] => Ok(Value::string(key.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    }
}
