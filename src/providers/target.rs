//! Where an upstream's requests go: its base URL, and what its dialect says after it.

use std::borrow::Cow;

use domain::{BackendError, Delivery};
use http::Uri;
use reqwest::Url;
use wire::{ClientDialect, percent};

use crate::UpstreamConfigError;

/// Stands in a base URL for the model, which some addresses name.
const MODEL: &str = "{model}";
/// As a parsed URL writes it.
const MODEL_WRITTEN: &str = "%7Bmodel%7D";

/// All addresses of one upstream.
#[derive(Debug)]
pub(crate) struct Targets {
    dialect: &'static dyn ClientDialect,
    /// Its path has no slash at its end.
    base: Url,
    query: Vec<(String, String)>,
    /// The whole and the streamed one, where every model has the same.
    fixed: Option<[Target; 2]>,
}

/// One address.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub url: Url,
    /// Path and query alone, as HTTP/1.1 puts them into a request's first line.
    pub uri: Uri,
}

impl Targets {
    /// # Errors
    /// What is wrong with `base_url`.
    pub fn new(
        base_url: &str,
        query: &[(String, String)],
        dialect: &'static dyn ClientDialect,
    ) -> Result<Self, UpstreamConfigError> {
        let mut targets = Self {
            dialect,
            base: base(base_url, dialect)?,
            query: query.to_vec(),
            fixed: None,
        };
        let has_model = targets.base.path().contains(MODEL_WRITTEN);
        let is_fixed = !has_model
            && DELIVERIES
                .iter()
                .all(|delivery| dialect.target("a", *delivery) == dialect.target("b", *delivery));
        if is_fixed {
            let [whole, streamed] = DELIVERIES.map(|delivery| targets.build("a", delivery));
            // A dialect's own words always make an address.
            targets.fixed = whole
                .zip(streamed)
                .map(|(whole, streamed)| [whole, streamed]);
        }
        Ok(targets)
    }

    /// For connections, which end at the host.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// # Errors
    /// The model's name cannot stand in an address.
    pub fn of(&self, model: &str, delivery: Delivery) -> Result<Cow<'_, Target>, BackendError> {
        if let Some([whole, streamed]) = &self.fixed {
            return Ok(Cow::Borrowed(match delivery {
                Delivery::Whole => whole,
                Delivery::Streamed { .. } => streamed,
            }));
        }
        let target = self.build(model, delivery);
        target
            .map(Cow::Owned)
            .ok_or_else(|| BackendError::ModelUnknown {
                model: model.to_owned(),
            })
    }

    /// Another page than the chats', by what follows the base URL.
    ///
    /// # Errors
    /// The model's name cannot stand in an address.
    pub fn page(&self, model: &str, after: &str) -> Result<Target, BackendError> {
        self.build_after(model, after)
            .ok_or_else(|| BackendError::ModelUnknown {
                model: model.to_owned(),
            })
    }

    fn build(&self, model: &str, delivery: Delivery) -> Option<Target> {
        self.build_after(model, &self.dialect.target(model, delivery))
    }

    /// `None` where the model would lead elsewhere, as `..` does.
    fn build_after(&self, model: &str, after: &str) -> Option<Target> {
        let (after, query) = match after.split_once('?') {
            Some((after, query)) => (after, Some(query)),
            None => (after, None),
        };
        let before = self.base.path().trim_end_matches('/');
        let path = format!(
            "{}{after}",
            before.replace(MODEL_WRITTEN, &percent::encoded(model))
        );
        let mut url = self.base.clone();
        url.set_path(&path);
        url.set_query(query);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        if url.path() != path {
            return None;
        }
        let uri = match url.query() {
            Some(query) => format!("{path}?{query}").parse(),
            None => path.parse(),
        };
        Some(Target {
            url,
            uri: uri.ok()?,
        })
    }
}

const DELIVERIES: [Delivery; 2] = [
    Delivery::Whole,
    Delivery::Streamed {
        includes_usage: false,
    },
];

