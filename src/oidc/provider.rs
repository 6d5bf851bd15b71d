//! One provider at work: what is known of it, and the two steps of a sign-in.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use domain::{Attempt, AuthorizationResponse, Identity, IdentityProvider, SignInFault};
use hashing::sha256;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::claims::{ClaimPath, identity, is_short};
use crate::discovery::{ClientProof, Document, RawDocument};
use crate::error::{Asked, OidcError, Refusal, TokenFault};
use crate::fetch::{ask, ask_for};
use crate::issuer::{Issuer, RedirectUrl};
use crate::keys::{KeySet, RawKeySet};
use crate::token::{Agreed, Claims, text, verify};

/// For one step of a sign-in, with all that it asks and the wait for others who ask the same.
const STEP_MAX: Duration = Duration::from_secs(12);
/// How long what a provider says of itself is believed, and its keys; a key that is not known has them
/// fetched before that.
const KNOWN_MAX: Duration = Duration::from_secs(3600);

/// Wiped when it goes; its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(Zeroizing<String>);

impl ClientSecret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret")
    }
}

/// A provider, and what this node is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRules {
    pub issuer: Issuer,
    pub client_id: String,
    pub client_secret: ClientSecret,
    pub redirect_url: RedirectUrl,
    /// `openid` among them.
    pub scopes: Vec<String>,
    /// The claim that roles are read from; `None`: none is.
    pub roles: Option<ClaimPath>,
    /// Whether an address is of use, so that userinfo is asked for one that the token does not have.
    pub asks_email: bool,
}

/// A provider of OpenID Connect.
pub struct Provider {
    rules: ProviderRules,
    client: Client,
    /// Held while it is fetched: whoever else needs it waits for what comes of that, within `STEP_MAX`.
    document: Mutex<Option<Known<Document>>>,
    keys: Mutex<Option<Known<KeySet>>>,
}

struct Known<T> {
    it: Arc<T>,
    since: Instant,
}

/// An answer of the token endpoint. Of its tokens only these are of use.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: String,
}

#[derive(Deserialize)]
struct RawRefusal {
    error: String,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// `client` must follow no redirect: a code and a secret go where discovery said and nowhere else.
    #[must_use]
    pub fn new(rules: ProviderRules, client: Client) -> Self {
        Self {
            rules,
            client,
            document: Mutex::new(None),
            keys: Mutex::new(None),
        }
    }

    async fn address(&self, attempt: &Attempt) -> Result<Url, OidcError> {
        let mut url = self.document().await?.authorization.clone();
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(sha256(&attempt.verifier));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.rules.client_id)
            .append_pair("redirect_uri", self.rules.redirect_url.as_str())
            .append_pair("scope", &self.rules.scopes.join(" "))
            .append_pair("state", &attempt.state)
            .append_pair("nonce", &attempt.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    async fn identify(
        &self,
        attempt: &Attempt,
        returned: &AuthorizationResponse,
    ) -> Result<Identity, OidcError> {
        let document = self.document().await?;
        self.check_return(&document, returned)?;
        let tokens = self.redeem(&document, attempt, &returned.code).await?;
        let claims = self.judge(&document, &tokens.id_token, attempt).await?;
        let roles = self.rules.roles.as_ref();
        let userinfo = match &document.userinfo {
            Some(url) if is_short(&claims, roles, self.rules.asks_email) => {
                Some(self.userinfo(url, &tokens.access_token, &claims).await?)
            }
            _ => None,
        };
        Ok(identity(&claims, userinfo.as_ref(), roles))
    }

    /// A code of another provider's is not shown to this one (RFC 9207, section 2.4).
    fn check_return(
        &self,
        document: &Document,
        returned: &AuthorizationResponse,
    ) -> Result<(), OidcError> {
        let is_ours = match returned.issuer.as_deref() {
            None => !document.returns_issuer,
            Some(issuer) => issuer == self.rules.issuer.name(),
        };
        is_ours.then_some(()).ok_or(OidcError::ForeignReturn)
    }

    async fn redeem(
        &self,
        document: &Document,
        attempt: &Attempt,
        code: &str,
    ) -> Result<Tokens, OidcError> {
        let rules = &self.rules;
        let (id, secret) = (rules.client_id.as_str(), rules.client_secret.0.as_str());
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", rules.redirect_url.as_str()),
            ("code_verifier", attempt.verifier.as_str()),
        ];
        let mut request = self.asking(self.client.post(document.token.clone()));
        match document.proof {
            ClientProof::Basic => request = request.header(AUTHORIZATION, basic(id, secret)),
            ClientProof::Post => fields.extend([("client_id", id), ("client_secret", secret)]),
        }
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = request
            .header(reqwest::header::CONTENT_TYPE, kind)
            .body(form(&fields));
        let answer = ask(request, Asked::Token).await?;
        if answer.status != StatusCode::OK {
            let said = answer.read::<RawRefusal>(Asked::Token).ok();
            let code = said.as_ref().map(|it| it.error.as_str());
            return Err(OidcError::Refused(Refusal::of(answer.status, code)));
        }
        answer.read(Asked::Token)
    }

