//! The fake upstream as a process of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use loadtest::{Behaviour, FakeConfig, FakeUpstream, Flaky, Mishap};

/// A server of OpenAI's chats, completions and embeddings, and of Anthropic's messages, with set speed
/// and failures.
///
/// A request may ask for another behaviour in its text: `[[fake status=429 retry-after=7]]`; also
/// tokens=N, delay-ms=N, gap-ms=N, call=TOOL or call=TOOL,TOOL, think=N, cached=N, written=N, ends=REASON,
/// cut-after=N, cut-byte=N, error-after=N, end-early=N, hang, hang-after=N, garbage.
/// GET /_seen shows the requests so far, DELETE /_seen forgets them.
#[derive(Debug, Parser)]
struct Args {
    /// Port 0 takes a free one; the address in use is the first line printed.
    #[arg(long, default_value = "127.0.0.1:9797")]
    listen: SocketAddr,
    /// A model that /v1/models lists; may be repeated.
    #[arg(long = "model", default_value = "bench")]
    models: Vec<String>,
    /// The bearer every request must carry.
    #[arg(long)]
    key: Option<String>,
    /// Tokens a second within a stream; 0 sends as fast as the reader reads.
    #[arg(long, default_value_t = 0)]
    tokens_per_s: u32,
    /// Milliseconds before a reply's head.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Tokens in a reply.
    #[arg(long, default_value_t = 16)]
    tokens: u32,
    /// The text of every reply, instead of counted tokens.
    #[arg(long)]
    text: Option<String>,
    /// Answer every chat with this status.
    #[arg(long)]
    status: Option<u16>,
    /// Fail that many chats in a hundred, by chance.
    #[arg(long)]
    fail_percent: Option<u32>,
    #[arg(long, default_value_t = 1)]
    fail_seed: u64,
    /// Go on with the text where a last message by the assistant leaves off.
    #[arg(long)]
    continues: bool,
    /// Do not keep requests for /_seen.
    #[arg(long)]
    forget: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let token_gap = match args.tokens_per_s {
        0 => Duration::ZERO,
        rate => Duration::from_secs(1) / rate,
    };
    let config = FakeConfig {
        listen: args.listen,
        models: args.models,
        key: args.key,
        records: !args.forget,
        flaky: args.fail_percent.map(|percent| Flaky {
            percent,
            seed: args.fail_seed,
        }),
        behaviour: Behaviour {
            head_delay: Duration::from_millis(args.delay_ms),
            token_gap,
            tokens: args.tokens,
            text: args.text,
            continues: args.continues,
            mishap: args.status.map(|status| Mishap::Status {
                status,
                retry_after_s: None,
            }),
            ..Behaviour::default()
        },
    };
    match FakeUpstream::start(config) {
        Ok(fake) => {
            // Nobody listening to the line is no reason to stop serving.
            drop(writeln!(std::io::stdout(), "{}", fake.addr()));
            fake.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            drop(writeln!(std::io::stderr(), "fake-upstream: {error}"));
            ExitCode::FAILURE
        }
    }
}
