//! What commands ask a running server's admin listener.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, RequestBuilder, StatusCode, Url};

use crate::cli::ConfigArgs;
use crate::config::{self, AdminListen};
use crate::{banner, client};

/// The server answers at once or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest answer read: some hundred bytes for each of a few models.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A running server, as its operator reaches it.
pub struct Admin {
    base: String,
    client: Client,
}

impl Admin {
    /// At `url`, or where the configuration says.
    ///
    /// # Errors
    /// The configuration has faults, or does not say where.
    pub fn at(url: Option<&str>, config: &ConfigArgs) -> anyhow::Result<Self> {
        let base = match url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => configured(config)?,
        };
        let client = client::build()
            .context("cannot set up the HTTP client")?
            .client;
        Ok(Self { base, client })
    }

    fn url(&self, path: &str) -> anyhow::Result<Url> {
        let base = &self.base;
        Url::parse(&format!("{base}{path}"))
            .with_context(|| format!("`{base}` is not an address such as http://127.0.0.1:8788"))
    }

    /// # Errors
    /// No server answers there, or it does with an error.
    pub fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let url = self.url(path)?;
        run(&url, self.client.get(url.clone()))
    }

    /// # Errors
    /// As of [`Admin::get`].
    pub fn post(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<Vec<u8>> {
        let url = self.url(path)?;
        run(&url, self.client.post(url.clone()).json(body))
    }
}

fn configured(args: &ConfigArgs) -> anyhow::Result<String> {
    let file = args.config.as_deref();
    let (config, _) = config::load(file, &config::environment(), &[]).into_config()?;
    let (AdminListen::Chosen(admin) | AdminListen::Offered(admin)) = config.admin;
    if admin.port() == 0 {
        bail!(
            "the server chose its admin port by itself; set admin.listen, or name the address it \
             said at its start with --url"
        );
    }
    Ok(format!("http://{}", banner::reachable(admin)))
}

fn run(url: &Url, request: RequestBuilder) -> anyhow::Result<Vec<u8>> {
    super::runtime()?.block_on(ask(url, request))
}

async fn ask(url: &Url, request: RequestBuilder) -> anyhow::Result<Vec<u8>> {
    let mut response = request
        .timeout(ANSWER_MAX)
        .send()
        .await
        .with_context(|| format!("no server answers at {url}"))?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(more) = response.chunk().await? {
        if text.len() + more.len() > ANSWER_BYTES_MAX {
            bail!("{url} answered with more than {ANSWER_BYTES_MAX} bytes");
        }
        text.extend_from_slice(&more);
    }
    if status == StatusCode::NOT_FOUND
        && let Some(why) = said(&text)
    {
        bail!("{why}");
    }
    if !status.is_success() {
        bail!(
            "{url} answered with status {}; is it the admin listener?",
            status.as_u16()
        );
    }
    Ok(text)
}

/// What an error's body says.
fn said(text: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(text).ok()?;
    Some(body["error"]["message"].as_str()?.to_owned())
}
