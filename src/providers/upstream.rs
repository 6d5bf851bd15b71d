//! An upstream as a [`Backend`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::{
    Abilities, Ability, Backend, BackendCard, BackendError, Carrier, ChatRequest, ChatStream,
    Delivery, Dialect, Embeddings, Health, ImageAddresses, ModelCard, Moderation, Outbound, Resume,
    Tier, TimeoutPhase, Trust,
};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use reqwest::{Body, Client, RequestBuilder, Url};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, warn};
use wire::ClientDialect;
use wire::completions::Completions;
use wire::openai::{ErrorReply, Quirks, resuming};

use crate::auth::{Credentials, Unsigned};
use crate::breaker::Breaker;
use crate::direct::Direct;
use crate::link::Port;
use crate::one_call::kept_to_one_call;
use crate::reading::{Patience, read_answer};
use crate::refusal::{Trace, read_refusal};
use crate::response::Response;
use crate::sending::MarkedBody;
use crate::target::{Target, Targets};
use crate::{Auth, Continues, Transport, UpstreamConfig, UpstreamConfigError};

pub(crate) use carried::Carried;

/// Before the first retry; doubled for the next, then spread over half to one and a half.
const CONNECT_BACKOFF: Duration = Duration::from_millis(40);

/// Requests up to this are encoded on the network's threads, well within half a millisecond.
const ENCODE_INLINE_BYTES_MAX: usize = 64 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One upstream over HTTP.
///
/// Connects are retried; a request that a connection took is not. Health is learnt from chats:
/// after three in a row without a connection the upstream counts as down for five seconds.
#[derive(Debug)]
pub struct Upstream {
    card: BackendCard,
    speech: Speech,
    /// For prompts that are no chats, where it takes them.
    prompts: Option<Speech>,
    quirks: Arc<Quirks>,
    /// The dialect's, the operator's own, and what says who asks where that never changes.
    headers: HeaderMap,
    credentials: Credentials,
    connect_retries_max: u32,
    connect_timeout: Duration,
    first_event_timeout: Duration,
    whole_reply_timeout: Duration,
    idle_timeout: Duration,
    client: Client,
    way: Way,
    breaker: Breaker,
    image_urls: Option<bool>,
    moderation_models: Vec<String>,
    is_idempotent: bool,
    /// Its place in the link, if it is public.
    port: Option<Arc<Port>>,
    continues: Continues,
}

impl Upstream {
    /// A connect timeout of the transport's client bounds this upstream's from above.
    ///
    /// # Errors
    /// What is wrong with `config`.
    pub fn new(config: UpstreamConfig, transport: Transport) -> Result<Self, UpstreamConfigError> {
        Self::by(config, transport, None)
    }

    /// One whose requests `carrier` takes, instead of a connection. Of `base_url` only the path counts,
    /// as of `https://relay.invalid/v1`, and nothing here tries again to connect.
    ///
    /// # Errors
    /// What is wrong with `config`, which must have no key.
    pub fn carried(
        config: UpstreamConfig,
        transport: Transport,
        carrier: Arc<dyn Carrier>,
    ) -> Result<Self, UpstreamConfigError> {
        if config.auth != Auth::None {
            return Err(UpstreamConfigError::KeyCarried);
        }
        Self::by(config, transport, Some(carrier))
    }

