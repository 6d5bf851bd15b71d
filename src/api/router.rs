//! Everything but the chat itself: models, probes, and clear words for wrong turns.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, get, on, post};
use domain::Fault;
use http::header::ALLOW;
use http::{HeaderValue, Response, Uri};

use crate::doors::{CHAT_PATH, COMPLETIONS_PATH, GEMINI_PATH, MESSAGES_PATH, chat_at, chat_paths};
use crate::error::{refusal, refusal_with_hint};
use crate::rights::{ERASE_PATH, EXPORT_PATH};
use crate::server::Api;
use crate::sign_in::{CALLBACK_PATH, LOGIN_PATH, LOGOUT_PATH, SIGNED_OUT_PATH};
use crate::texts::BELOW_RECORDS;
use crate::{
    failing, kept, keys, limits, loaded, models, ollama, openapi, operators, page, probes, records,
    responses, rights, sign_in, texts,
};

/// Which door a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// For callers of the API. Shows metrics as well where only this machine can reach it.
    Client { is_loopback: bool },
    /// For the operator.
    Admin,
}

/// On the admin listener alone.
const BOARD_PATH: &str = "/admin/v1/models";
const HEALTH_PATH: &str = "/admin/health";
const RECORDS_PATH: &str = "/admin/v1/records";
const TEXT_PATH: &str = "/admin/v1/records/{id}/text";
const SAVINGS_PATH: &str = "/admin/v1/savings";
const OVERVIEW_PATH: &str = "/admin/v1/overview";
const LIMITS_PATH: &str = "/admin/v1/limits";
const KEYS_PATH: &str = "/admin/v1/keys";
const KEY_PATH: &str = "/admin/v1/keys/{name}";
const ROTATE_PATH: &str = "/admin/v1/keys/{name}/rotate";
const TEAMS_PATH: &str = "/admin/v1/teams";
const TEAM_PATH: &str = "/admin/v1/teams/{name}";
const OPERATOR_PATH: &str = "/admin/v1/operator";
const CACHE_PATH: &str = "/admin/v1/cache";
const PURGE_PATH: &str = "/admin/v1/cache/purge";
const EXPLAIN_PATH: &str = "/admin/v1/cache/requests/{id}";
pub(crate) const FEEDBACK_PATH: &str = "/v1/feedback";
pub(crate) const EMBEDDINGS_PATH: &str = "/v1/embeddings";
pub(crate) const COUNT_PATH: &str = "/v1/messages/count_tokens";
/// One thing by the names that Jina, Cohere, vLLM and llama-server have for it.
pub(crate) const RERANK_PATHS: [&str; 4] = ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"];
pub(crate) const MODERATIONS_PATH: &str = "/v1/moderations";
pub(crate) const TOKENIZE_PATH: &str = "/tokenize";
pub(crate) const DETOKENIZE_PATH: &str = "/detokenize";
pub(crate) const TEMPLATE_PATH: &str = "/apply-template";

