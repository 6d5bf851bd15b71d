//! Ollama's API beside its chats: embeddings, and the models as its clients want to see them.
//!
//! Models are not fetched, made or removed by requests: a node's models are its operator's affair, and
//! whoever tries is told so.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::routing::MethodFilter;
use bytes::Bytes;
use domain::{Ability, Fault, ModelAlias, Principal, RequestId};
use hashing::sha256;
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response};
use pipeline::{Named, NamedWork, Pipeline, Refusal};
use tokio::time::Instant;
use wire::ollama::{
    ModelDetails, ModelTag, RunningModel, Shown, decode_embed, decode_embeddings, decode_show,
    encode_embed, encode_embeddings, encode_running, encode_shown, encode_tags, encode_version,
};

use crate::asked::{Asked, aside, json, routed_json};
use crate::auth::principal;
use crate::chat::{check_encoding, early, refused};
use crate::error::refusal;
use crate::line::Signs;
use crate::loaded::{ModelFile, ModelState};
use crate::server::Api;

/// What is asked with a body and is no chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Post {
    Embed,
    Embeddings,
    Show,
}

pub(crate) const POSTS: [(&str, Post); 3] = [
    ("/api/embed", Post::Embed),
    ("/api/embeddings", Post::Embeddings),
    ("/api/show", Post::Show),
];

/// Where models would be kept, and by which methods.
pub(crate) const KEEPING: [(&str, MethodFilter, &str); 6] = [
    ("/api/pull", MethodFilter::POST, "POST"),
    ("/api/push", MethodFilter::POST, "POST"),
    ("/api/create", MethodFilter::POST, "POST"),
    ("/api/copy", MethodFilter::POST, "POST"),
    ("/api/delete", MethodFilter::DELETE, "DELETE"),
    (
        "/api/blobs/{digest}",
        MethodFilter::HEAD.or(MethodFilter::POST),
        "HEAD, POST",
    ),
];

/// When a model leaves that stays: far enough for every client.
const STAYS: Duration = Duration::from_secs(365 * 86_400);

/// The tag that Ollama's clients add to names without one.
const TAG_DEFAULT: &str = ":latest";

/// Takes the tag off a name that exists only without it.
pub(crate) fn settle_name(pipeline: &Pipeline, name: &mut ModelAlias) {
    let Some(bare) = name.as_str().strip_suffix(TAG_DEFAULT) else {
        return;
    };
    if !bare.is_empty() && !pipeline.knows(name) {
        *name = ModelAlias::new(bare);
    }
}

/// Answers, or says why not.
pub(crate) async fn answer<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
    post: Post,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
{
    let began = Instant::now();
    let asked = Asked::read_after(api, signs, request, check_encoding).await;
    let answered = match asked {
        Err(refusal) => Err(refusal),
        Ok((asked, ..)) => match post {
            Post::Embed | Post::Embeddings => embed(api, id, asked, post, began).await,
            Post::Show => show(api, asked).await,
        },
    };
    answered.unwrap_or_else(|refusal| refused(&refusal))
}

async fn embed(
    api: &Arc<Api>,
    id: &RequestId,
    asked: Asked,
    post: Post,
    began: Instant,
) -> Result<Response<Body>, Refusal> {
    let asked = asked.for_its_user(api).await?;
    let (principal, bytes, trace) = (asked.principal, asked.bytes, asked.trace);
    let decode = match post {
        Post::Embeddings => decode_embeddings,
        Post::Embed | Post::Show => decode_embed,
    };
    let mut request = aside(move || decode(&bytes)).await?;
    settle_name(&api.pipeline, &mut request.model);
    let encode = move |model: &str, embeddings: &domain::Embeddings| match post {
        Post::Embeddings => encode_embeddings(embeddings),
        Post::Embed | Post::Show => encode_embed(model, embeddings, began.elapsed()),
    };
    if request.inputs.is_empty() {
        let named = api.pipeline.named(&principal, &request.model);
        let named = named.map_err(early)?;
        let nothing = domain::Embeddings {
            vectors: Vec::new(),
            prompt_tokens: 0,
        };
        return Ok(json(encode(&named.model, &nothing)));
    }
    let embedded = api
        .pipeline
        .embed(&principal, id.clone(), &trace, request)
        .await?;
    let (route, reason) = (embedded.route.to_string(), embedded.reason);
    let work = aside(move || Ok(encode(&embedded.model, &embedded.embeddings)));
    Ok(routed_json(work.await?, &route, reason))
}

async fn show(api: &Arc<Api>, asked: Asked) -> Result<Response<Body>, Refusal> {
    let (principal, bytes) = (asked.principal, asked.bytes);
    let mut name = aside(move || decode_show(&bytes)).await?;
    settle_name(&api.pipeline, &mut name);
    let named = api.pipeline.named(&principal, &name).map_err(early)?;
    let file = files(api).into_iter().find(|file| file.name == named.model);
    Ok(json(encode_shown(&shown(api, &name, named, file))))
}

