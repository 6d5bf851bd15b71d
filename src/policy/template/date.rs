//! A day, printed as Python's `strftime` does.

use minijinja::{Error, ErrorKind};

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl Date {
    /// Knows the codes of days, months and years. The hour is taken to be midnight: prompts that say
    /// the minute could never be cached.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let mut text = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                text.push(letter);
                continue;
            }
            let code = match letters.next() {
                // GNU's `%-d`: without the leading zero.
                Some('-') => {
                    let padded = self.field(letters.next())?;
                    let bare = padded.trim_start_matches('0');
                    text.push_str(if bare.is_empty() { "0" } else { bare });
                    continue;
                }
                code => code,
            };
            text.push_str(&self.field(code)?);
        }
        Ok(text)
    }

    fn field(self, code: Option<char>) -> Result<String, Error> {
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let field = match code {
            Some('d') => format!("{:02}", self.day),
            Some('m') => format!("{:02}", self.month),
            Some('Y') => format!("{:04}", self.year),
            Some('y') => format!("{:02}", self.year.rem_euclid(100)),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('F') => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
            Some('H' | 'M' | 'S') => "00".to_owned(),
            Some('%') => "%".to_owned(),
            Some(_) | None => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "strftime_now knows days, months and years",
                ));
            }
        };
        Ok(field)
    }

    /// 0 is Sunday. Sakamoto's method.
    fn weekday(self) -> usize {
        const SHIFTS: [i32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let month = usize::from(self.month.clamp(1, 12));
        let year = if month < 3 { self.year - 1 } else { self.year };
        let days = year + year.div_euclid(4) - year.div_euclid(100)
            + year.div_euclid(400)
            + SHIFTS[month - 1]
            + i32::from(self.day);
        usize::try_from(days.rem_euclid(7)).unwrap_or(0)
    }
}
