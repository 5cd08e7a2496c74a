//! `size`.

use super::{Args, Row, no_overload, row};
use crate::value::{Evaluated, Value};

pub(super) const TABLE: &[Row] = &[
    row("size", "size_bytes", "(bytes) -> int", size),
    row("size", "bytes_size", "bytes.() -> int", size),
    row("size", "size_list", "(list(A)) -> int", size),
    row("size", "list_size", "list(A).() -> int", size),
    row("size", "size_map", "(map(A, B)) -> int", size),
    row("size", "map_size", "map(A, B).() -> int", size),
    row("size", "size_string", "(string) -> int", size),
    row("size", "string_size", "string.() -> int", size),
];

fn size<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [value] => value.size().map_or_else(no_overload, |size| Ok(Value::Int(size as i64))),
        _ => no_overload(),
    }
}
