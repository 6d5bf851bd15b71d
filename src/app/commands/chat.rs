//! `hedge chat`: a conversation with a running server, streamed to the terminal.

use std::collections::VecDeque;
use std::io::{self, BufRead, IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, bail};
use domain::ChatEvent;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use wire::openai::ChunkDecoder;

use crate::cli::ChatArgs;
use crate::{client, config, terminal};

/// Longest prompt read from standard input.
const PROMPT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest error body read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Asks once, or keeps asking.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub fn chat(args: &ChatArgs) -> anyhow::Result<ExitCode> {
    let talk = Talk::new(args)?;
    let runtime = super::runtime()?;
    match args.prompt.as_deref() {
        Some("-") => {
            let mut prompt = String::new();
            io::stdin()
                .lock()
                .take(PROMPT_BYTES_MAX)
                .read_to_string(&mut prompt)?;
            runtime.block_on(talk.once(prompt.trim()))?;
        }
        Some(prompt) => runtime.block_on(talk.once(prompt))?,
        None => talk.keep_asking(&runtime)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Who is asked, and how.
struct Talk {
    client: Client,
    address: Url,
    model: String,
    key: Option<String>,
}

/// An answer, shown already.
struct Said {
    text: String,
    route: Option<String>,
}

impl Talk {
    fn new(args: &ChatArgs) -> anyhow::Result<Self> {
        let base = args.url.trim_end_matches('/');
        let address = Url::parse(&format!("{base}/chat/completions")).with_context(|| {
            format!("`{base}` is not an address such as http://127.0.0.1:8787/v1")
        })?;
        if !matches!(address.scheme(), "http" | "https") {
            bail!("`{base}` does not begin with http:// or https://");
        }
        // A key in the clear is anybody's key.
        if args.key.is_some() && address.scheme() == "http" && !config::is_loopback(&address) {
            bail!("the key would travel unencrypted to {base}; use https");
        }
        Ok(Self {
            client: client::build()
                .context("cannot set up the HTTP client")?
                .client,
            address,
            model: args.model.clone(),
            key: args.key.clone(),
        })
    }

    async fn once(&self, prompt: &str) -> anyhow::Result<()> {
        if prompt.is_empty() {
            bail!("the prompt is empty");
        }
        let messages = [json!({"role": "user", "content": prompt})];
        let said = self.ask(&messages).await?;
        if let Some(route) = said.route {
            terminal::note(route);
        }
        Ok(())
    }

    fn keep_asking(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
        let is_person = io::stdin().is_terminal();
        if is_person {
            terminal::note(format!(
                "talking to {} as `{}`; an empty line ends it",
                self.address, self.model
            ));
        }
        let mut messages = Vec::new();
        loop {
            if is_person {
                terminal::note_part("> ");
            }
            let mut line = String::new();
            let count = io::stdin()
                .lock()
                .take(PROMPT_BYTES_MAX)
                .read_line(&mut line)?;
            let prompt = line.trim();
            if count == 0 || prompt.is_empty() {
                return Ok(());
            }
            messages.push(json!({"role": "user", "content": prompt}));
            match runtime.block_on(self.ask(&messages)) {
                Ok(said) => {
                    if let Some(route) = said.route {
                        terminal::note(route);
                    }
                    messages.push(json!({"role": "assistant", "content": said.text}));
                }
                Err(error) if is_person => {
                    terminal::note(format!("error: {}", super::chain(&error)));
                    messages.pop();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One exchange, its text shown as it comes.
    async fn ask(&self, messages: &[Value]) -> anyhow::Result<Said> {
        let body = json!({"model": self.model, "messages": messages, "stream": true});
        let mut request = self.client.post(self.address.clone()).json(&body);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let response = request.send().await.map_err(|error| {
            let advice = if error.is_connect() {
                "nobody answers there; start it with `hedge serve`"
            } else {
                "the request failed"
            };
            anyhow::Error::new(error.without_url()).context(format!("{}: {advice}", self.address))
        })?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let route = route(response.headers());
        let text = show(response).await?;
        terminal::say("");
        Ok(Said { text, route })
    }
}

/// `[local:hedge-tiny, short-question]`.
fn route(headers: &HeaderMap) -> Option<String> {
    let shown = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let route = shown("x-hedge-route")?;
    Some(match shown("x-hedge-reason") {
        Some(reason) => format!("[{route}, {reason}]"),
        None => format!("[{route}]"),
    })
}

/// Prints the reply as it arrives; all of it, once it has ended.
async fn show(mut response: Response) -> anyhow::Result<String> {
    let mut decoder = ChunkDecoder::new();
    let mut events = VecDeque::new();
    let mut text = String::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)
            .context("the reply broke off")?;
        match &chunk {
            Some(chunk) => decoder.push(chunk, &mut events),
            None => decoder.finish(&mut events),
        }
        for event in events.drain(..) {
            let event = event.context("the reply broke off")?;
            if let ChatEvent::Text { text: part, .. } = event {
                // A model's text must not steer the terminal.
                terminal::say_part(printable(&part));
                text.push_str(&part);
            }
        }
        if chunk.is_none() {
            return Ok(text);
        }
    }
}

/// Without control characters other than line breaks and tabs.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t'))
        .collect()
}

/// The server's own words, where it sent some.
async fn refusal(mut response: Response) -> anyhow::Error {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > ERROR_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let words = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| Some(printable(body.pointer("/error/message")?.as_str()?)));
    let mut text = match words {
        Some(words) => format!("{words} ({})", status.as_u16()),
        None => format!("the server answered {}", status.as_u16()),
    };
    if status == StatusCode::UNAUTHORIZED {
        text.push_str("; set HEDGE_API_KEY");
    }
    anyhow::anyhow!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n\tc\u{7}"), "a[2Jb\n\tc");
    }

    #[test]
    fn a_key_does_not_travel_in_the_clear() {
        let args = |url: &str| ChatArgs {
            prompt: None,
            url: url.into(),
            model: "auto".into(),
            key: Some("k".into()),
        };
        assert!(Talk::new(&args("http://far.example/v1")).is_err());
        assert!(Talk::new(&args("http://127.0.0.1:1/v1")).is_ok());
        assert!(Talk::new(&args("ftp://127.0.0.1/v1")).is_err());
    }
}
