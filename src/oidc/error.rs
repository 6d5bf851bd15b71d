//! What goes wrong between this node and a provider, and what it comes to for whoever signs in.

use domain::SignInFault;
use reqwest::StatusCode;
use serde_json::error::Category;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Document,
    Keys,
    Token,
    UserInfo,
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Document => "discovery document",
            Self::Keys => "keys",
            Self::Token => "token",
            Self::UserInfo => "userinfo",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("its {0} cannot be fetched")]
    Unreachable(Asked, #[source] reqwest::Error),
    #[error("it took too long")]
    TimedOut,
    #[error("it answers {1} where its {0} is asked for")]
    Status(Asked, StatusCode),
    #[error("its {asked} is longer than {bytes_max} bytes")]
    TooLong { asked: Asked, bytes_max: usize },
    #[error("its {0} is not the JSON that it should be")]
    Unreadable(Asked, #[source] Unlike),
    #[error("its discovery document is of another issuer: {0:?}")]
    OtherIssuer(String),
    #[error("its discovery document names no {0} that is https")]
    NoEndpoint(&'static str),
    #[error("it refused the code or the client: {0}")]
    Refused(Refusal),
    #[error("what came back is not of this provider")]
    ForeignReturn,
    #[error("its ID token is not good")]
    Token(#[source] TokenFault),
}

/// Where JSON is not as it should be. What stands there is not told: it may be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line}, column {column}")]
pub struct Unlike {
    what: &'static str,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for Unlike {
    fn from(error: serde_json::Error) -> Self {
        Self {
            what: match error.classify() {
                Category::Io | Category::Syntax => "it is no JSON",
                Category::Eof => "it breaks off",
                Category::Data => "it has a member too few, or one of another kind,",
            },
            line: error.line(),
            column: error.column(),
        }
    }
}

/// Why a provider gives no token (RFC 6749, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    InvalidClient,
    InvalidGrant,
    UnauthorizedClient,
    Other(StatusCode),
}

impl Refusal {
    pub fn of(status: StatusCode, code: Option<&str>) -> Self {
        match code {
            Some("invalid_client") => Self::InvalidClient,
            Some("invalid_grant") => Self::InvalidGrant,
            Some("unauthorized_client") => Self::UnauthorizedClient,
            _ => Self::Other(status),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InvalidClient => {
                f.write_str("invalid_client; look at client_id and client_secret")
            }
            Self::InvalidGrant => f.write_str("invalid_grant"),
            Self::UnauthorizedClient => f.write_str("unauthorized_client"),
            Self::Other(status) => write!(f, "{status}"),
        }
    }
}

/// Why an ID token proves nothing (OpenID Connect Core, section 3.1.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    #[error("it is no signed token")]
    Malformed,
    #[error("it is signed in a way that is not taken, or not at all")]
    Algorithm,
    #[error("none of the provider's keys is the one that it names")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for another client")]
    Audience,
    #[error("it is over")]
    Expired,
    #[error("it is not good yet; compare the clocks")]
    Early,
    #[error("it is of another sign-in")]
    Nonce,
    #[error("it names nobody")]
    Subject,
    #[error("userinfo is about somebody else")]
    OtherSubject,
}

impl From<TokenFault> for OidcError {
    fn from(fault: TokenFault) -> Self {
        Self::Token(fault)
    }
}

impl From<OidcError> for SignInFault {
    fn from(error: OidcError) -> Self {
        match &error {
            OidcError::Unreachable(..) | OidcError::TimedOut => Self::Away(error.into()),
            OidcError::Status(_, status) | OidcError::Refused(Refusal::Other(status))
                if is_passing(*status) =>
            {
                Self::Away(error.into())
            }
            OidcError::Refused(Refusal::InvalidGrant)
            | OidcError::ForeignReturn
            | OidcError::Token(_) => Self::Unproven(error.into()),
            OidcError::Status(..)
            | OidcError::TooLong { .. }
            | OidcError::Unreadable(..)
            | OidcError::OtherIssuer(_)
            | OidcError::NoEndpoint(_)
            | OidcError::Refused(_) => Self::Unusable(error.into()),
        }
    }
}

/// Whether another try may go otherwise.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}