fn shown(api: &Api, name: &ModelAlias, named: Named, file: Option<ModelFile>) -> Shown {
    let mut capabilities = Vec::new();
    let mut embedding_length = None;
    match named.work {
        NamedWork::Chats(abilities) => {
            capabilities.push("completion");
            for (ability, word) in [
                (Ability::Tools, "tools"),
                (Ability::Images, "vision"),
                (Ability::Audio, "audio"),
            ] {
                capabilities.extend(abilities.has(ability).then_some(word));
            }
        }
        NamedWork::Embeddings(dimensions) => {
            capabilities.push("embedding");
            embedding_length = Some(dimensions);
        }
        NamedWork::Rankings => {}
    }
    Shown {
        name: name.as_str().to_owned(),
        details: file.as_ref().map(details).unwrap_or_default(),
        capabilities,
        context_tokens: named.context_tokens_max.map(|tokens| tokens.0),
        embedding_length,
        modified_at: api.started_at,
        is_remote: named.is_remote,
        parameter_count: file.as_ref().map(|file| file.parameter_count),
        licence: file.as_ref().and_then(|file| file.licence.clone()),
        template: file.and_then(|file| file.template),
    }
}

fn files(api: &Api) -> Vec<ModelFile> {
    api.board.as_ref().map_or_else(Vec::new, |it| it.files())
}

fn details(file: &ModelFile) -> ModelDetails {
    ModelDetails {
        parent_model: String::new(),
        format: "gguf".to_owned(),
        family: file.architecture.clone(),
        families: vec![file.architecture.clone()],
        parameter_size: parameter_size(file.parameter_count),
        quantization_level: file.quantization.unwrap_or_default().to_owned(),
    }
}

/// `494.03M`: three to five digits and a unit.
fn parameter_size(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")];
    for (unit, letter) in UNITS {
        if count >= unit {
            let hundredths = count / (unit / 100);
            return format!("{}.{:02}{letter}", hundredths / 100, hundredths % 100);
        }
    }
    count.to_string()
}

/// Of the name, for there is none of the file: clients tell models apart by it, and show its beginning.
fn digest(name: &str) -> String {
    let digest = sha256(name);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `GET /api/tags`.
pub(crate) async fn tags(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    let principal = match principal(&api, &extensions, &headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    let files = files(&api);
    let tag = |name: String| {
        let named = api.pipeline.named(&principal, &ModelAlias::new(&*name));
        let named = named.ok();
        let model = named.as_ref().map_or(name.as_str(), |it| it.model.as_str());
        let file = files.iter().find(|file| file.name == model);
        ModelTag {
            digest: digest(&name),
            size: file.map_or(0, |file| file.bytes),
            details: file.map(details).unwrap_or_default(),
            modified_at: api.started_at,
            is_remote: named.is_some_and(|named| named.is_remote),
            name,
        }
    };
    let listings = api.pipeline.models(&principal);
    let tags: Vec<ModelTag> = listings.into_iter().map(|it| tag(it.id)).collect();
    json(encode_tags(&tags))
}

/// `GET /api/ps`: of the models on this machine those that are loaded and that the caller may ask for.
pub(crate) async fn running_models(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    let principal = match principal(&api, &extensions, &headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    json(encode_running(&running_now(&api, &principal)))
}

fn running_now(api: &Api, principal: &Principal) -> Vec<RunningModel> {
    let now = SystemTime::now();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let files = files(api);
    let views = api.board.as_ref().map(|board| board.view().models);
    let loaded = views.into_iter().flatten().filter(|view| {
        view.state == ModelState::Loaded && principal.may_use(&ModelAlias::new(&*view.name))
    });
    let running = loaded.map(|view| {
        let leaves_in = match view.unloads_in_s {
            Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(STAYS),
            None => STAYS,
        };
        let file = files.iter().find(|file| file.name == view.name);
        let named = api.pipeline.named(principal, &ModelAlias::new(&*view.name));
        RunningModel {
            size: view
                .memory_bytes_resident
                .unwrap_or(view.memory_bytes_predicted),
            digest: digest(&view.name),
            details: file.map(details).unwrap_or_default(),
            expires_at: (now + leaves_in).as_secs(),
            context_tokens: named
                .ok()
                .and_then(|named| named.context_tokens_max)
                .map(|tokens| tokens.0),
            name: view.name,
        }
    });
    running.collect()
}

/// `GET /api/version`, which needs no key.
pub(crate) async fn version() -> Response<Body> {
    json(encode_version(env!("CARGO_PKG_VERSION")))
}

/// `GET /` and `HEAD /`: how Ollama's clients find out whether anybody is there. Some look for the words,
/// and its command line for the status alone.
pub(crate) async fn running() -> Response<Body> {
    let mut response = Response::new(Body::from(RUNNING));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

const RUNNING: &str = "Ollama is running\n\nor rather hedge, which speaks Ollama's API under /api; \
                       OpenAI's is under /v1: POST /v1/chat/completions, GET /v1/models\n";

/// Where models would be fetched, made or removed.
pub(crate) async fn not_kept() -> Response<Body> {
    refusal(&Fault::NotOffered {
        what: "the models of this server are its operator's affair: `hedge models pull` fetches one, \
               and the configuration says which are served",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_parameters_are_short() {
        for (count, text) in [
            (7, "7"),
            (1_234, "1.23K"),
            (494_032_768, "494.03M"),
            (7_615_616_512, "7.61B"),
            (u64::MAX, "18446744073.70B"),
        ] {
            assert_eq!(parameter_size(count), text);
        }
    }

    #[test]
    fn a_digest_is_long_enough_to_be_cut() {
        assert_eq!(digest("a").len(), 64);
        assert_ne!(digest("a"), digest("b"));
    }
}
