//! The upstreams: what each is configured with, whether it answers, and what that says of the link.
//!
//! Each is asked once, all at the same time, for its list of models, which costs nothing. Keys are sent
//! where chats send them, and never shown.

use std::error::Error;
use std::time::Duration;

use domain::{Dialect, Trust};
use futures::future::join_all;
use providers::{Auth, Key, UpstreamConfig};
use reqwest::{Client, RequestBuilder, StatusCode, Url};

use super::Line;
use crate::config::Config;

const WHAT: &str = "upstream";
const LINK: &str = "link";

/// Patience with an upstream that is only looked at, from its name to the head of its answer. All are
/// looked at together, so that this is what all of them take at most.
pub const LOOK_MAX: Duration = Duration::from_secs(5);

/// What is shown of why there is no connection, in characters.
const WHY_CHARS_MAX: usize = 120;

/// How one look went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    Answered(StatusCode),
    /// In words that hold no key and no address's query.
    Away(String),
}

/// A line for each upstream, and one for the link where any of them is public.
pub async fn look(config: &Config, client: &Client) -> Vec<Line> {
    let upstreams = &config.upstreams;
    if upstreams.is_empty() && !config.relays.is_empty() {
        return vec![Line::ok(WHAT, "none but relays")];
    }
    if upstreams.is_empty() {
        return vec![Line::ok(WHAT, "none; everything is answered here")];
    }
    let looks = join_all(upstreams.iter().map(|upstream| ask(upstream, client))).await;
    let looks: Vec<_> = upstreams.iter().zip(looks).collect();
    let lines = looks.iter().map(|(upstream, look)| line(upstream, look));
    let mut lines: Vec<Line> = lines.collect();
    lines.extend(link(&looks));
    lines
}

async fn ask(upstream: &UpstreamConfig, client: &Client) -> Look {
    let Some(request) = request(upstream, client) else {
        return Look::Away("its base_url is no address".to_owned());
    };
    match request.send().await {
        Ok(response) => Look::Answered(response.status()),
        Err(error) if error.is_timeout() => {
            Look::Away(format!("no answer within {} s", LOOK_MAX.as_secs()))
        }
        Err(error) => Look::Away(why(&error)),
    }
}

/// Where and how the list of models is asked for.
fn request(upstream: &UpstreamConfig, client: &Client) -> Option<RequestBuilder> {
    let base = upstream.base_url.trim_end_matches('/');
    let path = match upstream.dialect.dialect() {
        // Its base URLs are written with and without the version.
        Dialect::Anthropic if !base.ends_with("/v1") => "/v1/models",
        Dialect::OpenAi
        | Dialect::Responses
        | Dialect::Completions
        | Dialect::Anthropic
        | Dialect::Gemini
        | Dialect::Bedrock
        | Dialect::Ollama => "/models",
    };
    let mut url = Url::parse(&format!("{base}{path}")).ok()?;
    if !upstream.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&upstream.query);
    }
    let mut request = client.get(url).timeout(LOOK_MAX);
    for (name, value) in upstream.dialect.headers() {
        request = request.header(*name, *value);
    }
    for (name, value) in &upstream.headers {
        request = request.header(name, value);
    }
    if let Some((name, value)) = upstream.auth.header() {
        request = request.header(name, value);
    }
    Some(request)
}

/// The innermost cause: those around it repeat the address.
fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::addr_eq(cause, error) {
        return "the connection broke".to_owned();
    }
    cause.to_string().chars().take(WHY_CHARS_MAX).collect()
}

fn line(upstream: &UpstreamConfig, look: &Look) -> Line {
    let who = format!(
        "{} ({} at {}, {})",
        upstream.name,
        upstream.dialect.dialect().as_label(),
        place(&upstream.base_url),
        key(&upstream.auth)
    );
    let status = match look {
        Look::Answered(status) => *status,
        Look::Away(why) => {
            return Line::fail(
                WHAT,
                format!("{who} cannot be reached: {why}"),
                "look at base_url, the network, and proxies",
            );
        }
    };
    match status {
        // Signatures and tokens are for chats; that it refuses to be asked without shows it there.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_asked_without(&upstream.auth) => {
            Line::ok(
                WHAT,
                format!("{who} answers; its credentials were not tried"),
            )
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Line::fail(
            WHAT,
            format!("{who} refuses the key"),
            format!("look at the key of upstream `{}`", upstream.name),
        ),
        // Some have no such list; they are there all the same.
        status if status.is_success() || status == StatusCode::NOT_FOUND => {
            Line::ok(WHAT, format!("{who} answers"))
        }
        status => Line::warn(
            WHAT,
            format!("{who} answers with status {}", status.as_u16()),
            "look at its base_url, up to and including /v1",
        ),
    }
}

