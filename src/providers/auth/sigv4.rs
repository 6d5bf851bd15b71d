//! AWS Signature Version 4, for requests with a body that is there as a whole.
//!
//! After "Create a signed AWS API request" in the AWS General Reference and the IAM User Guide, read
//! 2026-11: the canonical request, the string to sign, the derived key. S3 differs (its paths are
//! encoded once) and is not meant.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use hashing::{HmacKey, sha256};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// Who signs, and for what.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// What is signed.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    pub method: &'a str,
    /// As it is sent.
    pub path: &'a str,
    /// As it is sent, without its question mark.
    pub query: Option<&'a str>,
    /// Names in lower case, and sorted, `host` and `x-amz-date` among them.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// The value of `authorization`. `date` is the value of `x-amz-date`, from [`amz_date`].
pub(super) fn authorization(identity: Identity<'_>, request: Signed<'_>, date: &str) -> String {
    let day = date.get(..8).unwrap_or_default();
    let Identity {
        access_key,
        region,
        service,
        ..
    } = identity;
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let digest = hex(&sha256(canonical(request)));
    let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{digest}");
    let mut key = format!("AWS4{}", identity.secret_key).into_bytes();
    for word in [day, region, service, "aws4_request", &to_sign] {
        key = keyed_hash(&key, word.as_bytes());
    }
    let (signature, names) = (hex(&key), names(request));
    format!(
        "{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
}

fn canonical(request: Signed<'_>) -> String {
    let mut text = format!(
        "{}\n{}\n{}\n",
        request.method,
        encoded(request.path),
        sorted(request.query.unwrap_or_default())
    );
    for (name, value) in request.headers {
        let mut words = value.split_ascii_whitespace();
        let value = words.by_ref().collect::<Vec<_>>().join(" ");
        writeln!(text, "{name}:{value}").expect("writing to memory cannot fail");
    }
    let names = names(request);
    let body = hex(&sha256(request.body));
    write!(text, "\n{names}\n{body}").expect("writing to memory cannot fail");
    text
}

fn names(request: Signed<'_>) -> String {
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    names.join(";")
}

/// A path as sent is encoded, and is encoded once more.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to memory cannot fail");
        }
    }
    text
}

fn sorted(query: &str) -> String {
    let fields = query.split('&').filter(|field| !field.is_empty());
    let mut fields: Vec<String> = fields
        .map(|field| {
            let has_value = field.contains('=');
            format!("{field}{}", if has_value { "" } else { "=" })
        })
        .collect();
    fields.sort_unstable();
    fields.join("&")
}

/// `YYYYMMDD'T'HHMMSS'Z'`, in UTC.
pub(super) fn amz_date(now: SystemTime) -> String {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (year, month, day) = civil(since / SECONDS_A_DAY);
    let second = since % SECONDS_A_DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. Counted in years that
/// begin in March, whose leap day is their last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / ERA, days % ERA);
    let years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = years + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn keyed_hash(key: &[u8], text: &[u8]) -> Vec<u8> {
    HmacKey::new(key).sign(text).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity<'_> = Identity {
        access_key: "AKIDEXAMPLE",
        secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        region: "us-east-1",
        service: "service",
    };
    const DATE: &str = "20150830T123600Z";
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");
    const DATED: (&str, &str) = ("x-amz-date", DATE);

    /// From AWS's signing test suite (github.com/awslabs/aws-c-auth, `tests/aws-signing-test-suite/v4`,
    /// files `header-signature.txt` and `header-canonical-request.txt`, read 2026-11).
    #[test]
    fn the_published_requests_have_the_published_signatures() {
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        let sts = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let body = "Param1=value1";
        let digest = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        let form = [
            ("content-length", "13"),
            ("content-type", "application/x-www-form-urlencoded"),
            HOST,
            ("x-amz-content-sha256", digest),
            DATED,
        ];
        let plain = [HOST, DATED];
        type Case<'a> = (
            &'a str,
            &'a str,
            Option<&'a str>,
            &'a [(&'a str, &'a str)],
            &'a str,
            &'a str,
        );
        let cases: &[Case<'_>] = &[
            (
                "GET",
                "/",
                None,
                &plain,
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                "/",
                None,
                &plain,
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "POST",
                "/",
                Some("Param1=value1"),
                &plain,
                "",
                "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
            ),
            (
                "POST",
                "/",
                None,
                &form,
                body,
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
            ),
            (
                "GET",
                "/",
                None,
                &[HOST, DATED, ("x-amz-security-token", token)],
                "",
                "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
            ),
            (
                "POST",
                "/",
                None,
                &[HOST, DATED, ("x-amz-security-token", sts)],
                "",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
            (
                "GET",
                "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                None,
                &plain,
                "",
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
            (
                "GET",
                "/ሴ",
                None,
                &plain,
                "",
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            ),
            (
                "GET",
                "/example space/",
                None,
                &plain,
                "",
                "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
            ),
        ];
        for &(method, path, query, headers, body, signature) in cases {
            let signed = Signed {
                method,
                path,
                query,
                headers,
                body: body.as_bytes(),
            };
            let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={}, Signature={signature}",
                names.join(";")
            );
            let seen = authorization(IDENTITY, signed, DATE);
            assert_eq!(seen, expected, "{method} {path} {query:?}");
        }
    }

    #[test]
    fn a_query_is_sorted_and_every_name_has_a_value() {
        assert_eq!(sorted("b=2&a&c=1&a=0"), "a=&a=0&b=2&c=1");
        assert_eq!(sorted(""), "");
    }

    /// Bedrock's model names hold colons, which are sent encoded and signed encoded twice.
    #[test]
    fn a_path_that_is_sent_encoded_is_encoded_once_more() {
        assert_eq!(
            encoded("/model/a.b-v1%3A0/converse"),
            "/model/a.b-v1%253A0/converse"
        );
    }

    #[test]
    fn a_date_is_written_in_utc() {
        let at = |seconds| amz_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_767_225_599, "20251231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(at(seconds), expected);
        }
    }
}
