//! Detectors: one pattern each, and a check of what the pattern found.
//!
//! Precision comes first, since every finding changes what a remote model sees: a pattern proposes,
//! a checksum, a length table or the neighbouring characters decide. Patterns need no look-around,
//! so matching is linear; what the checks read is bounded, or read by no other check. Classes are
//! spelled out in ASCII: without regard to case, `S` would also be `ſ`, which is two bytes.

use std::ops::Range;

use domain::FindingClass;

/// What looks for one shape of one class.
#[derive(Clone, Copy)]
pub(crate) struct Detector {
    pub class: FindingClass,
    pub pattern: &'static str,
    /// Narrows a match to what is personal, or rejects it.
    pub check: fn(&str, Range<usize>) -> Option<Range<usize>>,
}

/// In order of precedence: where two claim the same stretch, the earlier keeps it.
pub(crate) const DETECTORS: [Detector; 8] = [
    Detector {
        class: FindingClass::Secret,
        pattern: r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
        check: private_key,
    },
    Detector {
        class: FindingClass::Secret,
        pattern: r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        check: standing_alone,
    },
    Detector {
        class: FindingClass::Secret,
        pattern: r"(?:sk|rk|pk)[-_][A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|dop_v1_[a-f0-9]{64}",
        check: key_like,
    },
    Detector {
        class: FindingClass::Secret,
        pattern: r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@<>'\x22]{0,64}:[^\s/@<>'\x22]{6,128}@",
        check: password_in_address,
    },
    Detector {
        class: FindingClass::Iban,
        pattern: r"[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}",
        check: iban,
    },
    Detector {
        class: FindingClass::Card,
        pattern: r"[0-9](?:[ -]?[0-9]){12,18}",
        check: card,
    },
    Detector {
        class: FindingClass::Email,
        pattern: r"[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}",
        check: email,
    },
    Detector {
        class: FindingClass::Phone,
        pattern: r"\+[0-9]{1,3}[ .-]?(?:\([0-9]{1,5}\)[ .-]?)?[0-9](?:[ .-]?[0-9]){5,13}",
        check: phone,
    },
];

/// Whether any detector may find something: a quick look that most prose does not pass. What is found
/// has two digits, an `@`, or one of two beginnings.
pub(crate) fn may_find(text: &str) -> bool {
    /// So many digits at most that their count fits a byte: such a loop is computed many bytes at once.
    const STRETCH_BYTES: usize = 128;
    let mut digits = 0_usize;
    for stretch in text.as_bytes().chunks(STRETCH_BYTES) {
        let (mut count, mut has_at) = (0_u8, false);
        for byte in stretch {
            count += u8::from(byte.is_ascii_digit());
            has_at |= *byte == b'@';
        }
        digits += usize::from(count);
        if has_at || digits >= 2 {
            return true;
        }
    }
    text.contains("-----BEGIN ") || text.contains("eyJ")
}

/// The letter before. In JSON within a text an end of line is written out, and is no letter.
fn before(text: &str, at: usize) -> Option<char> {
    let head = &text[..at];
    let is_written_out = ["\\n", "\\r", "\\t"].iter().any(|it| head.ends_with(it));
    if is_written_out {
        return Some(' ');
    }
    head.chars().next_back()
}

fn after(text: &str, at: usize) -> Option<char> {
    text[at..].chars().next()
}

/// Whether a value that ends here goes on. Scripts without spaces, and those that join what follows to a
/// name, begin right behind one.
fn is_word(edge: Option<char>) -> bool {
    edge.is_some_and(|edge| edge.is_ascii_alphanumeric() || edge == '_' || is_spaced(edge))
}

/// Letters of Latin, Greek, Cyrillic and Armenian, which all come before Hebrew.
fn is_spaced(letter: char) -> bool {
    !letter.is_ascii() && letter < '\u{590}' && letter.is_alphanumeric()
}

/// Where a private key's last line is looked for. One of 16,384 bits takes 13 KiB.
const PRIVATE_KEY_BYTES_MAX: usize = 16 * 1024;

/// From the first line to the last; where there is no last line, as far as the lines of base64 go.
///
/// No further than the next first line: otherwise each of many would read all the others.
fn private_key(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    let bound = text.floor_char_boundary(found.end + PRIVATE_KEY_BYTES_MAX);
    let near = &text[found.end..bound];
    let own = near.find("-----BEGIN ").map_or(near, |next| &near[..next]);
    let length = closed_length(own).unwrap_or_else(|| base64_length(&text[found.end..]));
    Some(found.start..found.end + length)
}

