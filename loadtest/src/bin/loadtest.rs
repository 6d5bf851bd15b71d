//! The driver's command line: measure given targets, or start a fleet and measure that.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use loadtest::{Course, Fleet, Load, Report, Scenario, Target};

/// Measures what a proxy adds to chat requests.
///
/// Every round visits every target; added time is taken against the first target within each round,
/// and the table shows medians over the rounds.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a fake upstream, hedge and, if there is one, nginx; measure; end them.
    Bench {
        /// The hedge to measure.
        #[arg(long, default_value = "target/release/hedge")]
        hedge: PathBuf,
        #[command(flatten)]
        course: CourseArgs,
    },
    /// Measure servers that are already running.
    Run {
        /// NAME,ADDR:PORT,MODEL[,PID]; may be repeated. The first is the floor.
        #[arg(long = "target", required = true, value_parser = parse_target)]
        targets: Vec<Target>,
        #[command(flatten)]
        course: CourseArgs,
    },
}

#[derive(Debug, Args)]
struct CourseArgs {
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// How long one measurement of whole replies lasts.
    #[arg(long, default_value_t = 1000)]
    window_ms: u64,
    /// Connections of a scenario of whole replies; may be repeated.
    #[arg(long = "connections", default_values_t = [1, 64])]
    connections: Vec<u32>,
    /// Streams held at once; 0 leaves the scenario out.
    #[arg(long, default_value_t = 256)]
    streams: u32,
    /// Tokens of each stream.
    #[arg(long, default_value_t = 50)]
    stream_tokens: u32,
    /// Milliseconds between a stream's tokens.
    #[arg(long, default_value_t = 20)]
    stream_gap_ms: u32,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "loadtest/out/report.json")]
    out: PathBuf,
}

fn parse_target(text: &str) -> Result<Target, String> {
    let fields: Vec<&str> = text.split(',').collect();
    let (name, addr, model, pid) = match fields.as_slice() {
        [name, addr, model] => (name, addr, model, None),
        [name, addr, model, pid] => {
            let pid = pid.parse().map_err(|_| "the PID is no number")?;
            (name, addr, model, Some(pid))
        }
        _ => return Err("expected NAME,ADDR:PORT,MODEL[,PID]".to_owned()),
    };
    let addr: SocketAddr = addr.parse().map_err(|_| "ADDR:PORT is no address")?;
    Ok(Target {
        name: (*name).to_owned(),
        addr,
        model: (*model).to_owned(),
        pid,
    })
}

impl CourseArgs {
    fn course(&self, targets: Vec<Target>) -> Course {
        let whole = self.connections.iter().map(|connections| Scenario {
            name: format!("whole c={connections}"),
            load: Load::Whole {
                connections: *connections,
            },
        });
        let streams = (self.streams > 0).then(|| Scenario {
            name: format!("streams n={}", self.streams),
            load: Load::Streams {
                streams: self.streams,
                tokens: self.stream_tokens,
                gap_ms: self.stream_gap_ms,
            },
        });
        Course {
            targets,
            scenarios: whole.chain(streams).collect(),
            rounds: self.rounds,
            window: Duration::from_millis(self.window_ms),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "loadtest: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run { targets, course } => {
            let report = drive(&course.course(targets))?;
            publish(&report, &course.out)
        }
        Command::Bench { hedge, course } => {
            let upstream = std::env::current_exe()
                .context("this program's own path is unknown")?
                .with_file_name("fake-upstream");
            let nginx = find_nginx();
            if nginx.is_none() {
                writeln!(
                    std::io::stderr(),
                    "nginx is not installed: no floor to compare with"
                )?;
            }
            let fleet = Fleet::start(&upstream, &hedge, nginx.as_deref())?;
            let report = drive(&course.course(fleet.targets.clone()))?;
            drop(fleet);
            publish(&report, &course.out)
        }
    }
}

fn drive(course: &Course) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let progress = |line: &str| drop(writeln!(std::io::stderr(), "{line}"));
    Ok(runtime.block_on(loadtest::run(course, progress))?)
}

fn publish(report: &Report, out: &Path) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}, {} rounds", report.machine, report.rounds)?;
    writeln!(stdout, "{}", report.table())?;
    for (scenario, ratio) in report.ratios("hedge", "nginx") {
        writeln!(stdout, "hedge / nginx, added p50, {scenario}: {ratio:.2}")?;
    }
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(out, serde_json::to_string_pretty(&report.to_json())?)
        .with_context(|| format!("cannot write {}", out.display()))?;
    writeln!(stdout, "figures: {}", out.display())?;
    let failed: u64 = report.rows().iter().map(|row| row.failed).sum();
    if failed > 0 {
        bail!("{failed} requests failed");
    }
    Ok(())
}

/// Debian puts it where an ordinary user's PATH does not look.
fn find_nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join("nginx"))
        .find(|nginx| nginx.is_file())
}
