//! `/admin`: a page of what this node did and saved, for the operator alone. It is in the binary, loads
//! nothing from anywhere else, and shows what the addresses beside it answer.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};

const TEXT: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const NOTICE: &str = include_str!("page/notice.html");

/// Nothing runs but the page's own script, nothing is asked but this listener, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) async fn text() -> Response<Body> {
    file("text/html; charset=utf-8", TEXT)
}

pub(crate) async fn style() -> Response<Body> {
    file("text/css; charset=utf-8", STYLE)
}

pub(crate) async fn script() -> Response<Body> {
    file("text/javascript; charset=utf-8", SCRIPT)
}

/// A page of a few words, for somebody who cannot see the other one.
pub(crate) struct Notice {
    pub title: &'static str,
    pub words: &'static str,
    /// The address, and what stands on it.
    pub link: (&'static str, &'static str),
}

pub(crate) fn notice(status: StatusCode, shown: &Notice) -> Response<Body> {
    let (address, link) = shown.link;
    let text = NOTICE
        .replace("{title}", shown.title)
        .replace("{words}", &sentence(shown.words))
        .replace("{address}", address)
        .replace("{link}", link);
    let mut response = file("text/html; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

/// Words of an error, as they are said to people.
fn sentence(words: &str) -> String {
    let plain = words.replace('`', "");
    let mut letters = plain.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string());
    let end = if plain.ends_with('.') { "" } else { "." };
    format!("{}{}{end}", first.unwrap_or_default(), letters.as_str())
}

fn file(kind: &'static str, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // A node of another version may answer at the next visit.
        (CACHE_CONTROL, "no-cache"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_whole_and_says_its_words_as_a_sentence() {
        let shown = Notice {
            title: "Not signed in",
            words: "ask for a role in `admin.oidc.roles`",
            link: ("/admin/login", "Sign in again"),
        };
        let response = notice(StatusCode::FORBIDDEN, &shown);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let mut body = response.into_body();
        let frame = futures::executor::block_on(http_body_util::BodyExt::frame(&mut body));
        let text = frame.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(
            text.contains("<p>Ask for a role in admin.oidc.roles.</p>"),
            "{text}"
        );
        assert!(
            text.contains("<a href=\"/admin/login\">Sign in again</a>"),
            "{text}"
        );
        assert!(!text.contains('{') && !text.contains('}'), "{text}");
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_makes_no_markup() {
        for text in [TEXT, STYLE, SCRIPT, NOTICE] {
            let known = "http://www.w3.org/2000/svg";
            let elsewhere = text.replace(known, "");
            assert!(!elsewhere.contains("://") && !elsewhere.contains("\"//"));
        }
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
        ] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        // What is found by its id is there.
        let ids = SCRIPT.split("find(\"").skip(1);
        for id in ids.filter_map(|rest| rest.split_once('"')) {
            let (id, rest) = id;
            if rest.starts_with(')') {
                assert!(TEXT.contains(&format!("id=\"{id}\"")), "{id}");
            }
        }
    }
}
