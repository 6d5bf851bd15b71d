//! Bytes inside of text: data URLs (RFC 2397) and base64 (RFC 4648).

use std::borrow::Cow;

/// The media type and the base64 of a data URL, such as requests carry images in.
pub(crate) fn split(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let head = head.strip_suffix(";base64")?;
    let media_type = head.split(';').next().unwrap_or_default();
    (media_type.contains('/') && is_base64(data)).then_some((media_type, data))
}

pub(crate) fn join(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

/// Base64 by its letters and length (section 4), padded or not.
pub(crate) fn is_base64(text: &str) -> bool {
    let letters = text.trim_end_matches('=');
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() - letters.len() <= 2 && letters.len() % 4 != 1 && letters.bytes().all(is_letter)
}

/// Base64 with the letters of section 4 and padding, out of that or of section 5's (safe in URLs);
/// `None` for what is neither. Protobuf's JSON takes both.
pub(crate) fn standard(text: &str) -> Option<Cow<'_, str>> {
    if text.len().is_multiple_of(4) && is_base64(text) {
        return Some(Cow::Borrowed(text));
    }
    let letters = text.trim_end_matches('=');
    if text.len() - letters.len() > 2 {
        return None;
    }
    let mut plain: String = letters
        .chars()
        .map(|letter| match letter {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    while !plain.len().is_multiple_of(4) && plain.len() - letters.len() < 2 {
        plain.push('=');
    }
    (plain.len().is_multiple_of(4) && is_base64(&plain)).then_some(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_url_gives_its_type_and_bytes() {
        for (url, parts) in [
            ("data:image/png;base64,AAAA", Some(("image/png", "AAAA"))),
            (
                "data:text/plain;charset=utf-8;base64,QQ==",
                Some(("text/plain", "QQ==")),
            ),
            ("data:image/png;base64,A!AA", None),
            ("data:image/png;base64,AAAAA", None),
            ("data:image/png,AAAA", None),
            ("data:;base64,AAAA", None),
            ("https://a.example/a.png", None),
        ] {
            assert_eq!(split(url), parts, "{url}");
        }
    }

    #[test]
    fn base64_of_either_alphabet_becomes_the_plain_one() {
        for (text, plain) in [
            ("", Some("")),
            ("QQ==", Some("QQ==")),
            ("QQ", Some("QQ==")),
            ("QUI", Some("QUI=")),
            ("_-__", Some("/+//")),
            ("_-_", Some("/+/=")),
            ("A", None),
            ("AAAAA", None),
            ("QQ===", None),
            ("Q Q=", None),
            ("é===", None),
        ] {
            assert_eq!(standard(text).as_deref(), plain, "{text}");
        }
    }
}