    fn by(
        config: UpstreamConfig,
        transport: Transport,
        carrier: Option<Arc<dyn Carrier>>,
    ) -> Result<Self, UpstreamConfigError> {
        let speech = Speech::new(&config.base_url, &config.query, config.dialect)?;
        let targets = &speech.targets;
        // The two have all but the path in common.
        let takes_prompts = config.dialect.dialect() == Dialect::OpenAi;
        let prompts = takes_prompts
            .then(|| Speech::new(targets.base().as_str(), &config.query, &Completions));
        let credentials = Credentials::new(&config.auth, transport.client())?;
        let headers = headers(&config, &credentials)?;
        // Whether a carrier's relays can be reached, it knows itself.
        let has_port = config.trust == Trust::Public && carrier.is_none();
        let port = has_port.then(|| transport.port_to(targets.base()));
        let port = port.flatten();
        let way = match carrier {
            Some(carrier) => Way::Carrier(carrier),
            None => match transport.direct_to(targets.base(), config.connect_timeout) {
                Some(direct) => {
                    let agent = transport.user_agent();
                    let road = Road::new(direct, config.dialect, &headers, agent);
                    Way::Direct(Box::new(road))
                }
                None => Way::Client,
            },
        };
        let mut card = card(&config)?;
        // Carriers seal to relays.
        card.is_sealed = matches!(way, Way::Carrier(_));
        Ok(Self {
            way,
            speech,
            prompts: prompts.transpose()?,
            headers,
            card,
            quirks: Arc::new(config.quirks),
            credentials,
            connect_retries_max: config.connect_retries_max,
            connect_timeout: config.connect_timeout,
            first_event_timeout: config.first_event_timeout,
            whole_reply_timeout: config.whole_reply_timeout,
            idle_timeout: config.idle_timeout,
            client: transport.client().clone(),
            breaker: Breaker::new(Instant::now()),
            image_urls: config.image_urls,
            moderation_models: config.moderation_models,
            is_idempotent: config.is_idempotent,
            port,
            continues: config.continues,
        })
    }

    /// Sends until a connection takes the request. The tries end with the first one that did.
    async fn send(
        &self,
        call: &Outbound,
        target: &Target,
        body: Bytes,
    ) -> Result<Response, BackendError> {
        if let Way::Carrier(carrier) = &self.way {
            let carried = self.carry(&**carrier, call, target, body).await?;
            return Ok(Response::Carried(carried));
        }
        let own = self.credentials.for_request(Unsigned {
            url: &target.url,
            content_type: "application/json",
            body: &body,
        });
        let own = own.await?;
        let mut retries = 0;
        loop {
            let error = match self.send_once(call, target, &own, body.clone()).await {
                Ok(response) => {
                    self.breaker.reached();
                    self.port.iter().for_each(|port| port.reached());
                    return Ok(response);
                }
                Err(SendError::Unconnected) if retries < self.connect_retries_max => {
                    self.port
                        .iter()
                        .for_each(|port| port.missed(Instant::now()));
                    sleep(backoff(retries)).await;
                    retries += 1;
                    continue;
                }
                Err(SendError::Unconnected) => {
                    BackendError::Unreachable("no connection could be made")
                }
                Err(SendError::ConnectTimedOut) => BackendError::TimedOut(TimeoutPhase::Connect),
                Err(SendError::Broken) => {
                    return Err(BackendError::Unreachable(
                        "the connection broke before the reply began",
                    ));
                }
            };
            self.breaker.missed(Instant::now());
            self.port
                .iter()
                .for_each(|port| port.missed(Instant::now()));
            debug!(backend = %self.card.name, retries, "no connection to the upstream");
            return Err(error);
        }
    }

