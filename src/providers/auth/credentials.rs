//! What says who asks, ready to be sent.

use std::time::SystemTime;

use domain::BackendError;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};

use super::entra::Tokens;
use super::key_file::KeyCell;
use super::sigv4::{self, Identity, Signed};
use super::{Auth, AwsKeys, Key};
use crate::{Secret, UpstreamConfigError};

const AMZ_DATE: &str = "x-amz-date";
const AMZ_TOKEN: &str = "x-amz-security-token";
/// What stands in a message where the upstream repeated a secret of ours.
const PLACEHOLDER: &str = "[key]";

#[derive(Debug)]
pub(crate) enum Credentials {
    None,
    /// Among the headers that every request has. The secret is kept to keep it out of what an
    /// upstream's errors pass on.
    Settled {
        header: (HeaderName, HeaderValue),
        secret: Secret,
    },
    Filed {
        name: HeaderName,
        key: KeyCell,
    },
    Aws(Signer),
    Entra(Tokens),
}

/// Who signs.
#[derive(Debug)]
pub(crate) struct Signer {
    access_key: KeyCell,
    secret_key: KeyCell,
    session_token: Option<KeyCell>,
    region: String,
    service: String,
}

/// A request before it says who asks: a POST of JSON.
#[derive(Clone, Copy)]
pub(crate) struct Unsigned<'a> {
    pub url: &'a Url,
    pub content_type: &'a str,
    pub body: &'a [u8],
}

impl Credentials {
    pub fn new(auth: &Auth, client: &Client) -> Result<Self, UpstreamConfigError> {
        match auth {
            Auth::None => Ok(Credentials::None),
            Auth::Bearer(key) => Self::in_header(AUTHORIZATION, key),
            Auth::Header { name, key } => {
                let parsed = name.parse();
                let malformed = |_| UpstreamConfigError::HeaderMalformed { name: name.clone() };
                Self::in_header(parsed.map_err(malformed)?, key)
            }
            Auth::Aws(keys) => Ok(Credentials::Aws(Signer::new(keys)?)),
            Auth::Entra(config) => Ok(Credentials::Entra(Tokens::new(config, client.clone())?)),
        }
    }

    fn in_header(name: HeaderName, key: &Key) -> Result<Self, UpstreamConfigError> {
        let value = value(&name, key.first()).ok_or(UpstreamConfigError::KeyUnsendable)?;
        Ok(match key {
            Key::Fixed(secret) => Credentials::Settled {
                header: (name, value),
                secret: secret.clone(),
            },
            Key::File { .. } => Credentials::Filed {
                name,
                key: KeyCell::new(key),
            },
        })
    }

    /// The header that every request has.
    pub fn settled(&self) -> Option<&(HeaderName, HeaderValue)> {
        match self {
            Credentials::Settled { header, .. } => Some(header),
            Credentials::None
            | Credentials::Filed { .. }
            | Credentials::Aws(_)
            | Credentials::Entra(_) => None,
        }
    }