/// The length of `body` with its last line, when it has one.
fn closed_length(body: &str) -> Option<usize> {
    let is_foreign = |letter: char| {
        !letter.is_ascii_alphanumeric() && !letter.is_whitespace() && !"+/=\\:,.-".contains(letter)
    };
    let body = &body[..body.find(is_foreign).unwrap_or(body.len())];
    body.match_indices("-----END ").find_map(|(at, opening)| {
        let label_at = at + opening.len();
        let label = &body[label_at..label_at + body[label_at..].find("-----")?];
        let is_key = label.ends_with("PRIVATE KEY") || label.ends_with("PRIVATE KEY BLOCK");
        is_key.then_some(label_at + label.len() + "-----".len())
    })
}

/// How far `body` is lines of base64, their ends written as such or as `\n`.
fn base64_length(body: &str) -> usize {
    /// Shorter lines may be words.
    const LINE_BYTES_MIN: usize = 20;
    let mut length = 0;
    loop {
        let mut line = &body[length..];
        loop {
            let next = line.trim_start();
            let next = next
                .strip_prefix("\\n")
                .or_else(|| next.strip_prefix("\\r"))
                .unwrap_or(next);
            if next.len() == line.len() {
                break;
            }
            line = next;
        }
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        let line_bytes = line.bytes().take_while(is_base64).count();
        if line_bytes < LINE_BYTES_MIN {
            return length;
        }
        length = body.len() - line.len() + line_bytes;
    }
}

fn standing_alone(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    let is_part = is_word(before(text, found.start)) || is_word(after(text, found.end));
    (!is_part).then_some(found)
}

/// A key has digits as well as letters; documented examples say that they are.
fn key_like(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    if is_word(before(text, found.start)) {
        return None;
    }
    let key = &text[found.clone()];
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    let letters = key.bytes().filter(u8::is_ascii_alphabetic).count();
    let upper = key.to_ascii_uppercase();
    let is_example = [
        "EXAMPLE",
        "XXXXXX",
        "YOUR",
        "PLACEHOLDER",
        "1234567890ABCDEF",
    ]
    .iter()
    .any(|mark| upper.contains(mark));
    (digits >= 2 && letters >= 6 && !is_example).then_some(found)
}

/// The password of `scheme://user:password@`, alone.
fn password_in_address(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    let address = &text[found.clone()];
    let user_at = address.find("://")? + 3;
    let password_at = user_at + address[user_at..].find(':')? + 1;
    let password = &address[password_at..address.len() - 1];
    let is_variable = password.starts_with(['$', '{', '%', '*', '[']);
    let is_word_for_it = ["password", "passwd", "secret", "changeme"]
        .iter()
        .any(|word| password.eq_ignore_ascii_case(word));
    let start = found.start + password_at;
    (!is_variable && !is_word_for_it).then_some(start..found.end - 1)
}

fn email(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    let address = &text[found.clone()];
    let start = name_start(text, found.start)?;
    let tail = text[found.end..].strip_prefix('_');
    // As `_ann@example.com_` is emphasised.
    let goes_on = match tail {
        Some(tail) => is_word(after(tail, 0)),
        None => is_word(after(text, found.end)),
    };
    let is_part = goes_on || matches!(after(text, found.end), Some('@'));
    // `git@host:path` and `ssh user@host` name machines; only the first is told apart here.
    let is_remote = address.starts_with("git@");
    let has_double_dot = address.contains("..");
    let is_host = is_in_authority(&text[..start]);
    (!is_part && !is_remote && !has_double_dot && !is_host).then_some(start..found.end)
}

/// Where the name before the `@` begins: it may have letters that are not ASCII's (RFC 6531). `None` where
/// what comes before belongs to it and is no name.
fn name_start(text: &str, start: usize) -> Option<usize> {
    /// Of a name (RFC 5321, section 4.5.3.1.1).
    const NAME_BYTES_MAX: usize = 64;
    match before(text, start) {
        Some('@' | '%' | '.') => None,
        Some('_') => {
            let is_emphasis = !is_word(before(text, start - 1));
            is_emphasis.then_some(start)
        }
        Some(letter) if is_spaced(letter) => {
            let letters = text[..start].char_indices().rev();
            let is_name = |letter: char| {
                letter.is_ascii_alphanumeric() || is_spaced(letter) || "._%+'-".contains(letter)
            };
            let name = letters.take_while(|(_, letter)| is_name(*letter));
            let (first, _) = name.last()?;
            (start - first <= NAME_BYTES_MAX && before(text, first) != Some('@')).then_some(first)
        }
        edge => (!is_word(edge)).then_some(start),
    }
}

