//! One request on one connection: through the gate, to the chat or the router, and out with an id.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use domain::{Dialect, Fault};
use futures::FutureExt;
use http::{Method, Request, Response};
use tower::ServiceExt;
use tracing::error;
use wire::{Address, ServerDialect};

use crate::asked::answered;
use crate::doors::{chat_at, refuser, restyle};
use crate::error::refusal;
use crate::gate::Gate;
use crate::line::Signs;
use crate::operators::{Doorkeeper, Operator, TurnedAway};
use crate::reading::Reading;
use crate::request_id::{self, ExchangeId, REQUEST_ID, X_REQUEST_ID};
use crate::router::{
    COUNT_PATH, DETOKENIZE_PATH, Door, EMBEDDINGS_PATH, FEEDBACK_PATH, MODERATIONS_PATH,
    RERANK_PATHS, TEMPLATE_PATH, TOKENIZE_PATH, router,
};
use crate::server::Api;
use crate::sign_in::SignIn;
use crate::{chat, cors, count, embeddings, feedback, moderations, ollama, reading, rerank};

/// What a connection holds of a request beside what answers it; a test would not see it grow.
const DECIDING_BYTES_MAX: usize = 4096;

/// What all connections of one listener share.
#[derive(Debug)]
pub(crate) struct Front {
    pub api: Arc<Api>,
    gate: Gate,
    router: Router,
    door: Door,
}

impl Front {
    pub fn new(api: Arc<Api>, door: Door, is_loopback: bool) -> Self {
        Self {
            gate: Gate::new(&api.ingress, is_loopback),
            router: router(Arc::clone(&api), door),
            door,
            api,
        }
    }

    /// Answers one request. Never fails, never panics.
    pub async fn answer<B>(&self, signs: &Arc<Signs>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let id = request_id::of(request.headers());
        signs.set_unread(!request.body().is_end_stream());
        let refuser = refuser(request.uri().path(), request.headers());
        let deciding = self.decide(&id, signs, request);
        debug_assert!(size_of_val(&deciding) <= DECIDING_BYTES_MAX);
        let caught = AssertUnwindSafe(deciding).catch_unwind().await;
        let mut response = caught.unwrap_or_else(|_| {
            error!(request_id = %id.id, "request handler panicked");
            refusal(&Fault::Internal)
        });
        self.finish(&mut response, id, refuser);
        response
    }

    /// What every answer gets on its way out: to a caller that reads refusals in `refuser`'s dialect.
    pub fn finish(
        &self,
        response: &mut Response<Body>,
        id: ExchangeId,
        refuser: Option<&'static dyn ServerDialect>,
    ) {
        restyle(response, refuser, id.id.as_str());
        if refuser.is_some_and(|dialect| dialect.dialect() == Dialect::Anthropic) {
            response.headers_mut().insert(REQUEST_ID, id.header.clone());
        }
        self.api.tally.count_answer(response.status());
        response.headers_mut().insert(X_REQUEST_ID, id.header);
    }

    /// What answers is in boxes: this future is a part of its connection's for as long as that is open,
    /// and moved with each request.
    async fn decide<B>(
        &self,
        id: &ExchangeId,
        signs: &Arc<Signs>,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let sign_in = match self.door {
            Door::Admin => self.api.sign_in(),
            Door::Client { .. } => None,
        };
        let home = sign_in.as_ref().map(|it| it.home());
        let origin = match self.gate.check(request.uri(), request.headers(), home) {
            Ok(origin) => origin,
            Err(fault) => return refusal(&fault),
        };
        let is_preflight = cors::is_preflight(request.method(), request.headers());
        let mut request = request;
        // A browser asks without a token whether its page may ask.
        if self.door == Door::Admin && !(is_preflight && origin.is_some()) {
            match self.operator(sign_in.as_deref(), &request) {
                Ok(operator) => request.extensions_mut().insert(operator),
                Err(away) => return away.answer(),
            };
        }
        let mut response = if is_preflight && origin.is_some() {
            cors::preflight(request.headers())
        } else if let Some((dialect, address)) = self.chat(&request) {
            let door = chat::Door { dialect, address };
            Box::pin(chat::answer(&self.api, &id.id, signs, request, door)).await
        } else if self.is_post(&request, COUNT_PATH) {
            Box::pin(answered(&self.api, signs, request, |asked| {
                count::answer(&self.api, &id.id, asked)
            }))
            .await
        } else if self.is_post(&request, EMBEDDINGS_PATH) {
            Box::pin(answered(&self.api, signs, request, |asked| {
                embeddings::answer(&self.api, &id.id, asked)
            }))
            .await
        } else if self.is_post(&request, FEEDBACK_PATH) {
            Box::pin(answered(&self.api, signs, request, |asked| {
                feedback::answer(&self.api, asked)
            }))
            .await
        } else if self.is_post(&request, MODERATIONS_PATH) {
            Box::pin(moderations::answer(&self.api, &id.id, signs, request)).await
        } else if RERANK_PATHS.iter().any(|path| self.is_post(&request, path)) {
            Box::pin(answered(&self.api, signs, request, |asked| {
                rerank::answer(&self.api, &id.id, asked)
            }))
            .await
        } else if let Some(asked) = self.ollama(&request) {
            Box::pin(ollama::answer(&self.api, &id.id, signs, request, asked)).await
        } else if let Some(reading) = self.reading(&request) {
            Box::pin(answered(&self.api, signs, request, |asked| {
                reading::answer(&self.api, &id.id, asked, reading)
            }))
            .await
        } else {
            let request = request.map(Body::new);
            Box::pin(self.router.clone().oneshot(request))
                .await
                .unwrap_or_else(|never| match never {})
        };
        if let Some(origin) = origin {
            cors::allow(&mut response, origin);
        }
        response
    }

    fn operator<B>(
        &self,
        sign_in: Option<&SignIn>,
        request: &Request<B>,
    ) -> Result<Operator, TurnedAway> {
        let doorkeeper = Doorkeeper {
            tokens: &self.api.tokens.load(),
            sign_in,
            pipeline: &self.api.pipeline,
        };
        doorkeeper.admit(request.method(), request.uri().path(), request.headers())
    }

    fn chat<B>(&self, request: &Request<B>) -> Option<(&'static dyn ServerDialect, Address)> {
        let is_asked = matches!(self.door, Door::Client { .. }) && request.method() == Method::POST;
        is_asked.then(|| chat_at(request.uri())).flatten()
    }

    fn ollama<B>(&self, request: &Request<B>) -> Option<ollama::Post> {
        let mut posts = ollama::POSTS.into_iter();
        posts.find_map(|(path, post)| self.is_post(request, path).then_some(post))
    }

    fn reading<B>(&self, request: &Request<B>) -> Option<Reading> {
        let readings = [
            (TOKENIZE_PATH, Reading::Tokenize),
            (DETOKENIZE_PATH, Reading::Detokenize),
            (TEMPLATE_PATH, Reading::Template),
        ];
        let mut readings = readings.into_iter();
        readings.find_map(|(path, reading)| self.is_post(request, path).then_some(reading))
    }

    fn is_post<B>(&self, request: &Request<B>, path: &str) -> bool {
        matches!(self.door, Door::Client { .. })
            && request.method() == Method::POST
            && request.uri().path() == path
    }
}