    /// A key that is not known may be a new one, as may one whose name is known, or that is not named: they
    /// are fetched once more, and no more often.
    async fn judge(
        &self,
        document: &Document,
        token: &str,
        attempt: &Attempt,
    ) -> Result<Claims, OidcError> {
        let agreed = Agreed {
            issuer: self.rules.issuer.name(),
            client: &self.rules.client_id,
            nonce: &attempt.nonce,
            now: unix_now(),
        };
        let keys = self.keys(document, None).await?;
        match verify(token, &keys, &agreed) {
            Err(TokenFault::UnknownKey | TokenFault::Signature) => {
                let newer = self.keys(document, Some(&keys)).await?;
                Ok(verify(token, &newer, &agreed)?)
            }
            verified => Ok(verified?),
        }
    }

    async fn userinfo(
        &self,
        url: &Url,
        access_token: &str,
        claims: &Claims,
    ) -> Result<Claims, OidcError> {
        let request = self.asking(self.client.get(url.clone()));
        let request = request.bearer_auth(access_token);
        let told: Claims = ask_for(request, Asked::UserInfo).await?;
        // OpenID Connect Core, section 5.3.2.
        if text(&told, "sub") != text(claims, "sub") {
            return Err(TokenFault::OtherSubject.into());
        }
        Ok(told)
    }

    async fn document(&self) -> Result<Arc<Document>, OidcError> {
        let mut known = self.document.lock().await;
        if let Some(fresh) = fresh(&known) {
            return Ok(fresh);
        }
        let request = self.asking(self.client.get(self.rules.issuer.document()));
        let raw: RawDocument = ask_for(request, Asked::Document).await?;
        Ok(keep(&mut known, raw.judge(&self.rules.issuer)?))
    }

    /// Those in force, and newer ones than `old`.
    async fn keys(
        &self,
        document: &Document,
        old: Option<&Arc<KeySet>>,
    ) -> Result<Arc<KeySet>, OidcError> {
        let mut known = self.keys.lock().await;
        if let Some(fresh) = fresh(&known)
            && old.is_none_or(|old| !Arc::ptr_eq(old, &fresh))
        {
            return Ok(fresh);
        }
        let request = self.asking(self.client.get(document.keys.clone()));
        let raw: RawKeySet = ask_for(request, Asked::Keys).await?;
        Ok(keep(&mut known, raw.judge()))
    }

    fn asking(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(ACCEPT, HeaderValue::from_static("application/json"))
    }
}

#[async_trait]
impl IdentityProvider for Provider {
    async fn begin(&self, attempt: &Attempt) -> Result<String, SignInFault> {
        let address = timeout(STEP_MAX, self.address(attempt)).await;
        let address = address.unwrap_or(Err(OidcError::TimedOut))?;
        Ok(address.into())
    }

    async fn finish(
        &self,
        attempt: &Attempt,
        returned: &AuthorizationResponse,
    ) -> Result<Identity, SignInFault> {
        let identity = timeout(STEP_MAX, self.identify(attempt, returned)).await;
        Ok(identity.unwrap_or(Err(OidcError::TimedOut))?)
    }
}

fn fresh<T>(known: &Option<Known<T>>) -> Option<Arc<T>> {
    let known = known.as_ref()?;
    (known.since.elapsed() < KNOWN_MAX).then(|| Arc::clone(&known.it))
}

fn keep<T>(known: &mut Option<Known<T>>, it: T) -> Arc<T> {
    let it = Arc::new(it);
    let since = Instant::now();
    *known = Some(Known {
        it: Arc::clone(&it),
        since,
    });
    it
}

/// Both are written as in a form first (RFC 6749, section 2.3.1).
fn basic(id: &str, secret: &str) -> HeaderValue {
    let words = |text| form_word(text);
    let pair = Zeroizing::new(format!("{}:{}", words(id), words(secret)));
    let value = format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes()));
    let mut value = HeaderValue::from_str(&value).expect("Base64 is of visible characters");
    value.set_sensitive(true);
    value
}

fn form(fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| format!("{name}={}", form_word(value));
    fields.iter().map(field).collect::<Vec<_>>().join("&")
}

/// Percent-encoded as `application/x-www-form-urlencoded` reads it; a space may be `%20` there too.
fn form_word(text: &str) -> String {
    let mut word = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                word.push(char::from(byte));
            }
            other => word.push_str(&format!("%{other:02X}")),
        }
    }
    word
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