/// True when `before` ends inside `scheme://user:`, so that what follows is a password and a host.
fn is_in_authority(before: &str) -> bool {
    /// Longer stretches are no user and password.
    const LOOKED_BACK_BYTES: usize = 256;
    let near = before.len().saturating_sub(LOOKED_BACK_BYTES);
    let tail = &before[before.ceil_char_boundary(near)..];
    tail.rfind("://").is_some_and(|scheme| {
        let ends_it =
            |letter: char| letter.is_whitespace() || "/?#\"'<>()[]{},;|\\".contains(letter);
        !tail[scheme + 3..].contains(ends_it)
    })
}

/// Digits of the match, as numbers.
fn digits(text: &str) -> Vec<u8> {
    text.bytes()
        .filter(u8::is_ascii_digit)
        .map(|digit| digit - b'0')
        .collect()
}

fn card(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    if !has_start(text, &found) {
        return None;
    }
    if is_card(text, &found) {
        return Some(found);
    }
    // Every layout begins so.
    let written = &text[found.clone()];
    let first = written.bytes().take_while(u8::is_ascii_digit).count();
    if first != 4 && first < 13 {
        return None;
    }
    // An expiry or a code behind it was taken along.
    let mut shorter = cuts(written).map(|length| found.start..found.start + length);
    shorter.find(|cut| is_laid_out(&text[cut.clone()]) && is_card(text, cut) && has_end(text, cut))
}

/// The lengths of `written` without its last group, its last two and so on, the longest first.
fn cuts(written: &str) -> impl Iterator<Item = usize> {
    let separators = written.char_indices().rev();
    separators
        .filter(|(_, letter)| matches!(letter, ' ' | '-' | '.'))
        .map(|(at, _)| at)
}

/// The groups in which cards show their numbers.
fn is_laid_out(written: &str) -> bool {
    let groups: Vec<usize> = written.split([' ', '-']).map(str::len).collect();
    matches!(
        groups[..],
        [13..=19] | [4, 4, 4, 4] | [4, 6, 5] | [4, 6, 4] | [4, 4, 4, 4, 3]
    )
}

/// Whether what comes before the card is no group of the same list of numbers, or the last card.
fn has_start(text: &str, card: &Range<usize>) -> bool {
    let head = text[..card.start].trim_end_matches([' ', '-']);
    let group = head.bytes().rev().take_while(u8::is_ascii_digit).count();
    let is_apart = head.len() == card.start || group != 4;
    is_apart
        || [19, 17, 16, 15].into_iter().any(|length| {
            let last = head.len().saturating_sub(length)..head.len();
            let written = text.get(last.clone());
            written.is_some_and(|it| is_laid_out(it) && is_card(text, &last))
        })
}

/// The same of what follows it.
fn has_end(text: &str, card: &Range<usize>) -> bool {
    let rest = text[card.end..].trim_start_matches([' ', '-']);
    let group = rest.bytes().take_while(u8::is_ascii_digit).count();
    let starts = text.len() - rest.len();
    let next = text.get(starts..starts + card.len());
    group != 4
        || next
            .is_some_and(|next| is_laid_out(next) && is_card(text, &(starts..starts + card.len())))
}

fn is_card(text: &str, found: &Range<usize>) -> bool {
    let is_inside = |edge: Option<char>| is_word(edge) || edge == Some('.');
    let next = after(text, found.end);
    let next_but_one = text[found.end..].chars().nth(1);
    let goes_on =
        matches!(next, Some('-' | '.')) && next_but_one.is_some_and(char::is_alphanumeric);
    let comes_from = matches!(before(text, found.start), Some('-' | '+' | '#' | '/' | '='));
    if is_inside(before(text, found.start)) || is_word(next) || goes_on || comes_from {
        return false;
    }
    let written = &text[found.clone()];
    let number = digits(written);
    let has_one_separator = !(written.contains(' ') && written.contains('-'));
    number.len() >= 13 && has_one_separator && is_issued(&number) && passes_luhn(&number)
}