    /// A header with the key as it was last, for pages that are asked beside the chats.
    pub fn known(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Credentials::Settled { header, .. } => Some(header.clone()),
            Credentials::Filed { name, key } => Some((name.clone(), value(name, &key.known())?)),
            Credentials::None | Credentials::Aws(_) | Credentials::Entra(_) => None,
        }
    }

    /// Headers for this one request, beside those that all have.
    ///
    /// # Errors
    /// [`BackendError::Credentials`] when there are none to be had.
    pub async fn for_request(&self, request: Unsigned<'_>) -> Result<HeaderMap, BackendError> {
        let mut headers = HeaderMap::new();
        match self {
            Credentials::None | Credentials::Settled { .. } => {}
            Credentials::Filed { name, key } => {
                let value = value(name, &key.current().await).ok_or(UNSENDABLE)?;
                headers.insert(name, value);
            }
            Credentials::Aws(signer) => signer.sign(request, &mut headers).await?,
            Credentials::Entra(tokens) => {
                let token = tokens.current().await?;
                let value = value(&AUTHORIZATION, &token).ok_or(UNSENDABLE)?;
                headers.insert(AUTHORIZATION, value);
            }
        }
        Ok(headers)
    }

    /// The upstream refused what was sent: what can be replaced is looked at again.
    pub fn refused(&self) {
        match self {
            Credentials::None | Credentials::Settled { .. } => {}
            Credentials::Filed { key, .. } => key.refused(),
            Credentials::Aws(signer) => signer.cells().for_each(KeyCell::refused),
            Credentials::Entra(tokens) => tokens.refused(),
        }
    }

    /// Takes every secret of ours out of an upstream's words: some repeat the key they refuse.
    pub fn conceal(&self, text: &mut String) {
        for secret in self.secrets() {
            if !secret.expose().is_empty() && text.contains(secret.expose()) {
                *text = text.replace(secret.expose(), PLACEHOLDER);
            }
        }
    }

    fn secrets(&self) -> Vec<Secret> {
        match self {
            Credentials::None => Vec::new(),
            Credentials::Settled { secret, .. } => vec![secret.clone()],
            Credentials::Filed { key, .. } => vec![key.known()],
            Credentials::Aws(signer) => signer.cells().map(KeyCell::known).collect(),
            Credentials::Entra(tokens) => tokens.secrets(),
        }
    }
}

/// A key came to hold what no header can carry.
const UNSENDABLE: BackendError = BackendError::Credentials { status: 401 };

fn value(name: &HeaderName, secret: &Secret) -> Option<HeaderValue> {
    let text = if *name == AUTHORIZATION {
        HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
    } else {
        HeaderValue::from_str(secret.expose())
    };
    let mut value = text.ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Signer {
    fn new(keys: &AwsKeys) -> Result<Self, UpstreamConfigError> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let token = keys.session_token.as_ref();
        let sent = [Some(&keys.access_key), token].into_iter().flatten();
        if !sent.map(Key::first).all(|key| plain(key.expose())) {
            return Err(UpstreamConfigError::KeyUnsendable);
        }
        Ok(Self {
            access_key: KeyCell::new(&keys.access_key),
            secret_key: KeyCell::new(&keys.secret_key),
            session_token: token.map(KeyCell::new),
            region: keys.region.clone(),
            service: keys.service.clone(),
        })
    }

    fn cells(&self) -> impl Iterator<Item = &KeyCell> {
        [&self.access_key, &self.secret_key]
            .into_iter()
            .chain(&self.session_token)
    }

    async fn sign(
        &self,
        request: Unsigned<'_>,
        headers: &mut HeaderMap,
    ) -> Result<(), BackendError> {
        let access_key = self.access_key.current().await;
        let secret_key = self.secret_key.current().await;
        let token = match &self.session_token {
            Some(token) => Some(token.current().await),
            None => None,
        };
        let date = sigv4::amz_date(SystemTime::now());
        let host = authority(request.url);
        let mut signed = vec![
            (CONTENT_TYPE.as_str(), request.content_type),
            (HOST.as_str(), host.as_str()),
            (AMZ_DATE, date.as_str()),
        ];
        let token = token.as_ref().map(Secret::expose);
        signed.extend(token.map(|token| (AMZ_TOKEN, token)));
        let identity = Identity {
            access_key: access_key.expose(),
            secret_key: secret_key.expose(),
            region: &self.region,
            service: &self.service,
        };
        let signature = sigv4::authorization(
            identity,
            Signed {
                method: "POST",
                path: request.url.path(),
                query: request.url.query(),
                headers: &signed,
                body: request.body,
            },
            &date,
        );
        let parsed = |text: &str| HeaderValue::from_str(text).map_err(|_| UNSENDABLE);
        headers.insert(AMZ_DATE, parsed(&date)?);
        let secrets = [
            (AUTHORIZATION.as_str(), Some(signature.as_str())),
            (AMZ_TOKEN, token),
        ];
        for (name, text) in secrets {
            if let Some(text) = text {
                let mut value = parsed(text)?;
                value.set_sensitive(true);
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Ok(())
    }
}

/// As `host` has it: with a port where it is not the scheme's own.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
