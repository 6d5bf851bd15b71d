//! How an upstream is told who asks.
//!
//! ```text
//! Auth, as configured ─► Credentials ─┬─ a header that never changes, sent with all the rest
//!                                     └─ headers for one request: a key from a file, a signature
//!                                        of the request, a token that somebody else issues
//! ```
//! A key never stands in a URL: servers and proxies log those.

mod credentials;
mod entra;
mod key_file;
mod sigv4;

use std::path::PathBuf;

use crate::Secret;

pub(crate) use credentials::{Credentials, Unsigned};

/// As configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    #[default]
    None,
    /// `Authorization: Bearer KEY`.
    Bearer(Key),
    /// A header of its own that holds the key and nothing else, such as `x-api-key`.
    Header { name: String, key: Key },
    /// AWS Signature Version 4.
    Aws(AwsKeys),
    /// A token of Microsoft Entra's, by a client's own credentials.
    Entra(EntraClient),
}

impl Auth {
    /// A bearer token that stays as it is.
    #[must_use]
    pub fn bearer(key: Secret) -> Self {
        Auth::Bearer(Key::Fixed(key))
    }

    /// What is sent as it stands, as a header's name and value.
    #[must_use]
    pub fn header(&self) -> Option<(&str, String)> {
        match self {
            Auth::Bearer(key) => {
                Some(("authorization", format!("Bearer {}", key.first().expose())))
            }
            Auth::Header { name, key } => Some((name, key.first().expose().to_owned())),
            Auth::None | Auth::Aws(_) | Auth::Entra(_) => None,
        }
    }
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Fixed(Secret),
    /// Read again while the node runs: whoever issues it may replace it. `first` is what the file
    /// held when the configuration was read.
    File {
        path: PathBuf,
        first: Secret,
    },
}

impl Key {
    #[must_use]
    pub fn first(&self) -> &Secret {
        match self {
            Key::Fixed(secret) => secret,
            Key::File { first, .. } => first,
        }
    }
}

/// An AWS identity, and where it acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    pub access_key: Key,
    pub secret_key: Key,
    /// For keys that end.
    pub session_token: Option<Key>,
    /// As `us-east-1`.
    pub region: String,
    /// The name that signatures know the service by, as `bedrock`.
    pub service: String,
}

/// A client of Microsoft Entra's, for the flow of client credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntraClient {
    /// As `https://login.microsoftonline.com/TENANT/oauth2/v2.0/token`.
    pub token_url: String,
    pub client_id: String,
    pub client_secret: Key,
    /// As `https://cognitiveservices.azure.com/.default`.
    pub scope: String,
}

#[cfg(test)]
mod tests;
