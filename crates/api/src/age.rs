//! Ages as the command line shows them: `5s`, `2m10s`, `3d4h`.
//!
//! Counterpart: `apimachinery/pkg/util/duration`.

use jiff::Timestamp;

/// The time since an RFC 3339 timestamp at `now` (Unix seconds); `<unknown>` without one.
pub fn since(timestamp: &str, now: i64) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => human(now - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A span of seconds with at most two units, coarser the longer it is.
pub fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        _ if seconds < -1 => "<invalid>".to_owned(),
        _ if seconds < 0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

fn two(big: i64, unit: char, small: i64, sub: char) -> String {
    match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{sub}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_get_coarser_with_length() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (660, "11m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 61, "3h1m"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }
}
