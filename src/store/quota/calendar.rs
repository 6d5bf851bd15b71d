//! When a day's or a month's limit begins anew: by the clock on the wall of a time zone.

use domain::{Period, SpokenTime};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// A stretch of time, in Unix seconds: `begin` belongs to it, `end` does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    pub begin: u64,
    /// `None`: it has none.
    pub end: Option<u64>,
}

impl Window {
    /// All of time.
    pub const EVER: Self = Self {
        begin: 0,
        end: None,
    };

    #[must_use]
    pub fn begins_after(&self, other: &Window) -> bool {
        self.begin > other.begin
    }
}

/// A time zone's days and months.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar(TimeZone);

/// There is no such time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no time zone such as Europe/Lisbon or UTC")]
pub struct NoTimeZone {
    pub name: String,
}

impl Calendar {
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Of a zone of the IANA's database, which is inside the binary.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(name: &str) -> Result<Self, NoTimeZone> {
        let zone = TimeZone::get(name).map_err(|_| NoTimeZone {
            name: name.to_owned(),
        })?;
        Ok(Self(zone))
    }

    /// As it was named.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.iana_name().unwrap_or("UTC").to_owned()
    }

    /// When a day begins, in microseconds since 1970. `None` where there is no such day.
    #[must_use]
    pub fn day_begins_us(&self, year: i16, month: i8, day: i8) -> Option<i64> {
        let date = jiff::civil::Date::new(year, month, day).ok()?;
        let zoned = date.to_datetime(Time::midnight()).to_zoned(self.0.clone());
        Some(zoned.ok()?.timestamp().as_microsecond())
    }

    /// When the day began that holds `now`, both in microseconds since 1970.
    #[must_use]
    pub fn today_begins_us(&self, now_us: i64) -> i64 {
        let seconds = u64::try_from(now_us / 1_000_000).unwrap_or(0);
        let begin = self.window(Period::Day, seconds).begin;
        i64::try_from(begin).map_or(i64::MAX, |begin| begin.saturating_mul(1_000_000))
    }

    /// A moment in words, to the second: in UTC and here.
    #[must_use]
    pub fn spoken(&self, unix_us: i64) -> SpokenTime {
        let time = Timestamp::from_microsecond(unix_us).unwrap_or(Timestamp::MAX);
        let words = |zone: &TimeZone| {
            let zoned = time.to_zoned(zone.clone());
            zoned.strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
        };
        SpokenTime {
            unix_us,
            utc: words(&TimeZone::UTC),
            local: words(&self.0),
        }
    }

    /// The window of `period` that holds `now`, in Unix seconds. A day on which the clocks change is an
    /// hour shorter or longer. Periods that refill steadily have none, and get all of time.
    #[must_use]
    pub fn window(&self, period: Period, now: u64) -> Window {
        let seconds = i64::try_from(now).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let date = now.to_zoned(self.0.clone()).date();
        let (first, next) = match period {
            Period::Day => (date, date.checked_add(1.day())),
            Period::Month => {
                let first = date.first_of_month();
                (first, first.checked_add(1.month()))
            }
            Period::Second | Period::Minute | Period::Hour | Period::Ever => return Window::EVER,
        };
        // At midnight, or where there is none that day, when it would have been.
        let begin = |date: jiff::civil::Date| {
            let zoned: Zoned = date
                .to_datetime(Time::midnight())
                .to_zoned(self.0.clone())
                .ok()?;
            u64::try_from(zoned.timestamp().as_second()).ok()
        };
        Window {
            begin: begin(first).unwrap_or(0),
            end: next.ok().and_then(begin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(text: &str) -> u64 {
        let time: Timestamp = text.parse().unwrap();
        u64::try_from(time.as_second()).unwrap()
    }

    fn check(zone: &str, period: Period, now: &str, begin: &str, end: &str) {
        let calendar = Calendar::named(zone).unwrap();
        let window = calendar.window(period, unix(now));
        let expected = Window {
            begin: unix(begin),
            end: Some(unix(end)),
        };
        assert_eq!(window, expected, "{zone} {now}");
        // Both edges are of the window they say.
        assert_eq!(calendar.window(period, window.begin), window);
        assert_eq!(calendar.window(period, window.end.unwrap() - 1), window);
        assert_ne!(calendar.window(period, window.end.unwrap()), window);
    }

    #[test]
    fn days_and_months_are_those_on_the_wall() {
        use Period::{Day, Month};
        check(
            "UTC",
            Day,
            "2026-11-28T20:00:00Z",
            "2026-11-28T00:00:00Z",
            "2026-11-29T00:00:00Z",
        );
        check(
            "UTC",
            Month,
            "2026-12-31T23:59:59Z",
            "2026-12-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
        check(
            "UTC",
            Month,
            "2028-02-29T12:00:00Z",
            "2028-02-01T00:00:00Z",
            "2028-03-01T00:00:00Z",
        );
        // Half an hour off the full one.
        check(
            "Asia/Kolkata",
            Day,
            "2026-11-28T20:00:00Z",
            "2026-11-28T18:30:00Z",
            "2026-11-29T18:30:00Z",
        );
        // 23 hours and 25.
        check(
            "Europe/Lisbon",
            Day,
            "2026-03-29T12:00:00Z",
            "2026-03-29T00:00:00Z",
            "2026-03-29T23:00:00Z",
        );
        check(
            "Europe/Lisbon",
            Day,
            "2026-10-25T12:00:00Z",
            "2026-10-24T23:00:00Z",
            "2026-10-26T00:00:00Z",
        );
        // Midnight itself is left out when the clocks go forward there.
        check(
            "Africa/Cairo",
            Day,
            "2026-04-24T12:00:00Z",
            "2026-04-23T22:00:00Z",
            "2026-04-24T21:00:00Z",
        );
    }

    #[test]
    fn midnights_that_are_not_or_come_twice_make_one_day() {
        use Period::{Day, Month};
        // Midnight comes twice when the clocks go back from one to it: the day begins with the first.
        check(
            "America/Havana",
            Day,
            "2020-11-01T04:30:00Z",
            "2020-11-01T04:00:00Z",
            "2020-11-02T05:00:00Z",
        );
        check(
            "America/Havana",
            Day,
            "2020-11-01T05:30:00Z",
            "2020-11-01T04:00:00Z",
            "2020-11-02T05:00:00Z",
        );
        // The month as well begins on that day.
        check(
            "America/Havana",
            Month,
            "2020-11-01T05:30:00Z",
            "2020-11-01T04:00:00Z",
            "2020-12-01T05:00:00Z",
        );
        // Half an hour, where clocks change by no more.
        check(
            "Australia/Lord_Howe",
            Day,
            "2026-04-04T20:00:00Z",
            "2026-04-04T13:00:00Z",
            "2026-04-05T13:30:00Z",
        );
        // A day that was left out of the calendar is nobody's.
        check(
            "Pacific/Apia",
            Day,
            "2011-12-30T09:59:59Z",
            "2011-12-29T10:00:00Z",
            "2011-12-30T10:00:00Z",
        );
        check(
            "Pacific/Apia",
            Day,
            "2011-12-30T10:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-31T10:00:00Z",
        );
        // As early and as late as there is any.
        check(
            "Pacific/Kiritimati",
            Day,
            "2026-12-31T10:00:00Z",
            "2026-12-31T10:00:00Z",
            "2027-01-01T10:00:00Z",
        );
        check(
            "Pacific/Kiritimati",
            Month,
            "2026-12-31T10:00:00Z",
            "2026-12-31T10:00:00Z",
            "2027-01-31T10:00:00Z",
        );
        check(
            "Pacific/Pago_Pago",
            Day,
            "2028-03-01T10:59:59Z",
            "2028-02-29T11:00:00Z",
            "2028-03-01T11:00:00Z",
        );
    }

    /// Of four years of hours, in zones of all kinds: each day and month follows the one before it without
    /// a gap, and none has another length than days and months have.
    #[test]
    fn windows_follow_each_other_without_a_gap() {
        const HOUR: u64 = 3_600;
        for zone in [
            "UTC",
            "Europe/Lisbon",
            "America/Havana",
            "America/Sao_Paulo",
            "Africa/Cairo",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Pacific/Chatham",
        ] {
            let calendar = Calendar::named(zone).unwrap();
            for (period, lengths) in [
                (Period::Day, 23 * HOUR..=25 * HOUR),
                (Period::Month, (28 * 24 - 1) * HOUR..=(31 * 24 + 1) * HOUR),
            ] {
                let mut window = calendar.window(period, unix("2015-01-15T12:00:00Z"));
                while window.begin < unix("2019-02-01T00:00:00Z") {
                    let end = window.end.unwrap();
                    let length = end - window.begin;
                    assert!(lengths.contains(&length), "{zone} {window:?}");
                    assert_eq!(calendar.window(period, end - 1), window, "{zone}");
                    let next = calendar.window(period, end);
                    assert_eq!(next.begin, end, "{zone} {window:?}");
                    window = next;
                }
            }
        }
    }

    #[test]
    fn other_periods_have_no_window() {
        let calendar = Calendar::utc();
        for period in [Period::Second, Period::Minute, Period::Hour, Period::Ever] {
            assert_eq!(
                calendar.window(period, unix("2026-11-28T20:00:00Z")),
                Window::EVER
            );
        }
        // Nor does a clock that is far off break anything.
        for now in [0, u64::MAX, i64::MAX as u64] {
            let window = calendar.window(Period::Month, now);
            assert!(window.end.is_none_or(|end| end > window.begin));
        }
    }

    #[test]
    fn a_moment_is_said_here_and_everywhere() {
        let lisbon = Calendar::named("Europe/Lisbon").unwrap();
        let begins = lisbon.day_begins_us(2026, 7, 1).unwrap();
        let spoken = lisbon.spoken(begins);
        assert_eq!(spoken.unix_us, begins);
        assert_eq!(spoken.utc, "2026-06-30 23:00:00+00:00");
        assert_eq!(spoken.local, "2026-07-01 00:00:00+01:00");
        assert_eq!(lisbon.today_begins_us(begins), begins);
        assert_eq!(lisbon.today_begins_us(begins + 86_399_999_999), begins);
        assert_eq!(lisbon.name(), "Europe/Lisbon");
        assert_eq!(Calendar::utc().name(), "UTC");
        for (year, month, day) in [(2026, 2, 29), (2026, 13, 1), (2026, 0, 1), (32_000, 1, 1)] {
            assert_eq!(lisbon.day_begins_us(year, month, day), None);
        }
        // Nor does a clock that is far off break anything.
        assert!(!lisbon.spoken(i64::MAX).utc.is_empty());
    }

    #[test]
    fn a_zone_that_there_is_not_is_named() {
        let error = Calendar::named("Mars/Olympus").unwrap_err();
        assert!(error.to_string().contains("Mars/Olympus"));
    }
}