    async fn send_once(
        &self,
        call: &Outbound,
        target: &Target,
        own: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, SendError> {
        match &self.way {
            Way::Direct(road) => {
                let mut request = road.request(call, target, own, body);
                if let Some((name, betas)) = self.betas(call) {
                    request.headers_mut().append(name, betas);
                }
                let response = road.direct.send(request).await?;
                Ok(Response::Direct(response))
            }
            Way::Client | Way::Carrier(_) => self.send_by_client(call, target, own, body).await,
        }
    }

    async fn send_by_client(
        &self,
        call: &Outbound,
        target: &Target,
        own: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, SendError> {
        let (body, taken) = MarkedBody::new(body);
        let accept = self.accept(call);
        let mut request = self
            .client
            .post(target.url.clone())
            .headers(self.headers.clone())
            .headers(own.clone())
            .header(ACCEPT, accept)
            .body(Body::wrap(body));
        if let Ok(id) = HeaderValue::from_str(call.request_id().as_str()) {
            request = request.header(REQUEST_ID, id);
        }
        for (name, value) in trace_headers(call) {
            request = request.header(name, value);
        }
        if let Some((name, betas)) = self.betas(call) {
            request = request.header(name, betas);
        }
        let mut answer = pin!(request.send());
        let answer = tokio::select! {
            answer = &mut answer => answer,
            connected = timeout(self.connect_timeout, taken) => match connected {
                Ok(_) => answer.await,
                Err(_) => return Err(SendError::ConnectTimedOut),
            },
        };
        answer.map(Response::Client).map_err(|error| {
            match (error.is_connect(), error.is_timeout()) {
                (true, true) => SendError::ConnectTimedOut,
                (true, false) => SendError::Unconnected,
                (false, _) => SendError::Broken,
            }
        })
    }

    /// Those that the caller asked for, beside what the operator's headers say. Providers of other
    /// dialects do not know them.
    fn betas(&self, call: &Outbound) -> Option<(HeaderName, HeaderValue)> {
        let request = call.request();
        let dialect = self.speech.dialect;
        if request.betas.is_empty() || request.dialect != dialect.dialect() {
            return None;
        }
        let name = HeaderName::from_static(dialect.betas_header()?);
        let betas = HeaderValue::from_str(&request.betas.join(",")).ok()?;
        Some((name, betas))
    }

    fn accept(&self, call: &Outbound) -> HeaderValue {
        match call.request().delivery {
            Delivery::Whole => JSON,
            Delivery::Streamed { .. } => HeaderValue::from_static(self.speech.dialect.media_type()),
        }
    }

    /// A request for another page of the same server, with the same credentials.
    pub(crate) fn page(&self, url: Url) -> RequestBuilder {
        let mut headers = self.headers.clone();
        headers.remove(CONTENT_TYPE);
        headers.extend(self.credentials.known());
        self.client.get(url).headers(headers)
    }

    async fn refused(
        &self,
        dialect: &dyn ClientDialect,
        call: &Outbound,
        response: Response,
    ) -> BackendError {
        let understand = |body: &[u8]| self.understand(dialect, body);
        let refused = read_refusal(response, dialect, call.model(), understand).await;
        let Trace {
            status,
            code,
            their_id,
        } = refused.trace;
        let (backend, request_id) = (&self.card.name, call.request_id());
        if matches!(refused.error, BackendError::Credentials { .. }) {
            self.credentials.refused();
            warn!(%backend, %request_id, status, code, their_id, "the upstream refused the key");
        } else {
            debug!(%backend, %request_id, status, code, their_id, "the upstream refused");
        }
        refused.error
    }

    fn understand(&self, dialect: &dyn ClientDialect, body: &[u8]) -> Option<ErrorReply> {
        let mut reply = self.quirks.recognize(dialect.decode_error(body)?);
        let reason = &mut reply.reason;
        let words = [
            Some(&mut reason.message),
            reason.param.as_mut(),
            reason.code.as_mut(),
        ];
        for words in words.into_iter().flatten() {
            self.credentials.conceal(words);
        }
        Some(reply)
    }

    /// As [`Backend::chat`], for those who may have to ask elsewhere with the same call.
    pub(crate) async fn open(&self, call: &Outbound) -> Result<ChatStream, BackendError> {
        let is_streamed = matches!(call.request().delivery, Delivery::Streamed { .. });
        let first = if is_streamed {
            self.first_event_timeout
        } else {
            self.whole_reply_timeout
        };
        let patience = Patience {
            first_event_by: Instant::now() + first,
            idle: self.idle_timeout,
        };
        let Speech { dialect, targets } = self.speech_for(call)?;
        let target = targets.of(call.model(), call.request().delivery)?;
        let body = encode(*dialect, &self.quirks, call, self.continues).await?;
        let opened = timeout_at(patience.first_event_by, async {
            let response = self.send(call, &target, body).await?;
            if response.status() == http::StatusCode::OK {
                Ok(response)
            } else {
                Err(self.refused(*dialect, call, response).await)
            }
        });
        let response = opened
            .await
            .map_err(|_| BackendError::TimedOut(TimeoutPhase::FirstEvent))??;
        let stream = read_answer(response, *dialect, call.model(), is_streamed, patience).await?;
        Ok(kept_to_one_call(stream, call.request()))
    }

    fn speech_for(&self, call: &Outbound) -> Result<&Speech, BackendError> {
        if !call.request().is_raw() {
            return Ok(&self.speech);
        }
        // Of other candidates some may take it.
        self.prompts.as_ref().ok_or_else(|| {
            BackendError::declined(
                "prompt",
                "the model's provider takes chats alone; send messages, to /v1/chat/completions",
            )
        })
    }
}

/// How requests get to it.
#[derive(Debug)]
enum Way {
    /// Over connections of our own, without the client.
    Direct(Box<Road>),
    Client,
    Carrier(Arc<dyn Carrier>),
}

/// A dialect, and where it is spoken.
#[derive(Debug)]
struct Speech {
    dialect: &'static dyn ClientDialect,
    targets: Targets,
}

impl Speech {
    fn new(
        base_url: &str,
        query: &[(String, String)],
        dialect: &'static dyn ClientDialect,
    ) -> Result<Self, UpstreamConfigError> {
        let targets = Targets::new(base_url, query, dialect)?;
        Ok(Self { dialect, targets })
    }
}

#[async_trait]
impl Backend for Upstream {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        match &self.way {
            Way::Direct(_) | Way::Client => self.breaker.health(Instant::now()),
            Way::Carrier(carrier) => carrier.health(),
        }
    }

    fn repeats_safely(&self) -> bool {
        self.is_idempotent
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        self.open(&call).await
    }

    fn image_addresses(&self, request: &ChatRequest) -> ImageAddresses {
        match self.image_urls {
            Some(true) => return ImageAddresses::Taken,
            Some(false) => return ImageAddresses::Refused,
            None => {}
        }
        let dialect = self.speech.dialect;
        let takes = dialect.image_addresses();
        // A caller of the provider's own dialect knows what its addresses are.
        let is_own = request.source.as_ref().map(|source| source.dialect);
        if is_own == Some(dialect.dialect()) && takes == ImageAddresses::Doubtful {
            return ImageAddresses::Taken;
        }
        takes
    }

    fn resume(&self, _model: &str) -> Resume {
        self.continues.resume()
    }

    async fn embed(
        &self,
        call: Outbound,
        dimensions: Option<u32>,
    ) -> Result<Embeddings, BackendError> {
        self.vectors(&call, dimensions).await
    }

    fn moderation_models(&self) -> &[String] {
        &self.moderation_models
    }

    async fn moderate(&self, call: Outbound) -> Result<Moderation, BackendError> {
        self.judged(&call).await
    }
}

/// What of a request to this upstream is always the same, made once.
#[derive(Debug)]
struct Road {
    direct: Direct,
    for_whole: HeaderMap,
    for_streamed: HeaderMap,
}

impl Road {
    fn new(
        direct: Direct,
        dialect: &dyn ClientDialect,
        headers: &HeaderMap,
        user_agent: Option<&HeaderValue>,
    ) -> Self {
        let uri = direct.uri();
        let mut for_whole = headers.clone();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // What stands in a URI may stand in a header.
        if let Ok(host) = HeaderValue::from_str(authority) {
            for_whole.insert(HOST, host);
        }
        if let (Some(agent), false) = (user_agent, headers.contains_key(USER_AGENT)) {
            for_whole.insert(USER_AGENT, agent.clone());
        }
        let mut for_streamed = for_whole.clone();
        for_whole.insert(ACCEPT, JSON);
        let stream_type = HeaderValue::from_static(dialect.media_type());
        for_streamed.insert(ACCEPT, stream_type);
        Self {
            direct,
            for_whole,
            for_streamed,
        }
    }

