//! What commands ask a running server's admin listener.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde_json::Value;

use crate::cli::ConfigArgs;
use crate::config::{self, AdminListen};
use crate::{banner, client};

/// How long an answer may take and be.
struct Bounds {
    answer_max: Duration,
    bytes_max: usize,
}

/// The server answers at once or not at all, with some hundred bytes for each of a few models.
const PROMPT: Bounds = Bounds {
    answer_max: Duration::from_secs(5),
    bytes_max: 1024 * 1024,
};

/// It may look through all records, or write them anew; and one response may have some megabytes.
const PATIENT: Bounds = Bounds {
    answer_max: Duration::from_secs(900),
    bytes_max: 64 * 1024 * 1024,
};

/// The operator's token; a flag would stand in the shell's history and in the list of processes.
const TOKEN_VARIABLE: &str = "HEDGE_ADMIN_TOKEN";

/// A running server, as its operator reaches it.
pub struct Admin {
    base: String,
    client: Client,
    /// Where the server asks for one.
    token: Option<String>,
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
        let token = config::environment().remove(TOKEN_VARIABLE);
        let token = token.filter(|token| !token.is_empty());
        Ok(Self {
            base,
            client,
            token,
        })
    }

    fn url(&self, path: &str) -> anyhow::Result<Url> {
        let base = &self.base;
        Url::parse(&format!("{base}{path}"))
            .with_context(|| format!("`{base}` is not an address such as http://127.0.0.1:8788"))
    }

    /// # Errors
    /// No server answers there, or it does with an error.
    pub fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.send(Method::GET, path, None)
    }

    /// # Errors
    /// As of [`Admin::get`].
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        self.send(Method::POST, path, Some(body))
    }

    /// As [`Admin::post`], of what may take long and be much.
    ///
    /// # Errors
    /// As of [`Admin::get`].
    pub fn post_patiently(&self, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        let request = self.request(Method::POST, path, Some(body))?;
        run(&self.url(path)?, request, &PATIENT)
    }

    /// As [`Admin::get`], of what may be much.
    ///
    /// # Errors
    /// As of it.
    pub fn get_patiently(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let request = self.request(Method::GET, path, None)?;
        run(&self.url(path)?, request, &PATIENT)
    }

    /// # Errors
    /// As of [`Admin::get`].
    pub fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        self.send(Method::PATCH, path, Some(body))
    }

    /// # Errors
    /// As of [`Admin::get`].
    pub fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, path, None).map(drop)
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Vec<u8>> {
        let request = self.request(method, path, body)?;
        run(&self.url(path)?, request, &PROMPT)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<RequestBuilder> {
        let mut request = self.client.request(method, self.url(path)?);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Ok(request)
    }
}

/// As a part of a path.
pub fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
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

fn run(url: &Url, request: RequestBuilder, bounds: &Bounds) -> anyhow::Result<Vec<u8>> {
    super::runtime()?.block_on(ask(url, request, bounds))
}

async fn ask(url: &Url, request: RequestBuilder, bounds: &Bounds) -> anyhow::Result<Vec<u8>> {
    let mut response = request
        .timeout(bounds.answer_max)
        .send()
        .await
        .with_context(|| format!("no server answers at {url}"))?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(more) = response.chunk().await? {
        if text.len() + more.len() > bounds.bytes_max {
            bail!("{url} answered with more than {} bytes", bounds.bytes_max);
        }
        text.extend_from_slice(&more);
    }
    let is_told = status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE;
    if is_told && let Some(why) = said(&text) {
        let hint = match status {
            StatusCode::UNAUTHORIZED => {
                format!(" (this command sends the one in {TOKEN_VARIABLE})")
            }
            _ => String::new(),
        };
        bail!("{why}{hint}");
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
    let body: Value = serde_json::from_slice(text).ok()?;
    let message = body["error"]["message"].as_str()?;
    Some(match body["error"]["param"].as_str() {
        Some(param) if !message.contains(param) => format!("{param}: {message}"),
        _ => message.to_owned(),
    })
}