pub(crate) fn router(api: Arc<Api>, door: Door) -> Router {
    let probes = Router::new()
        .route("/healthz", get(probes::healthz).fallback(only_get))
        .route("/readyz", get(probes::readyz).fallback(only_get));
    let metrics = || get(probes::metrics).fallback(only_get);
    let router = match door {
        Door::Client { is_loopback } => {
            let posted = chat_paths().chain([COUNT_PATH, EMBEDDINGS_PATH, FEEDBACK_PATH]);
            let posted = posted.chain(RERANK_PATHS).chain([MODERATIONS_PATH]);
            let posted = posted.chain([TOKENIZE_PATH, DETOKENIZE_PATH, TEMPLATE_PATH]);
            let posted = posted.chain(ollama::POSTS.map(|(path, _)| path));
            let client = posted
                .fold(probes, |router, path| router.route(path, any(only_post)))
                .route(
                    "/v1/responses/{id}",
                    get(responses::one)
                        .delete(responses::remove)
                        .fallback(only_get_delete),
                )
                .route(
                    "/v1/responses/{id}/input_items",
                    get(responses::items).fallback(only_get),
                )
                .route(
                    "/v1/responses/{id}/cancel",
                    post(responses::cancel).fallback(only_post),
                )
                .route("/openapi.json", get(openapi::document).fallback(only_get))
                .route("/v1/models", get(models::list).fallback(only_get))
                .route("/v1/models/{*id}", get(models::one).fallback(only_get))
                .route("/", get(ollama::running).fallback(only_get))
                .route("/api/tags", get(ollama::tags).fallback(only_get))
                .route("/api/ps", get(ollama::running_models).fallback(only_get))
                .route("/api/version", get(ollama::version).fallback(only_get))
                .route(&format!("{GEMINI_PATH}{{*rest}}"), any(gemini));
            let keeping = ollama::KEEPING.into_iter();
            let client = keeping.fold(client, |router, (path, methods, allowed)| {
                let others = move || async move { wrong_method(allowed) };
                router.route(path, on(methods, ollama::not_kept).fallback(others))
            });
            if is_loopback {
                let metrics = get(probes::metrics_of_one).fallback(only_get);
                client.route("/metrics", metrics)
            } else {
                client
            }
        }
        Door::Admin => desk(probes)
            .route("/metrics", metrics())
            .route(BOARD_PATH, get(loaded::list).fallback(only_get))
            .route(RECORDS_PATH, get(records::latest).fallback(only_get))
            .route(TEXT_PATH, get(texts::show).fallback(only_get))
            .route(SAVINGS_PATH, get(records::savings).fallback(only_get))
            .route(OVERVIEW_PATH, get(records::overview).fallback(only_get))
            .route(LIMITS_PATH, get(limits::list).fallback(only_get))
            .route("/admin", get(page::text).fallback(only_get))
            .route("/admin/page.css", get(page::style).fallback(only_get))
            .route("/admin/page.js", get(page::script).fallback(only_get))
            .route(OPERATOR_PATH, get(operators::whoami).fallback(only_get))
            .route(LOGIN_PATH, get(sign_in::login).fallback(only_get))
            .route(CALLBACK_PATH, get(sign_in::callback).fallback(only_get))
            .route(SIGNED_OUT_PATH, get(sign_in::signed_out).fallback(only_get))
            .route(LOGOUT_PATH, post(sign_in::logout).fallback(only_post))
            .route(HEALTH_PATH, get(failing::health).fallback(only_get))
            .route(CACHE_PATH, get(kept::stats).fallback(only_get))
            .route(EXPLAIN_PATH, get(kept::explain).fallback(only_get))
            .route(PURGE_PATH, post(kept::purge).fallback(only_post))
            .merge(somebodys()),
    };
    router.fallback(not_found).with_state(api)
}

/// Keys and teams.
fn desk(router: Router<Arc<Api>>) -> Router<Arc<Api>> {
    let desk = Router::new()
        .route(
            KEYS_PATH,
            get(keys::list).post(keys::make).fallback(only_get_post),
        )
        .route(
            KEY_PATH,
            get(keys::show)
                .patch(keys::change)
                .delete(keys::remove)
                .fallback(only_get_patch_delete),
        )
        .route(ROTATE_PATH, post(keys::rotate).fallback(only_post))
        .route(
            TEAMS_PATH,
            get(keys::list_teams)
                .post(keys::make_team)
                .fallback(only_get_post),
        )
        .route(
            TEAM_PATH,
            get(keys::show_team)
                .patch(keys::change_team)
                .delete(keys::remove_team)
                .fallback(only_get_patch_delete),
        )
        .layer(DefaultBodyLimit::max(keys::BODY_BYTES_MAX));
    router.merge(desk)
}

/// What is kept that is somebody's.
fn somebodys() -> Router<Arc<Api>> {
    Router::new()
        .route(EXPORT_PATH, post(rights::export).fallback(only_post))
        .route(ERASE_PATH, post(rights::erase).fallback(only_post))
        .layer(DefaultBodyLimit::max(keys::BODY_BYTES_MAX))
}

