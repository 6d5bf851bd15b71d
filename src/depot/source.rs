//! Where a model comes from, as the operator writes it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

/// A place to pull from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A repository of the model hub, and a file in it or the one that is there.
    Hub { repo: String, file: Option<String> },
    /// `https`, or `http` on this machine.
    Url(Url),
}

/// Why a source cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceFault {
    #[error("write ORG/REPO, ORG/REPO:FILE.gguf, or an https address")]
    Shape,
    #[error("plain http is taken from this machine only; write https")]
    PlainHttp,
    #[error("only .gguf files are models")]
    NotGguf,
    #[error("an address with a user name or password is not taken")]
    Credentials,
}

impl FromStr for Source {
    type Err = SourceFault;

    fn from_str(text: &str) -> Result<Self, SourceFault> {
        let text = text.trim();
        if text.contains("://") {
            return from_url(text);
        }
        let text = text.strip_prefix("hf:").unwrap_or(text);
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let is_repo = repo.split('/').count() == 2 && repo.split('/').all(is_name);
        if !is_repo {
            return Err(SourceFault::Shape);
        }
        if let Some(file) = file {
            if !file.split('/').all(is_name) {
                return Err(SourceFault::Shape);
            }
            if !is_gguf(file) {
                return Err(SourceFault::NotGguf);
            }
        }
        Ok(Source::Hub {
            repo: repo.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

fn from_url(text: &str) -> Result<Source, SourceFault> {
    let mut url = Url::parse(text).map_err(|_| SourceFault::Shape)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SourceFault::Credentials);
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => return Err(SourceFault::PlainHttp),
        _ => return Err(SourceFault::Shape),
    }
    // The address in the browser shows a page about the file; the file lies beside it.
    if url.host_str() == Some("huggingface.co") && url.path().contains("/blob/") {
        let path = url.path().replacen("/blob/", "/resolve/", 1);
        url.set_path(&path);
    }
    if !is_gguf(url.path()) {
        return Err(SourceFault::NotGguf);
    }
    Ok(Source::Url(url))
}

/// True for an address of this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// One step of a path: letters, digits, `.`, `_`, `-`, and not a way up.
pub(crate) fn is_name(text: &str) -> bool {
    let is_plain = text
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-'));
    is_plain && !text.is_empty() && !text.starts_with('.') && text.len() <= 200
}

impl Source {
    /// A name for the model: the file's, without its ending.
    pub(crate) fn model_name(file: &str) -> String {
        let last = file.rsplit('/').next().unwrap_or(file);
        let stem = last.len().saturating_sub(".gguf".len());
        last.get(..stem)
            .unwrap_or(last)
            .chars()
            .map(|letter| {
                if is_name(letter.encode_utf8(&mut [0; 4])) || letter == '.' {
                    letter
                } else {
                    '-'
                }
            })
            .collect()
    }
}

impl fmt::Display for Source {
    /// As it may be written again; queries, which may hold tokens, are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Hub { repo, file: None } => write!(f, "hf:{repo}"),
            Source::Hub {
                repo,
                file: Some(file),
            } => write!(f, "hf:{repo}:{file}"),
            Source::Url(url) => {
                let mut bare = url.clone();
                bare.set_query(None);
                bare.set_fragment(None);
                bare.fmt(f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_repositories_or_addresses() {
        let cases = [
            ("Qwen/Q-GGUF", Ok("hf:Qwen/Q-GGUF")),
            ("hf:Qwen/Q:a.gguf", Ok("hf:Qwen/Q:a.gguf")),
            ("Qwen/Q:sub/a.GGUF", Ok("hf:Qwen/Q:sub/a.GGUF")),
            (
                "https://h.example/a.gguf?token=t",
                Ok("https://h.example/a.gguf"),
            ),
            (
                "https://huggingface.co/o/r/blob/main/a.gguf",
                Ok("https://huggingface.co/o/r/resolve/main/a.gguf"),
            ),
            ("http://127.0.0.1:8/a.gguf", Ok("http://127.0.0.1:8/a.gguf")),
            ("http://[::1]:8/a.gguf", Ok("http://[::1]:8/a.gguf")),
            ("http://h.example/a.gguf", Err(SourceFault::PlainHttp)),
            ("ftp://h.example/a.gguf", Err(SourceFault::Shape)),
            (
                "https://u:p@h.example/a.gguf",
                Err(SourceFault::Credentials),
            ),
            ("https://h.example/a.bin", Err(SourceFault::NotGguf)),
            ("Qwen/Q:a.safetensors", Err(SourceFault::NotGguf)),
            ("Qwen/Q:../a.gguf", Err(SourceFault::Shape)),
            ("../Q", Err(SourceFault::Shape)),
            ("model.gguf", Err(SourceFault::Shape)),
            ("a/b/c", Err(SourceFault::Shape)),
            ("", Err(SourceFault::Shape)),
        ];
        for (text, wanted) in cases {
            let found = text.parse::<Source>().map(|source| source.to_string());
            assert_eq!(found.as_deref(), wanted.as_deref(), "{text}");
        }
    }

    #[test]
    fn models_are_named_after_their_file() {
        assert_eq!(
            Source::model_name("sub/My Model.Q4_K.gguf"),
            "My-Model.Q4_K"
        );
    }
}