    fn request(
        &self,
        call: &Outbound,
        target: &Target,
        own: &HeaderMap,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let headers = match call.request().delivery {
            Delivery::Whole => &self.for_whole,
            Delivery::Streamed { .. } => &self.for_streamed,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&target.uri);
        request.headers_mut().clone_from(headers);
        for (name, value) in own {
            request.headers_mut().insert(name, value.clone());
        }
        if let Ok(id) = HeaderValue::from_str(call.request_id().as_str()) {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        request.headers_mut().extend(trace_headers(call));
        request
    }
}

/// Of the trace that the call is of, where somebody traces it. What is sealed to a relay goes without: the
/// relay is told who asks by nothing but the edge's proof.
fn trace_headers(call: &Outbound) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let parent = call.trace().and_then(|trace| {
        let value = HeaderValue::try_from(trace.for_call()).ok()?;
        Some((TRACE_PARENT, value))
    });
    let state = call.trace().and_then(|trace| {
        let value = HeaderValue::from_str(trace.state.as_deref()?).ok()?;
        Some((TRACE_STATE, value))
    });
    parent.into_iter().chain(state)
}

/// How one try to send ended without a response, by what to do next.
pub(crate) enum SendError {
    /// Refused, or broken while it was made: nothing was sent.
    Unconnected,
    ConnectTimedOut,
    /// A connection took the request; whether the upstream worked on it is unknown.
    Broken,
}

/// The body to send. Long ones are written where they hold up nobody.
async fn encode(
    dialect: &'static dyn ClientDialect,
    quirks: &Arc<Quirks>,
    call: &Outbound,
    continues: Continues,
) -> Result<Bytes, BackendError> {
    let write = move |quirks: &Quirks, call: &Outbound| {
        let body = encode_here(dialect, call, continues)?;
        quirks.alter(body)
    };
    if call.body_bytes() <= ENCODE_INLINE_BYTES_MAX {
        return write(quirks, call);
    }
    let (quirks, call) = (Arc::clone(quirks), call.clone());
    let work = tokio::task::spawn_blocking(move || write(&quirks, &call));
    work.await
        .map_err(|_| BackendError::Unreachable("the request could not be written"))?
}

fn encode_here(
    dialect: &dyn ClientDialect,
    call: &Outbound,
    continues: Continues,
) -> Result<Bytes, BackendError> {
    if call.is_resuming() {
        let request = resuming(call.request(), continues.words());
        return dialect.encode_request(call.model(), &request);
    }
    dialect.encode_request(call.model(), call.request())
}

fn backoff(retries: u32) -> Duration {
    let spread: f64 = rand::random_range(0.5..1.5);
    (CONNECT_BACKOFF * 2_u32.pow(retries)).mul_f64(spread)
}

fn headers(
    config: &UpstreamConfig,
    credentials: &Credentials,
) -> Result<HeaderMap, UpstreamConfigError> {
    let reserved = [
        ACCEPT,
        AUTHORIZATION,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        HOST,
        REQUEST_ID,
        TRANSFER_ENCODING,
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in config.dialect.headers() {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    for (name, value) in &config.headers {
        let malformed = || UpstreamConfigError::HeaderMalformed { name: name.clone() };
        let parsed: HeaderName = name.parse().map_err(|_| malformed())?;
        // `authorization` is for `key`.
        if reserved.contains(&parsed) {
            return Err(UpstreamConfigError::HeaderReserved { name: name.clone() });
        }
        let mut value = HeaderValue::from_str(value).map_err(|_| malformed())?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    headers.insert(CONTENT_TYPE, JSON);
    if let Some((name, value)) = credentials.settled() {
        headers.insert(name, value.clone());
    }
    Ok(headers)
}

/// An upstream judges a request for itself. Constraints it must be known to take: some servers pass
/// over what they do not know, and would answer in free text.
pub(crate) fn card(config: &UpstreamConfig) -> Result<BackendCard, UpstreamConfigError> {
    if config.default_model.is_empty() {
        return Err(UpstreamConfigError::NoDefaultModel);
    }
    let abilities: Abilities = Ability::ALL
        .into_iter()
        .filter(|ability| *ability != Ability::Constraints || config.structured_outputs)
        .collect();
    let mut names = vec![config.default_model.as_str()];
    let listed = config.models.iter().map(String::as_str);
    for name in listed.filter(|name| *name != ANY_MODEL) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if config.models.is_empty() || config.models.iter().any(|name| name == ANY_MODEL) {
        names.push(ANY_MODEL);
    }
    let model_card = |name: &str| ModelCard {
        name: name.to_owned(),
        context_tokens_max: None,
        abilities,
    };
    Ok(BackendCard {
        name: config.name.clone(),
        tier: Tier::Upstream,
        is_sealed: false,
        trust: config.trust,
        models: names.into_iter().map(model_card).collect(),
    })
}

/// The card's last model where any name passes.
const ANY_MODEL: &str = "*";

mod asking;
mod carried;
mod embed;
mod moderate;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
