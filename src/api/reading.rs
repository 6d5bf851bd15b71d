//! `POST /tokenize`, `/detokenize` and `/apply-template`: how the model on this machine reads.

use std::sync::Arc;

use axum::body::Body;
use domain::{Fault, RequestId};
use http::Response;
use pipeline::{Counted, Refusal};
use wire::openai::{
    TokenForm, TokenSource, decode_detokenize, decode_template, decode_tokenize, encode_content,
    encode_prompt, encode_tokens,
};

use crate::asked::{Asked, aside, json};
use crate::server::Api;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Tokenize,
    Detokenize,
    Template,
}

/// Answers, or says why not.
pub(crate) async fn answer(
    api: &Arc<Api>,
    id: &RequestId,
    asked: Asked,
    reading: Reading,
) -> Result<Response<Body>, Refusal> {
    let body = match reading {
        Reading::Tokenize => tokenize(api, id, asked).await?,
        Reading::Detokenize => detokenize(api, id, asked).await?,
        Reading::Template => template(api, id, asked).await?,
    };
    Ok(json(body))
}

async fn tokenize(api: &Arc<Api>, id: &RequestId, asked: Asked) -> Result<Vec<u8>, Refusal> {
    let (principal, bytes, pipeline) = (asked.principal, asked.bytes, &api.pipeline);
    let request = aside(move || decode_tokenize(&bytes)).await?;
    let (form, id) = (request.form, id.clone());
    let counted = match request.source {
        TokenSource::Text(text) => {
            let counted = pipeline.tokenize(&principal, id, &request.model, text);
            counted.await.map_err(|refusal| named(refusal, form))?
        }
        TokenSource::Chat(chat) => pipeline.tokenize_chat(&principal, id, *chat).await?,
    };
    let Counted {
        tokens,
        context_tokens_max,
    } = counted;
    let context = context_tokens_max.map(|tokens| tokens.0);
    aside(move || Ok(encode_tokens(&tokens, form, context))).await
}

/// What is wrong with a text is said of the field it came in.
fn named(mut refusal: Refusal, form: TokenForm) -> Refusal {
    if let (TokenForm::Counted { .. }, Fault::BadRequest(fault)) = (form, &mut refusal.fault)
        && fault.param.as_deref() == Some("content")
    {
        fault.param = Some("prompt".to_owned());
    }
    refusal
}

async fn detokenize(api: &Arc<Api>, id: &RequestId, asked: Asked) -> Result<Vec<u8>, Refusal> {
    let (principal, bytes, pipeline) = (asked.principal, asked.bytes, &api.pipeline);
    let request = aside(move || decode_detokenize(&bytes)).await?;
    let names_model = request.names_model;
    let text = pipeline
        .detokenize(&principal, id.clone(), &request.model, request.tokens)
        .await?;
    aside(move || Ok(encode_content(&text, names_model))).await
}

async fn template(api: &Arc<Api>, id: &RequestId, asked: Asked) -> Result<Vec<u8>, Refusal> {
    let (principal, bytes, pipeline) = (asked.principal, asked.bytes, &api.pipeline);
    let request = aside(move || decode_template(&bytes)).await?;
    let prompt = pipeline.render(&principal, id.clone(), request).await?;
    aside(move || Ok(encode_prompt(&prompt))).await
}