async fn only_get_post() -> Response<Body> {
    wrong_method("GET, HEAD, POST")
}

async fn only_get_patch_delete() -> Response<Body> {
    wrong_method("GET, HEAD, PATCH, DELETE")
}

async fn only_get() -> Response<Body> {
    wrong_method("GET, HEAD")
}

async fn only_get_delete() -> Response<Body> {
    wrong_method("GET, HEAD, DELETE")
}

async fn only_post() -> Response<Body> {
    wrong_method("POST")
}

/// A path that names a model and what to do with it.
async fn gemini(uri: Uri) -> Response<Body> {
    match chat_at(&uri) {
        Some(_) => wrong_method("POST"),
        None => refusal_with_hint(&Fault::NotFound, hint(uri.path())),
    }
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut response = refusal(&Fault::MethodNotAllowed);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

async fn not_found(uri: Uri) -> Response<Body> {
    refusal_with_hint(&Fault::NotFound, hint(uri.path()))
}

/// What somebody who ended up at `path` probably wants.
fn hint(path: &str) -> Option<&'static str> {
    const BASE_URL: &str = "the SDKs' base_url must end in `/v1`, as `http://127.0.0.1:8787/v1`";
    match path {
        "/chat/completions" | "/embeddings" | "/models" => Some(BASE_URL),
        _ if path.starts_with("/models/") => Some(BASE_URL),
        "/messages" | "/messages/count_tokens" | "/v1/v1/messages" => Some(
            "Anthropic's SDKs put `/v1` before `/messages` themselves: their base_url ends in the \
             port, as `http://127.0.0.1:8787`",
        ),
        _ if path.starts_with("/v1/v1/") => Some("`/v1` is in the base_url twice"),
        _ if path.starts_with("/api/") => Some(
            "of Ollama's API this server has /api/chat, /api/generate, /api/embed, /api/embeddings, \
             /api/tags, /api/show, /api/ps and /api/version",
        ),
        "/metrics" => Some(probes::METRICS_ELSEWHERE),
        BOARD_PATH => Some("models are shown on the admin listener"),
        RECORDS_PATH | SAVINGS_PATH | OVERVIEW_PATH | "/admin" => {
            Some("records are shown on the admin listener")
        }
        _ if path.starts_with(BELOW_RECORDS) => Some("records are shown on the admin listener"),
        OPERATOR_PATH | LOGIN_PATH | LOGOUT_PATH | CALLBACK_PATH | SIGNED_OUT_PATH => {
            Some("operators are known on the admin listener")
        }
        LIMITS_PATH => Some("limits are shown on the admin listener"),
        _ if path.starts_with(KEYS_PATH) || path.starts_with(TEAMS_PATH) => {
            Some("keys and teams are on the admin listener")
        }
        HEALTH_PATH => Some("backends are shown on the admin listener"),
        EXPORT_PATH | ERASE_PATH => {
            Some("what is somebody's is handed out and removed on the admin listener")
        }
        _ if path.starts_with(CACHE_PATH) => Some("the cache is on the admin listener"),
        _ if path.starts_with(CHAT_PATH) => Some("the path is /v1/chat/completions, no more"),
        _ if path.starts_with(COMPLETIONS_PATH) => Some("the path is /v1/completions, no more"),
        _ if path.starts_with("/v1beta/") => Some(
            "of Google's API this server has POST /v1beta/models/{model}:generateContent and \
             :streamGenerateContent",
        ),
        _ if path.starts_with(MESSAGES_PATH) => {
            Some("there are POST /v1/messages and POST /v1/messages/count_tokens, no more")
        }
        _ if path.starts_with("/v1/") => Some(
            "this server offers POST /v1/chat/completions, POST /v1/completions, POST /v1/responses, \
             POST /v1/messages, POST /v1/embeddings, POST /v1/moderations, POST /v1/rerank, POST \
             /v1/feedback and GET /v1/models",
        ),
        _ => None,
    }
}
