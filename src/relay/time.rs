//! Time as both ends write it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;
/// The first of January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Seconds since the first of January 1970, UTC. What lies before the first or beyond the last
/// second is that second.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time.as_secs()))
    }

    /// How long after `earlier` this is; nothing where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// Year, month from 1, day from 1; by Howard Hinnant's `civil_from_days`.
    pub fn day(self) -> (u64, u64, u64) {
        // Days since 0000-03-01, so that a leap day is a year's last.
        let days = self.0 / DAY + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        (year, month, day)
    }

    /// As the field `date` has it: the form of RFC 9110, section 5.6.7, that is to be written.
    pub fn to_http_date(self) -> String {
        let (year, month, day) = self.day();
        let weekday = WEEKDAYS[(self.0 / DAY % 7) as usize];
        let month = MONTHS[(month - 1) as usize];
        let (hour, minute, second) = (self.0 / 3_600 % 24, self.0 / 60 % 60, self.0 % 60);
        format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }

    /// Of the same form, to the letter; the obsolete ones nobody writes.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let (year, month, day) = (text.get(12..16)?, text.get(8..11)?, text.get(5..7)?);
        let (hour, minute, second) = (text.get(17..19)?, text.get(20..22)?, text.get(23..25)?);
        let number = |digits: &str| digits.parse::<u64>().ok();
        let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
        let year = number(year)?;
        // The inverse of the above, in years that begin in March.
        let year_of_march = if month <= 2 {
            year.checked_sub(1)?
        } else {
            year
        };
        let (era, year_of_era) = (year_of_march / 400, year_of_march % 400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + number(day)?.checked_sub(1)?;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
        let seconds = number(hour)? * 3_600 + number(minute)? * 60 + number(second)?;
        let time = Self(days * DAY + seconds);
        // What was read must be written as it was.
        (time.to_http_date() == text).then_some(time)
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        Self(
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_written_as_http_has_them() {
        // The example of RFC 9110, section 5.6.7, and the ends of February.
        for (seconds, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
        ] {
            assert_eq!(UnixTime(seconds).to_http_date(), text);
            assert_eq!(UnixTime::from_http_date(text), Some(UnixTime(seconds)));
        }
        for text in [
            "",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:60 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Wed, 31 Feb 2000 00:00:00 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(UnixTime::from_http_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0u64..253_402_300_800) {
            let time = UnixTime(seconds);
            prop_assert_eq!(UnixTime::from_http_date(&time.to_http_date()), Some(time));
        }

        #[test]
        fn any_text_is_read_or_not(text in ".{0,40}") {
            let _ = UnixTime::from_http_date(&text);
        }
    }
}
