//! `/admin`: a page of what this node did and saved, for the operator alone. It is in the binary, loads
//! nothing from anywhere else, and shows what the addresses beside it answer.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};

const TEXT: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

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

fn file(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
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
    fn the_page_needs_nothing_from_elsewhere_and_makes_no_markup() {
        for text in [TEXT, STYLE, SCRIPT] {
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
