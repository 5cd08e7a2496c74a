//! Query strings. Counterpart: Go's `net/url`.

/// All values of a parameter, decoded.
pub fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

/// The first value, if it is there and not empty.
pub fn value(query: &str, name: &str) -> Option<String> {
    values(query, name).next().filter(|v| !v.is_empty())
}

pub fn flag(query: &str, name: &str) -> bool {
    value(query, name)
        .is_some_and(|v| matches!(v.as_str(), "true" | "1" | "t" | "T" | "TRUE" | "True"))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = || {
            std::str::from_utf8(after.get(..2)?).ok().and_then(|h| u8::from_str_radix(h, 16).ok())
        };
        rest = match (first, hex()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                &after[2..]
            }
            (b'+', _) => {
                bytes.push(b' ');
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let query = "command=sh&command=-c&command=echo%20a%26b+%zz&follow=true&empty=";
        assert_eq!(values(query, "command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b %zz"]);
        assert!(flag(query, "follow"));
        assert_eq!(value(query, "empty"), None);
    }
}
