//! The two cookies: of a sign-in under way, and of a session (RFC 6265bis). Where browsers come by https,
//! their names begin with `__Host-`, so that no other host of the domain can have set them.

use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::attempts::ATTEMPT_MAX;

/// Of a value; ours have 43 and 54.
const VALUE_BYTES_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Cookies {
    is_https: bool,
}

impl Cookies {
    pub fn of(origin: &str) -> Self {
        Self {
            is_https: origin.starts_with("https://"),
        }
    }

    pub fn session(self, headers: &HeaderMap) -> Option<&str> {
        only(headers, self.session_name())
    }

    pub fn ticket(self, headers: &HeaderMap) -> Option<&str> {
        only(headers, self.ticket_name())
    }

    pub fn keep_session(self, secret: &str, lasts: Duration) -> HeaderValue {
        self.set(self.session_name(), secret, lasts)
    }

    pub fn drop_session(self) -> HeaderValue {
        self.set(self.session_name(), "", Duration::ZERO)
    }

    pub fn keep_ticket(self, ticket: &str) -> HeaderValue {
        self.set(self.ticket_name(), ticket, ATTEMPT_MAX)
    }

    pub fn drop_ticket(self) -> HeaderValue {
        self.set(self.ticket_name(), "", Duration::ZERO)
    }

    fn session_name(self) -> &'static str {
        match self.is_https {
            true => "__Host-hedge-session",
            false => "hedge-session",
        }
    }

    fn ticket_name(self) -> &'static str {
        match self.is_https {
            true => "__Host-hedge-sign-in",
            false => "hedge-sign-in",
        }
    }

    /// `Lax`: the way back from the provider is a link from another site, and must bring them along.
    fn set(self, name: &str, value: &str, lasts: Duration) -> HeaderValue {
        let secure = if self.is_https { "; Secure" } else { "" };
        let seconds = lasts.as_secs();
        let text =
            format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        let mut cookie = HeaderValue::from_str(&text).expect("Base64 and words of ours");
        cookie.set_sensitive(true);
        cookie
    }
}

/// The value, where there is one: of two of a name nobody knows which is meant.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.to_str().unwrap_or_default().split(';'));
    let mut found = pairs.filter_map(|pair| {
        let (it, value) = pair.trim().split_once('=')?;
        (it == name).then_some(value)
    });
    let value = found.next()?;
    let is_only = found.next().is_none();
    (is_only && !value.is_empty() && value.len() <= VALUE_BYTES_MAX).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_this_host_s_alone_and_out_of_reach_of_scripts() {
        let https = Cookies::of("https://hedge.example");
        assert_eq!(
            https.keep_session("abc", Duration::from_secs(60)),
            "__Host-hedge-session=abc; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
        );
        assert_eq!(
            https.drop_ticket(),
            "__Host-hedge-sign-in=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure"
        );
        // A browser keeps no secure one of a page that is not.
        let plain = Cookies::of("http://localhost:8788");
        assert_eq!(
            plain.keep_ticket("abc"),
            "hedge-sign-in=abc; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"
        );
        assert!(https.keep_session("abc", Duration::ZERO).is_sensitive());
    }

    #[test]
    fn a_cookie_is_found_among_others_where_there_is_one_of_its_name() {
        let long = "a".repeat(VALUE_BYTES_MAX + 1);
        let long = format!("hedge-session={long}");
        let cases: [(&[&str], Option<&str>); 10] = [
            (&["hedge-session=abc"], Some("abc")),
            (&["a=b; hedge-session=abc;c=d"], Some("abc")),
            (&["a=b", "hedge-session=abc"], Some("abc")),
            (&["hedge-session=abc; hedge-session=abd"], None),
            (&["hedge-session=abc", "hedge-session=abc"], None),
            (&["hedge-session="], None),
            (&["hedge-session"], None),
            (&["__Host-hedge-session=abc; xhedge-session=abc"], None),
            (&[long.as_str()], None),
            (&[], None),
        ];
        for (lines, value) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, HeaderValue::from_str(line).unwrap());
            }
            let cookies = Cookies::of("http://localhost:8788");
            assert_eq!(cookies.session(&headers), value, "{lines:?}");
        }
    }
}
