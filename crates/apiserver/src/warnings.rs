//! Writes the warnings of a request as headers.
//!
//! Texts in the order they were raised -> `Warning: 299 - "text"` lines, all in full while they fit, else each cut short.
//! Counterpart: `apiserver/pkg/endpoints/filters/warning.go`. Invariant: once texts are cut, none is added after
//! [`ALL_TOGETHER`] characters.

use http::HeaderMap;
use http::header::{HeaderValue, WARNING};

/// How many characters all texts may have before each is cut.
const ALL_TOGETHER: usize = 4096;
/// What is left of a text that is cut.
const EACH: usize = 256;

/// Adds `texts` to the headers of an answer.
pub fn add(texts: Vec<String>, headers: &mut HeaderMap) {
    for text in fitting(texts) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(WARNING, value);
        }
    }
}

/// What of the texts is told. A text with control characters cannot stand in a header.
fn fitting(mut texts: Vec<String>) -> Vec<String> {
    texts.retain(|text| !text.is_empty() && !text.contains(char::is_control));
    let Some(first_too_much) = first_too_much(&texts) else {
        return texts;
    };
    let mut written = 0;
    let told = texts.into_iter().enumerate().map_while(|(at, text)| {
        if at > first_too_much && written >= ALL_TOGETHER {
            return None;
        }
        let text: String = text.chars().take(EACH).collect();
        written += text.chars().count();
        Some(text)
    });
    told.collect()
}

/// The text with which they no longer fit. Up to it all are told, however many they are.
fn first_too_much(texts: &[String]) -> Option<usize> {
    let mut written = 0;
    texts.iter().position(|text| {
        written += text.chars().count();
        written > ALL_TOGETHER
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(texts: &[usize]) -> Vec<usize> {
        let texts = texts.iter().map(|length| "ä".repeat(*length)).collect();
        fitting(texts).iter().map(|text| text.chars().count()).collect()
    }

    #[test]
    fn warnings_are_cut_when_they_do_not_fit_together() {
        assert_eq!(lengths(&[300, 3796]), [300, 3796]);
        assert_eq!(lengths(&[300, 3797]), [256, 256]);
        assert_eq!(lengths(&[4000, 100, 300]), [256, 100, 256]);
    }

    #[test]
    fn cut_warnings_end_with_the_limit() {
        assert_eq!(lengths(&[256; 30]), [256; 17]);
        assert_eq!(lengths(&[10; 500]).len(), 410);
    }

    #[test]
    fn a_warning_of_several_lines_is_left_out() {
        let texts = vec!["one".to_owned(), "two\nlines".to_owned(), String::new()];
        assert_eq!(fitting(texts), ["one"]);
    }
}