/// ISO/IEC 7812 check digit.
fn passes_luhn(number: &[u8]) -> bool {
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let doubled = u32::from(*digit) * (1 + at as u32 % 2);
            doubled / 10 + doubled % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// True for a prefix and length that a card network issues (issuer identification numbers as the
/// networks publish them, read 2025).
fn is_issued(number: &[u8]) -> bool {
    let first = |count: usize| {
        number[..count]
            .iter()
            .fold(0_u32, |prefix, digit| prefix * 10 + u32::from(*digit))
    };
    let length = number.len();
    let (two, three, four) = (first(2), first(3), first(4));
    let is_visa = number[0] == 4 && matches!(length, 13 | 16 | 19);
    let is_mastercard = (matches!(two, 51..=55) || matches!(four, 2221..=2720)) && length == 16;
    let is_amex = matches!(two, 34 | 37) && length == 15;
    let is_diners = (matches!(three, 300..=305) || matches!(two, 36 | 38 | 39)) && length == 14;
    let is_discover =
        (four == 6011 || two == 65 || matches!(three, 644..=649)) && matches!(length, 16 | 19);
    let is_jcb = matches!(four, 3528..=3589) && length == 16;
    let is_unionpay = two == 62 && matches!(length, 16..=19);
    let is_maestro = matches!(
        four,
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761 | 6762 | 6763
    );
    is_visa
        || is_mastercard
        || is_amex
        || is_diners
        || is_discover
        || is_jcb
        || is_unionpay
        || is_maestro
}

/// Lengths by country, from the SWIFT IBAN registry.
const IBAN_LENGTHS: [(&str, usize); 84] = [
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
];

/// Cuts the match to its country's length and checks it by ISO 7064 mod 97-10.
fn iban(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    if is_word(before(text, found.start)) {
        return None;
    }
    let written = &text[found.clone()];
    let country = written[..2].to_ascii_uppercase();
    let (_, length) = IBAN_LENGTHS.iter().find(|(code, _)| *code == country)?;
    let (last, _) = written
        .char_indices()
        .filter(|(_, letter)| letter.is_ascii_alphanumeric())
        .nth(length - 1)?;
    let end = found.start + last + 1;
    let number: Vec<u8> = text[found.start..end]
        .bytes()
        .filter(u8::is_ascii_alphanumeric)
        .collect();
    let is_whole = !is_word(after(text, end));
    (is_whole && mod_97(&number) == 1).then_some(found.start..end)
}

fn mod_97(number: &[u8]) -> u32 {
    let (head, tail) = number.split_at(4);
    tail.iter()
        .chain(head)
        .fold(0, |rest, letter| match letter {
            b'0'..=b'9' => (rest * 10 + u32::from(letter - b'0')) % 97,
            _ => (rest * 100 + u32::from(letter.to_ascii_uppercase() - b'A') + 10) % 97,
        })
}

/// Country codes of one and two digits as ITU-T E.164 assigns them; all of three digits begin with
/// one of the pairs listed last.
const COUNTRY_CODES_2: [u8; 42] = [
    20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56,
    57, 58, 60, 61, 62, 63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94,
];
const COUNTRY_CODE_3_PAIRS: [u8; 16] = [
    21, 22, 23, 24, 25, 26, 29, 35, 37, 38, 42, 50, 59, 67, 85, 97,
];

fn phone(text: &str, found: Range<usize>) -> Option<Range<usize>> {
    if is_phone(text, &found) {
        return Some(found);
    }
    /// More is another kind of number.
    const GROUPS_CUT_MAX: usize = 2;
    // An hour or a count behind it was taken along.
    let shorter = cuts(&text[found.clone()]).take(GROUPS_CUT_MAX);
    let mut shorter = shorter.map(|length| found.start..found.start + length);
    shorter.find(|cut| after(text, cut.end) == Some(' ') && is_phone(text, cut))
}

fn is_phone(text: &str, found: &Range<usize>) -> bool {
    let is_sum = is_word(before(text, found.start))
        || matches!(before(text, found.start), Some('+' | ')' | '.' | '-'));
    let next_but_one = text[found.end..].chars().nth(1);
    let goes_on = is_word(after(text, found.end))
        || (matches!(after(text, found.end), Some('.' | '-' | ':' | '/'))
            && next_but_one.is_some_and(|it| it.is_ascii_digit()));
    let number = digits(&text[found.clone()]);
    /// Of any.
    const DIGITS_MIN: usize = 7;
    if is_sum || goes_on || number.len() < DIGITS_MIN {
        return false;
    }
    let pair = number[0] * 10 + number[1];
    let is_dialled = match number[0] {
        1 => number.len() == 11 && number[1] >= 2 && number[4] >= 2,
        7 => number.len() == 11,
        _ if COUNTRY_CODES_2.contains(&pair) || matches!(pair, 95 | 98) => {
            (9..=14).contains(&number.len())
        }
        _ => {
            let is_assigned =
                COUNTRY_CODE_3_PAIRS.contains(&pair) || matches!(pair, 68 | 69 | 88 | 96 | 99);
            is_assigned && (9..=15).contains(&number.len())
        }
    };
    is_dialled && !is_date(&number)
}

/// `+20240131...`: an added line of a patch that begins with a date, rather than a call to Egypt.
fn is_date(number: &[u8]) -> bool {
    let two = |at: usize| number[at] * 10 + number[at + 1];
    number.len() >= 8
        && matches!(two(0), 19 | 20)
        && matches!(two(4), 1..=12)
        && matches!(two(6), 1..=31)
        && number.len().is_multiple_of(2)
}