/// What a hedge that starts now would hold of the link: as there, only public upstreams count, and any
/// answer shows it.
fn link(looks: &[(&UpstreamConfig, Look)]) -> Option<Line> {
    let mut public = looks
        .iter()
        .filter(|(upstream, _)| upstream.trust == Trust::Public)
        .peekable();
    public.peek()?;
    let (there, away): (Vec<_>, Vec<_>) =
        public.partition(|(_, look)| matches!(look, Look::Answered(_)));
    let count = there.len() + away.len();
    if there.is_empty() {
        return Some(Line::warn(
            LINK,
            format!("offline: none of {count} public upstreams can be reached"),
            "routes do as `when_offline` says until one can be",
        ));
    }
    Some(Line::ok(
        LINK,
        format!("online: {} of {count} public upstreams answer", there.len()),
    ))
}

/// What a hedge that runs says of its link.
pub fn running_link(state: &str) -> Line {
    let found = format!("the hedge that runs is {state}");
    if state == "online" {
        return Line::ok(LINK, found);
    }
    Line::warn(LINK, found, "it asks again by itself; look at the network")
}

/// The host and port alone: a path may name an account.
fn place(base_url: &str) -> String {
    let url = Url::parse(base_url).ok();
    let host = url.as_ref().and_then(Url::host_str);
    let port = url.as_ref().and_then(Url::port);
    match (host, port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "no host".to_owned(),
    }
}

fn key(auth: &Auth) -> &'static str {
    match auth {
        Auth::None => "without a key",
        Auth::Bearer(Key::Fixed(_))
        | Auth::Header {
            key: Key::Fixed(_), ..
        } => "key set",
        Auth::Bearer(Key::File { .. })
        | Auth::Header {
            key: Key::File { .. },
            ..
        } => "key from a file",
        Auth::Aws(_) => "AWS credentials set",
        Auth::Entra(_) => "Entra client set",
    }
}

/// True for credentials that are made for each request.
fn is_asked_without(auth: &Auth) -> bool {
    match auth {
        Auth::Aws(_) | Auth::Entra(_) => true,
        Auth::None | Auth::Bearer(_) | Auth::Header { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use providers::Secret;

    use super::*;
    use crate::commands::doctor::State;

    fn upstream(name: &str, trust: Trust) -> UpstreamConfig {
        UpstreamConfig {
            auth: Auth::bearer(Secret::new("sk-secret")),
            ..UpstreamConfig::new(name, "https://api.example:8443/team-7/v1", "m", trust)
        }
    }

    #[test]
    fn each_upstream_has_a_line_that_shows_neither_key_nor_path() {
        let answered = |status: u16| Look::Answered(StatusCode::from_u16(status).unwrap());
        let who = "far (openai at api.example:8443, key set)";
        for (look, state, found) in [
            (answered(200), State::Ok, "answers"),
            (answered(404), State::Ok, "answers"),
            (answered(401), State::Fail, "refuses the key"),
            (answered(503), State::Warn, "answers with status 503"),
            (
                Look::Away("Connection refused".to_owned()),
                State::Fail,
                "cannot be reached: Connection refused",
            ),
        ] {
            let line = line(&upstream("far", Trust::Public), &look);
            assert_eq!(line.state, state, "{line}");
            assert_eq!(line.found, format!("{who} {found}"));
            assert!(!line.to_string().contains("sk-secret"), "{line}");
        }
        let keyless = UpstreamConfig {
            auth: Auth::None,
            ..upstream("far", Trust::Public)
        };
        let line = line(&keyless, &answered(200));
        assert!(line.found.contains("without a key"), "{line}");
    }

    #[test]
    fn the_link_is_judged_by_public_upstreams_alone() {
        let away = || Look::Away("no route".to_owned());
        let there = || Look::Answered(StatusCode::UNAUTHORIZED);
        let (near, far, farther) = (
            upstream("near", Trust::Tenant),
            upstream("far", Trust::Public),
            upstream("farther", Trust::Public),
        );
        assert_eq!(link(&[(&near, away())]), None);
        let line = link(&[(&near, there()), (&far, away())]).unwrap();
        assert_eq!(line.state, State::Warn, "{line}");
        assert!(line.found.starts_with("offline"), "{line}");
        let line = link(&[(&far, away()), (&farther, there())]).unwrap();
        assert_eq!(
            line,
            Line::ok(LINK, "online: 1 of 2 public upstreams answer")
        );
    }

    #[test]
    fn the_list_of_models_is_asked_for_where_the_dialect_has_it() {
        let client = crate::client::build().unwrap().client;
        for (base, dialect, wanted) in [
            (
                "https://a/v1",
                "openai",
                "https://a/v1/models?api-version=1",
            ),
            (
                "https://a",
                "anthropic",
                "https://a/v1/models?api-version=1",
            ),
            (
                "https://a/v1/",
                "anthropic",
                "https://a/v1/models?api-version=1",
            ),
        ] {
            let config = UpstreamConfig {
                base_url: base.to_owned(),
                dialect: wire::client(dialect).unwrap(),
                query: vec![("api-version".to_owned(), "1".to_owned())],
                ..upstream("far", Trust::Public)
            };
            let request = request(&config, &client).unwrap().build().unwrap();
            assert_eq!(request.url().as_str(), wanted);
            assert_eq!(request.headers()["authorization"], "Bearer sk-secret");
        }
    }
}
