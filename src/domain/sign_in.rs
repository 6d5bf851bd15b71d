//! Signing in: that somebody is who an identity provider says, for the operator's page.

use std::error::Error;
use std::fmt;

use async_trait::async_trait;

/// What is known of one sign-in before it is over. Its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Comes back with the browser (RFC 6749, section 10.12).
    pub state: String,
    /// Comes back within what the provider signed (OpenID Connect Core, section 3.1.2.1).
    pub nonce: String,
    /// Shown to the provider alone, at the end: 43 unreserved characters (RFC 7636, section 4.1).
    pub verifier: String,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt")
    }
}

/// What a browser brings back from the provider.
#[derive(Clone)]
pub struct AuthorizationResponse {
    pub code: String,
    /// Whose code it is, where the provider says so (RFC 9207).
    pub issuer: Option<String>,
}

impl fmt::Debug for AuthorizationResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorizationResponse({} bytes)", self.code.len())
    }
}

/// Who somebody is, as the provider has vouched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The same for ever, and nobody else's at this provider.
    pub subject: String,
    /// Only one that the provider has verified.
    pub email: Option<String>,
    /// The values of the claim that roles are read from.
    pub roles: Vec<String>,
}

/// Whoever vouches for people.
///
/// Contract: both return within a time of the provider's own, whatever it is that they ask. Dropping
/// either leaves nothing behind.
#[async_trait]
pub trait IdentityProvider: Send + Sync + 'static {
    /// The address that a browser is sent to, so that its user may prove who he is.
    ///
    /// # Errors
    /// `Away` or `Unusable`.
    async fn begin(&self, attempt: &Attempt) -> Result<String, SignInFault>;

    /// Who came back. A code is good once.
    ///
    /// # Errors
    /// The provider cannot be asked, or does not vouch for him.
    async fn finish(
        &self,
        attempt: &Attempt,
        returned: &AuthorizationResponse,
    ) -> Result<Identity, SignInFault>;
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInFault {
    /// Later it may go.
    #[error("the identity provider does not answer")]
    Away(#[source] Box<dyn Error + Send + Sync>),
    /// It answers otherwise than was agreed: the operator has something to set right, here or there.
    #[error("the identity provider's answer cannot be used")]
    Unusable(#[source] Box<dyn Error + Send + Sync>),
    /// What came back proves nothing.
    #[error("the sign-in was not proven")]
    Unproven(#[source] Box<dyn Error + Send + Sync>),
}
