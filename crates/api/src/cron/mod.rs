//! The schedules of CronJobs, and when they are due.
//!
//! Text -> schedule; schedule, zone and moment -> the next moment. A moment is due when the clock of the zone shows what the
//! fields name: what the clock skips in spring is not due, what it shows twice in autumn is due twice.
//! Counterpart: `robfig/cron`, whose meaning of stars, steps and days is kept.

mod parse;

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

pub use parse::time_zone;

/// How many years ahead is looked for a moment that is due.
const HORIZON: i16 = 5;

#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Named in the schedule itself, as old objects may have it.
    zone: Option<TimeZone>,
    when: When,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    At(Fields),
    Every(Duration),
}

/// Each a set of bits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The day of the month or of the week is enough.
    either_day: bool,
}

// === impl Schedule ===

impl Schedule {
    pub fn parse(text: &str) -> Result<Schedule, String> {
        parse::schedule(text)
    }

    /// The first moment after `after` that is due, on the clock of `zone`; none within five years if there is none.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.when {
            When::At(fields) => fields.next(after, self.zone.as_ref().unwrap_or(zone)),
            When::Every(span) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                let seconds = i64::try_from(span.as_secs()).ok()?;
                whole.checked_add(SignedDuration::from_secs(seconds)).ok()
            }
        }
    }

    /// The last moment that is due after `after` and not after `until`.
    pub fn last(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let first = self.next(after, zone).filter(|first| *first <= until)?;
        if let When::Every(span) = &self.when {
            let span = i64::try_from(span.as_secs()).ok()?;
            let passed = (until.as_second() - first.as_second()) / span * span;
            return first.checked_add(SignedDuration::from_secs(passed)).ok();
        }
        // Far back only as far as needed: after a year's sleep, a minute may be enough.
        let backs =
            std::iter::successors(Some(SignedDuration::from_mins(1)), |back| back.checked_mul(2));
        let starts = backs.map(|back| until.checked_sub(back).map_or(first, |at| at.max(first)));
        let near = starts
            .map(|start| if start == first { Some(first) } else { self.next(start, zone) })
            .find_map(|due| due.filter(|due| *due <= until))?;
        let later = |due: &Timestamp| self.next(*due, zone).filter(|due| *due <= until);
        std::iter::successors(Some(near), later).last()
    }
}

// === impl Fields ===

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut moment = Timestamp::from_second(minute * 60).ok()?.to_zoned(zone.clone());
        let last = moment.year() + HORIZON;
        while moment.year() <= last {
            moment = if !self.names_day(&moment) {
                moment.tomorrow().ok()?.start_of_day().ok()?
            } else if self.hours & (1 << moment.hour()) == 0 {
                later(&moment, 60 - i64::from(moment.minute()))?
            } else if self.minutes & (1 << moment.minute()) == 0 {
                later(&moment, 1)?
            } else {
                return Some(moment.timestamp());
            };
        }
        None
    }

    fn names_day(&self, moment: &Zoned) -> bool {
        let weekday = moment.weekday().to_sunday_zero_offset();
        let (day, weekday) = (self.days & (1 << moment.day()), self.weekdays & (1 << weekday));
        let named = match self.either_day {
            true => day != 0 || weekday != 0,
            false => day != 0 && weekday != 0,
        };
        named && self.months & (1 << moment.month()) != 0
    }
}

fn later(moment: &Zoned, minutes: i64) -> Option<Zoned> {
    moment.checked_add(SignedDuration::from_mins(minutes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &str, zone: &str, after: &str, times: usize) -> Vec<String> {
        let zone = time_zone(zone).expect("a zone");
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let next = |at: &Timestamp| schedule.next(*at, &zone);
        let first = next(&after.parse().expect("a time"));
        std::iter::successors(first, next).take(times).map(|at| at.to_string()).collect()
    }

    #[test]
    fn the_next_moment_follows_the_fields() {
        let from = "2026-01-01T00:00:30Z"; // A Thursday.
        for (schedule, expected) in [
            ("* * * * *", ["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]),
            ("*/20 3 * * *", ["2026-01-01T03:00:00Z", "2026-01-01T03:20:00Z"]),
            ("5/30 * * * *", ["2026-01-01T00:05:00Z", "2026-01-01T00:35:00Z"]),
            ("0 0 31 * *", ["2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"]),
            ("0 0 29 feb ?", ["2028-02-29T00:00:00Z", ""]),
            ("0 9 * * mon-tue", ["2026-01-05T09:00:00Z", "2026-01-06T09:00:00Z"]),
            // Both days named: either is enough.
            ("0 0 3 * sun", ["2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z"]),
            // A star with a step is no star.
            ("0 0 */15 * sat", ["2026-01-03T00:00:00Z", "2026-01-10T00:00:00Z"]),
            ("@monthly", ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]),
            ("@every 90s", ["2026-01-01T00:02:00Z", "2026-01-01T00:03:30Z"]),
            ("@every 10ms", ["2026-01-01T00:00:31Z", "2026-01-01T00:00:32Z"]),
            ("TZ=Asia/Tokyo 0 9 * * *", ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]),
            ("0 0 30 feb *", ["", ""]),
        ] {
            let expected: Vec<_> = expected.into_iter().filter(|at| !at.is_empty()).collect();
            assert_eq!(due(schedule, "UTC", from, expected.len().max(1)), expected, "{schedule}");
        }
    }

    #[test]
    fn the_last_moment_is_found_however_long_ago_the_first_was() {
        let last = |schedule: &str, after: &str, until: &str| {
            let schedule = Schedule::parse(schedule).expect("a schedule");
            let last =
                schedule.last(after.parse().unwrap(), until.parse().unwrap(), &TimeZone::UTC);
            last.map(|at| at.to_string())
        };
        let since = "2026-01-01T00:00:30Z";
        for (schedule, until, expected) in [
            ("* * * * *", "2026-01-01T00:00:59Z", None),
            ("* * * * *", "2026-01-01T00:01:00Z", Some("2026-01-01T00:01:00Z")),
            ("* * * * *", "2029-07-01T10:11:12Z", Some("2029-07-01T10:11:00Z")),
            ("0 0 1 1 *", "2029-07-01T10:11:12Z", Some("2029-01-01T00:00:00Z")),
            ("@every 7m", "2026-01-01T01:00:00Z", Some("2026-01-01T00:56:30Z")),
        ] {
            assert_eq!(last(schedule, since, until).as_deref(), expected, "{schedule} {until}");
        }
    }

    #[test]
    fn a_skipped_hour_is_not_due_and_a_repeated_one_is_due_twice() {
        let spring = due("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]);
        let autumn = due("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
        assert_eq!(
            autumn,
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }
}