/// Without the path that the dialect puts after it: whole endpoints are what many providers' pages
/// print, and taking them costs nobody anything.
fn base(base_url: &str, dialect: &dyn ClientDialect) -> Result<Url, UpstreamConfigError> {
    let mut url = Url::parse(base_url.trim()).map_err(|_| UpstreamConfigError::UrlMalformed)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UpstreamConfigError::UrlScheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UpstreamConfigError::UrlCredentials);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UpstreamConfigError::UrlQuery);
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let after = dialect.target(MODEL, Delivery::Whole);
    let after = after.split('?').next().unwrap_or_default();
    let path = path.strip_suffix(after).unwrap_or(&path);
    // Its first step alone, `/v1`, stands twice in nobody's address.
    let step = after.get(1..).and_then(|rest| rest.find('/'));
    let step = step.map_or("", |end| &after[..=end]);
    let path = match step {
        "/v1" => path.strip_suffix(step).unwrap_or(path),
        _ => path,
    };
    url.set_path(path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use wire::openai::Chat;

    use super::*;

    fn url(base_url: &str, model: &str) -> Option<String> {
        let targets = Targets::new(base_url, &[], &Chat).unwrap();
        let target = targets.of(model, Delivery::Whole).ok()?;
        assert!(target.url.as_str().ends_with(&target.uri.to_string()));
        Some(target.url.to_string())
    }

    #[test]
    fn a_version_that_the_dialect_writes_itself_may_stand_in_the_base() {
        use wire::anthropic::Messages;
        for base_url in [
            "https://a.example",
            "https://a.example/v1",
            "https://a.example/v1/messages",
        ] {
            let targets = Targets::new(base_url, &[], &Messages).unwrap();
            let target = targets.of("m", Delivery::Whole).unwrap();
            assert_eq!(target.url.path(), "/v1/messages", "{base_url}");
        }
        let targets = Targets::new("https://a.example/v1", &[], &Chat).unwrap();
        let target = targets.of("m", Delivery::Whole).unwrap();
        assert_eq!(target.url.path(), "/v1/chat/completions");
    }

    #[test]
    fn a_base_url_keeps_its_path() {
        for (base_url, expected) in [
            ("https://a.example", "https://a.example/chat/completions"),
            (
                "https://a.example/v1",
                "https://a.example/v1/chat/completions",
            ),
            (
                "https://a.example/v1/",
                "https://a.example/v1/chat/completions",
            ),
            (
                "http://a.example:81/x/openai//",
                "http://a.example:81/x/openai/chat/completions",
            ),
            (
                " https://a.example/v1/chat/completions ",
                "https://a.example/v1/chat/completions",
            ),
        ] {
            assert_eq!(url(base_url, "m").as_deref(), Some(expected));
        }
    }

    #[test]
    fn one_address_is_made_once_where_no_model_stands_in_it() {
        for (base_url, is_fixed) in [
            ("https://a.example/v1", true),
            ("https://a.example/deployments/{model}", false),
        ] {
            let targets = Targets::new(base_url, &[], &Chat).unwrap();
            assert_eq!(targets.fixed.is_some(), is_fixed, "{base_url}");
        }
    }

    #[test]
    fn a_query_stands_in_every_address() {
        let query = [("api-version".to_owned(), "2024-10-21 a".to_owned())];
        let targets = Targets::new("https://a.example/v1", &query, &Chat).unwrap();
        let target = targets.of("m", Delivery::Whole).unwrap();
        assert_eq!(
            target.uri.to_string(),
            "/v1/chat/completions?api-version=2024-10-21+a"
        );
        assert!(target.url.as_str().ends_with(&target.uri.to_string()));
    }

    #[test]
    fn a_model_stands_in_the_path_and_leads_nowhere_else() {
        let of = |model| url("https://a.example/deployments/{model}", model);
        for (model, written) in [
            ("gpt-5", "gpt-5"),
            ("a/b c", "a%2Fb%20c"),
            ("a?b#c", "a%3Fb%23c"),
            ("a%2e", "a%252e"),
        ] {
            let expected = format!("https://a.example/deployments/{written}/chat/completions");
            assert_eq!(of(model), Some(expected));
        }
        for model in [".", ".."] {
            assert_eq!(of(model), None, "{model}");
        }
    }
}
