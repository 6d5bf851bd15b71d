//! Moments as Ollama writes them: RFC 3339, in UTC.

const DAY_S: u64 = 86_400;
/// Later ones have five digits, which RFC 3339 does not know.
const YEAR_MAX: u64 = 9_999;

/// `unix_s` as `2026-11-28T13:25:30Z`.
pub(super) fn moment(unix_s: u64) -> String {
    let (mut days, seconds) = (unix_s / DAY_S, unix_s % DAY_S);
    let mut year = 1970;
    while year < YEAR_MAX && days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 0;
    while month < 11 && days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    let day = days.min(30) + 1;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let month = month + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// `month` counts from 0.
fn month_days(year: u64, month: usize) -> u64 {
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap_day = u64::from(month == 1 && is_leap(year));
    DAYS.get(month).map_or(0, |days| days + leap_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_days_of_the_calendar() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_872_330, "2026-11-28T13:25:30Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(moment(unix_s), text);
        }
        assert!(moment(u64::MAX).starts_with("9999-"));
    }
}
