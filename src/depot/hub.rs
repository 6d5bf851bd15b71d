//! What the model hub says of a repository.

use reqwest::Url;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;

use crate::PullError;
use crate::pull::Hub;
use crate::transfer::{self, Hop};

/// Listings of the largest repositories have some 100 KB.
const LISTING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Taken among several files: small enough for most machines, and the hub's own choice.
const PREFERRED: &str = "q4_k_m";

/// `GET /api/models/ORG/REPO`, as far as we read it
/// (<https://huggingface.co/docs/hub/api>, read 2026-11-21).
#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Default, Deserialize)]
struct Card {
    #[serde(default)]
    license: Option<serde_json::Value>,
}

/// A file of a repository, settled.
pub(crate) struct Chosen {
    pub(crate) file: String,
    pub(crate) licence: Option<String>,
}

/// Picks the one GGUF file, or the preferred one of several.
pub(crate) async fn choose(
    client: &reqwest::Client,
    hub: &Hub,
    repo: &str,
) -> Result<Chosen, PullError> {
    let url = address(hub, &format!("api/models/{repo}"));
    let response = transfer::get(client, hub, Hop::first(url), &|request| request).await?;
    let body = transfer::whole(response.response, LISTING_BYTES_MAX).await?;
    let listing: Listing = serde_json::from_slice(&body).map_err(|_| PullError::Listing)?;
    let licence = listing
        .card
        .unwrap_or_default()
        .license
        .and_then(|licence| licence.as_str().map(str::to_owned));
    let file = pick(
        repo,
        listing
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename),
    )?;
    Ok(Chosen { file, licence })
}

fn pick(repo: &str, names: impl Iterator<Item = String>) -> Result<String, PullError> {
    let mut files: Vec<String> = names.filter(|name| is_model(name)).collect();
    files.sort();
    let preferred: Vec<&String> = files
        .iter()
        .filter(|name| name.to_ascii_lowercase().contains(PREFERRED))
        .collect();
    match (files.as_slice(), preferred.as_slice()) {
        ([], _) => Err(PullError::NoGguf {
            repo: repo.to_owned(),
        }),
        ([only], _) => Ok(only.clone()),
        (_, [preferred]) => Ok((*preferred).clone()),
        _ => Err(PullError::Choices {
            repo: repo.to_owned(),
            files,
        }),
    }
}

/// A GGUF file that is a whole language model: no vision projector, no part of a split one.
fn is_model(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let Some(stem) = lower.strip_suffix(".gguf") else {
        return false;
    };
    let is_part = stem
        .rsplit_once("-of-")
        .is_some_and(|(_, count)| count.bytes().all(|byte| byte.is_ascii_digit()));
    !is_part && !lower.contains("mmproj")
}

/// Where a file of a repository lies.
pub(crate) fn file_address(hub: &Hub, repo: &str, file: &str) -> Url {
    address(hub, &format!("{repo}/resolve/main/{file}"))
}

fn address(hub: &Hub, path: &str) -> Url {
    let mut url = hub.base.clone();
    let prefix = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{prefix}/{path}"));
    url
}

/// Adds the token, for the hub itself and nobody else.
pub(crate) fn authorize(
    request: reqwest::RequestBuilder,
    hub: &Hub,
    url: &Url,
) -> reqwest::RequestBuilder {
    match &hub.token {
        Some(token) if url.origin() == hub.base.origin() => {
            request.header(AUTHORIZATION, format!("Bearer {}", token.expose()))
        }
        Some(_) | None => request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(names: &[&str]) -> Result<String, PullError> {
        pick("o/r", names.iter().map(|&name| name.to_owned()))
    }

    #[test]
    fn the_only_model_is_taken_and_of_several_the_preferred_one() {
        assert_eq!(picked(&["README.md", "a.gguf"]).unwrap(), "a.gguf");
        assert_eq!(
            picked(&["a-q8_0.gguf", "a-Q4_K_M.gguf", "mmproj-q4_k_m.gguf"]).unwrap(),
            "a-Q4_K_M.gguf"
        );
        assert_eq!(
            picked(&["a.gguf", "b-00001-of-00002.gguf"]).unwrap(),
            "a.gguf"
        );
        assert!(matches!(
            picked(&["README.md", "b-00001-of-00002.gguf"]),
            Err(PullError::NoGguf { .. })
        ));
        let choices = picked(&["b-q8_0.gguf", "a-q2_k.gguf"]).unwrap_err();
        assert!(choices.to_string().contains("a-q2_k.gguf\n  b-q8_0.gguf"));
    }
}
