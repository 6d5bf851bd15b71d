//! What an upstream is configured with, and what may be wrong with it.

use std::fmt;
use std::time::Duration;

use domain::{BackendName, Trust};
use wire::ClientDialect;
use wire::openai::{Chat, Quirks};

use crate::{Auth, Continues};

/// One upstream.
#[derive(Clone, PartialEq)]
pub struct UpstreamConfig {
    pub name: BackendName,
    /// `http` or `https`, with any path before what the dialect puts after it
    /// (`https://api.openai.com/v1`). `{model}` in the path stands for the model.
    pub base_url: String,
    pub dialect: &'static dyn ClientDialect,
    /// Where it differs from the dialect.
    pub quirks: Quirks,
    /// Fields of the query of every address, such as `api-version`.
    pub query: Vec<(String, String)>,
    pub auth: Auth,
    /// The model that stands for this upstream when none is named.
    pub default_model: String,
    /// Further models. Empty: any name passes, which the card shows as a last model named `*`.
    pub models: Vec<String>,
    pub trust: Trust,
    /// Headers to add to every request, as `openai-organization`. Values are kept out of `Debug`.
    pub headers: Vec<(String, String)>,
    /// Further tries after a connection was refused or broke while it was made.
    pub connect_retries_max: u32,
    /// From asking for a connection to having one, per try.
    pub connect_timeout: Duration,
    /// From sending the request to a streamed reply's first event.
    pub first_event_timeout: Duration,
    /// From sending the request to the last byte of a reply asked for whole, which shows nothing
    /// before it is there.
    pub whole_reply_timeout: Duration,
    /// Between two reads of a streamed reply.
    pub idle_timeout: Duration,
    /// It takes vLLM's `structured_outputs`.
    pub structured_outputs: bool,
    /// Whether it takes images by address. `None`: as its dialect has it.
    pub image_urls: Option<bool>,
    /// Models that judge texts, the usual one first. Empty: it is not asked to.
    pub moderation_models: Vec<String>,
    /// Its provider promises that a request sent twice is worked on, and charged, once.
    pub is_idempotent: bool,
    /// How it goes on with an answer that another began.
    pub continues: Continues,
}

impl UpstreamConfig {
    pub const CONNECT_RETRIES_MAX_DEFAULT: u32 = 2;
    pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
    pub const FIRST_EVENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
    /// What OpenAI's own clients wait.
    pub const WHOLE_REPLY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);
    pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

    /// A speaker of OpenAI's chat completions with the default patience, no key and no further headers.
    #[must_use]
    pub fn new(
        name: impl Into<BackendName>,
        base_url: impl Into<String>,
        default_model: impl Into<String>,
        trust: Trust,
    ) -> Self {
        Self {
            name: name.into(),
            base_url: base_url.into(),
            dialect: &Chat,
            quirks: Quirks::default(),
            query: Vec::new(),
            auth: Auth::None,
            default_model: default_model.into(),
            models: Vec::new(),
            trust,
            headers: Vec::new(),
            connect_retries_max: Self::CONNECT_RETRIES_MAX_DEFAULT,
            connect_timeout: Self::CONNECT_TIMEOUT_DEFAULT,
            first_event_timeout: Self::FIRST_EVENT_TIMEOUT_DEFAULT,
            whole_reply_timeout: Self::WHOLE_REPLY_TIMEOUT_DEFAULT,
            idle_timeout: Self::IDLE_TIMEOUT_DEFAULT,
            structured_outputs: false,
            image_urls: None,
            moderation_models: Vec::new(),
            is_idempotent: false,
            continues: Continues::default(),
        }
    }
}

impl fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConfig")
            .field("name", &self.name)
            .field("dialect", &self.dialect)
            .field("auth", &self.auth)
            .field("default_model", &self.default_model)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// Why an upstream cannot be built. `field` names are those of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamConfigError {
    #[error("base_url does not parse as a URL; write it as https://host/v1")]
    UrlMalformed,
    #[error("base_url must begin with http:// or https://")]
    UrlScheme,
    #[error("base_url must not hold a user name or password; use key instead")]
    UrlCredentials,
    #[error("base_url must not have a query or a fragment")]
    UrlQuery,
    #[error(
        "token_url must be a URL as https://login.microsoftonline.com/TENANT/oauth2/v2.0/token"
    )]
    TokenUrl,
    #[error("the key holds characters that no header can carry")]
    KeyUnsendable,
    #[error("header {name:?} cannot be sent: its name or value is malformed")]
    HeaderMalformed { name: String },
    #[error("header {name:?} is set by hedge itself")]
    HeaderReserved { name: String },
    #[error("an upstream behind a relay has no key here; the relay has it")]
    KeyCarried,
    #[error("default_model must not be empty")]
    NoDefaultModel,
}
