//! What a request asks for: RFC 9292, section 3.4.

use std::fmt;

use super::InvalidMessage;
use super::fields::is_token;
use crate::limits::CONTROL_BYTES_MAX;

/// Method and target, such as HTTP/2 could carry them (RFC 9113, section 8.3.1). `CONNECT`, which
/// has no path, is not among them.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestLine {
    method: String,
    scheme: String,
    authority: String,
    path: String,
}

impl RequestLine {
    /// # Errors
    /// [`InvalidMessage::Line`] where a part has bytes that it cannot have, spaces and line ends
    /// among them; [`InvalidMessage::TooLarge`].
    pub fn new(
        method: &str,
        scheme: &str,
        authority: &str,
        path: &str,
    ) -> Result<Self, InvalidMessage> {
        let parts = [method, scheme, authority, path];
        Self::from_parts(parts.map(|part| part.as_bytes().to_vec()).into())
    }

    /// The four, in the order of [`new`](Self::new).
    pub(super) fn from_parts(parts: Vec<Vec<u8>>) -> Result<Self, InvalidMessage> {
        if parts.iter().map(Vec::len).sum::<usize>() > CONTROL_BYTES_MAX {
            return Err(InvalidMessage::TooLarge);
        }
        let parts = <[Vec<u8>; 4]>::try_from(parts).map_err(|_| InvalidMessage::Line)?;
        let [method, scheme, authority, path] = parts;
        let is_right =
            is_token(&method) && is_scheme(&scheme) && is_authority(&authority) && is_path(&path);
        if !is_right {
            return Err(InvalidMessage::Line);
        }
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| InvalidMessage::Line);
        Ok(Self {
            method: text(method)?,
            scheme: text(scheme)?,
            authority: text(authority)?,
            path: text(path)?,
        })
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Empty where the request names its host in a field.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// With its query.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn parts(&self) -> [&str; 4] {
        [&self.method, &self.scheme, &self.authority, &self.path]
    }
}

/// RFC 3986, section 3.1.
fn is_scheme(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// No user and no path in it.
fn is_authority(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| byte.is_ascii_graphic() && !b"/?#@\\".contains(byte))
}

fn is_path(bytes: &[u8]) -> bool {
    let begins = bytes == b"*" || bytes.first() == Some(&b'/');
    begins
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
}

impl fmt::Debug for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RequestLine({} and {} bytes)",
            self.method,
            self.path.len()
        )
    }
}
