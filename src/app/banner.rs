//! What `hedge serve` says when it serves: an address, and two ways to use it that work as pasted.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use providers::Members;

use crate::config::Config;
use crate::local::{LocalModel, Located};
use crate::node::Addresses;

/// The whole text, ending in a newline.
#[must_use]
pub fn text(
    config: &Config,
    located: &Located,
    addresses: Addresses,
    asks_for_keys: bool,
) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, config, located, addresses, asks_for_keys);
    text
}

fn write_text(
    text: &mut String,
    config: &Config,
    located: &Located,
    addresses: Addresses,
    asks_for_keys: bool,
) -> std::fmt::Result {
    let base = addresses
        .clients
        .map(|clients| format!("http://{}/v1", reachable(clients)));
    let version = env!("CARGO_PKG_VERSION");
    writeln!(text)?;
    if let Some(base) = &base {
        writeln!(text, "hedge {version} serves {base}")?;
    }
    if let (Some(gateway), Some(edges)) = (&config.gateway, addresses.edges) {
        let scheme = if gateway.has_tls { "https" } else { "http" };
        let edges = reachable(edges);
        let name = &gateway.relay_id;
        writeln!(text, "hedge {version} relays {scheme}://{edges} as {name}")?;
    }
    writeln!(text)?;
    match &located.default {
        Ok(model) => writeln!(text, "  local    {}", local_line(model))?,
        Err(absent) => writeln!(text, "  local    none: {}", absent.as_words())?,
    }
    for model in &located.further {
        writeln!(text, "  model    {}", local_line(model))?;
    }
    for pool in &config.pools {
        let (name, model) = (&pool.asked.name, &pool.asked.default_model);
        let kind = pool.kind.as_label();
        let members = match &pool.members {
            Members::Listed(urls) => format!("{} endpoints", urls.len()),
            Members::Dns { base_url, .. } => format!("as {base_url} leads to"),
        };
        writeln!(text, "  pool     {name} ({model}, {kind}, {members})")?;
    }
    if config.upstreams.is_empty() && config.relays.is_empty() {
        writeln!(text, "  cloud    none; add [[upstreams]] to hedge.toml")?;
    }
    for upstream in &config.upstreams {
        let (name, model) = (&upstream.name, &upstream.default_model);
        writeln!(text, "  cloud    {name} ({model})")?;
    }
    for relay in &config.relays {
        let (name, model) = (&relay.asked.name, &relay.asked.default_model);
        let members = match relay.members.len() {
            1 => "1 relay".to_owned(),
            more => format!("{more} relays"),
        };
        writeln!(
            text,
            "  sealed   {name} ({model}, {members}, {})",
            relay.shape
        )?;
    }
    writeln!(text, "  routes   {}", config.routes.name)?;
    if base.is_some() {
        let keys = match (asks_for_keys, config.keys.len()) {
            (false, _) => "none asked for".to_owned(),
            (true, 0) => "asked for; `hedge keys list` shows them".to_owned(),
            (true, 1) => "1 known".to_owned(),
            (true, more) => format!("{more} known"),
        };
        writeln!(text, "  keys     {keys}")?;
    }
    if let Some(admin) = addresses.admin {
        writeln!(text, "  metrics  http://{admin}/metrics")?;
    }
    match base {
        Some(base) => write_first_steps(text, &base, asks_for_keys),
        None => writeln!(
            text,
            "\nAn edge joins with what this prints:\n  hedge relay edges add EDGE\n"
        ),
    }
}

/// Two ways to use it that work as pasted.
fn write_first_steps(text: &mut String, base: &str, has_keys: bool) -> std::fmt::Result {
    let header = if has_keys {
        " -H \"authorization: Bearer $HEDGE_API_KEY\""
    } else {
        ""
    };
    let question = "What is the capital of Portugal?";
    writeln!(
        text,
        "\nTry it:\n  curl -N {base}/chat/completions{header} -H 'content-type: application/json' \
         -d '{{\"model\":\"auto\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\
         \"{question}\"}}]}}'"
    )?;
    let key = if has_keys {
        "os.environ[\"HEDGE_API_KEY\"]"
    } else {
        "\"none\""
    };
    let import = if has_keys { "import os\n  " } else { "" };
    writeln!(
        text,
        "\nFrom Python (pip install openai):\n  {import}from openai import OpenAI\n  \
         client = OpenAI(base_url=\"{base}\", api_key={key})\n  \
         reply = client.chat.completions.create(model=\"auto\", messages=[{{\"role\": \"user\", \
         \"content\": \"{question}\"}}])\n  print(reply.choices[0].message.content)\n"
    )
}

fn local_line(model: &LocalModel) -> String {
    let millions = model.summary.parameter_count as f64 / 1e6;
    let bundled = if model.is_bundled { ", bundled" } else { "" };
    let name = &model.engine.name;
    let architecture = &model.summary.architecture;
    let when = if model.stay.is_loaded_at_start {
        "loading"
    } else {
        "on demand"
    };
    format!("{name} ({architecture}, {millions:.1} M parameters{bundled}), {when}")
}

/// An address to type: listening on all of them includes this machine's own.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_everywhere_is_reached_here() {
        let shown = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(shown("[::]:80"), "[::1]:80");
        assert_eq!(shown("10.0.0.1:80"), "10.0.0.1:80");
    }
}
