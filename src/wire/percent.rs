//! Percent-encoding of what stands in an address (RFC 3986, section 2).

use std::fmt::Write;

/// All but the unreserved characters.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to memory cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_an_address_is_encoded() {
        for (text, written) in [
            ("gemini-2.5-pro", "gemini-2.5-pro"),
            ("a/b c", "a%2Fb%20c"),
            ("us.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1%3A0"),
            ("a?b#c%", "a%3Fb%23c%25"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(encoded(text), written);
        }
    }
}
