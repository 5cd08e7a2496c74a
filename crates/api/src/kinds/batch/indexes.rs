//! The indexes of a Job as text: `0,3-5,7`.
//!
//! Text -> intervals, or what is wrong with the first bad one. Counterpart: `validateIndexesFormat`.

/// From the first to the last index, both in it.
type Interval = (i64, i64);

/// How many indexes a text names; each must be below `completions`.
pub fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last = None;
    for interval in parts(text) {
        let (from, to) = parse(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(out_of_order(last, from));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

/// The first index that both texts name. Parts that cannot be read name none.
pub fn first_common(one: &str, other: &str, completions: i64) -> Option<i64> {
    let readable = |text| parts(text).filter_map(|part| parse(part, completions).ok());
    let common = |(from, to): Interval| {
        let overlaps = move |(start, end): &Interval| from <= *end && *start <= to;
        readable(other).filter(overlaps).map(move |(start, _)| start.max(from))
    };
    readable(one).flat_map(common).min()
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').take(if text.is_empty() { 0 } else { usize::MAX })
}

fn parse(interval: &str, completions: i64) -> Result<Interval, String> {
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match interval.split('-').collect::<Vec<_>>()[..] {
        [only] => index(only).map(|only| (only, only)),
        [from, to] => match (index(from)?, index(to)?) {
            (from, to) if from >= to => Err(out_of_order(from, to)),
            interval => Ok(interval),
        },
        _ => Err(format!(
            "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

fn out_of_order(previous: i64, current: i64) -> String {
    format!("non-increasing order, previous: {previous}, current: {current}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_in_order() {
        for (text, result) in [
            ("", Ok(0)),
            ("0,3-5,7", Ok(5)),
            ("0-", Err("cannot convert string to integer for index: \"\"")),
            ("1,0", Err("non-increasing order, previous: 1, current: 0")),
            ("2-2", Err("non-increasing order, previous: 2, current: 2")),
            ("0-1,1-2", Err("non-increasing order, previous: 1, current: 1")),
            ("8", Err("too large index: \"8\"")),
        ] {
            assert_eq!(
                count_indexes(text, 8).as_ref().map_err(String::as_str),
                result.as_ref().map_err(|e| *e),
                "{text}"
            );
        }
        assert!(count_indexes("1-2-3", 8).unwrap_err().starts_with("the fragment \"1-2-3\""));
    }

    #[test]
    fn common_indexes_are_found() {
        assert_eq!(first_common("0-3,6", "2-4,6", 8), Some(2));
        assert_eq!(first_common("0,x,5", "1-4,5", 8), Some(5));
        assert_eq!(first_common("0-1", "2", 8), None);
        assert_eq!(first_common("", "2", 8), None);
    }
}
