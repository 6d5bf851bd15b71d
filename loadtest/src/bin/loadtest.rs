//! The driver's command line: measure given targets, or start a fleet and measure that.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use loadtest::{
    Agree, Agreement, Course, EngineLoad, Fairness, Fleet, Heat, Ledger, Load, Pair, Race, Report,
    Reuse, Scenario, Soak, SoakReport, Standing, Survived, Target, Verdict, survive,
};

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
        /// NAME,ADDR:PORT,MODEL[,PID[,KEY]]; may be repeated. The first is the floor.
        #[arg(long = "target", required = true, value_parser = parse_target)]
        targets: Vec<Target>,
        #[command(flatten)]
        course: CourseArgs,
    },
    /// Send everything callers do to a hedge with a local model, for a long time, and see that nothing
    /// of it stays: no memory, no slot, no reply without an end. Linux only.
    Soak(SoakArgs),
    /// Race local engines that are already running, on the same weights. The first is the one the
    /// others are compared with.
    Engine {
        /// NAME,ADDR:PORT,MODEL[,PID]; may be repeated.
        #[arg(long = "target", required = true, value_parser = parse_target)]
        targets: Vec<Target>,
        #[command(flatten)]
        race: RaceArgs,
    },
    /// Ask local engines that are already running the same questions, alone and many at once, and compare
    /// texts, log probabilities or embeddings. The first is the one the others are compared with.
    Agree {
        /// NAME,ADDR:PORT,MODEL; may be repeated.
        #[arg(long = "target", required = true, value_parser = parse_target)]
        targets: Vec<Target>,
        #[command(flatten)]
        agree: AgreeArgs,
    },
    /// Start two fake upstreams, one of which fails by chance, and hedge before them; see that nearly all
    /// callers get a whole answer and that it costs few further requests.
    Failing(FailingArgs),
    /// Measure how long one team's short question waits beside another team's load, against alone.
    /// The server must know two keys, of two teams.
    Fairness {
        /// NAME,ADDR:PORT,MODEL.
        #[arg(long = "target", value_parser = parse_target)]
        target: Target,
        #[command(flatten)]
        fairness: FairnessArgs,
    },
    /// Measure hits and misses of a cache that is already running, beside a node without one.
    /// loadtest/reuse/run.sh starts both.
    Reuse {
        /// NAME,ADDR:PORT,MODEL, with a cache.
        #[arg(long, value_parser = parse_target)]
        cached: Target,
        /// NAME,ADDR:PORT,MODEL, without one.
        #[arg(long, value_parser = parse_target)]
        bare: Target,
        /// The cache's encoder, as the node with the cache serves it at /v1/embeddings.
        #[arg(long)]
        encoder: String,
        #[arg(long, default_value_t = 1_000)]
        questions: u32,
    },
}

#[derive(Debug, Args)]
struct FailingArgs {
    #[arg(long, default_value = "target/release/hedge")]
    hedge: PathBuf,
    #[arg(long, default_value_t = 5_000)]
    callers: u32,
    /// Callers at a time.
    #[arg(long, default_value_t = 16)]
    lanes: u32,
    /// Of its chats, how many the first upstream fails, in percent.
    #[arg(long, default_value_t = 30)]
    percent: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl FailingArgs {
    fn run(&self) -> anyhow::Result<Failed> {
        let pair = Pair::start(self.percent, self.seed)?;
        let upstreams = [pair.failing.addr(), pair.sound.addr()];
        // Ends when the callers are through.
        let fleet = Fleet::before(&self.hedge, &upstreams)?;
        let target = &fleet.targets[0];
        let survived = runtime()?.block_on(survive(target, &pair, self.callers, self.lanes))?;
        let ledger = Ledger::read(&fleet.into_log("hedge")?);
        Ok(Failed { survived, ledger })
    }
}

/// What came of callers before an upstream that fails, and what the node wrote down of them.
#[derive(Debug, serde::Serialize)]
struct Failed {
    #[serde(flatten)]
    survived: Survived,
    #[serde(flatten)]
    ledger: Ledger,
}

#[derive(Debug, Args)]
struct FairnessArgs {
    /// The API key of the team with the load.
    #[arg(long)]
    crowd_key: Option<String>,
    /// The API key of the team with the short question.
    #[arg(long)]
    guest_key: Option<String>,
    /// Long requests open at once: 8 under way and 64 queued.
    #[arg(long, default_value_t = 72)]
    clients: u32,
    /// Tokens of a long request's prompt.
    #[arg(long, default_value_t = 256)]
    crowd_prompt: u32,
    /// Tokens of its answer.
    #[arg(long, default_value_t = 128)]
    crowd_answer: u32,
    /// Tokens of the question.
    #[arg(long, default_value_t = 64)]
    prompt: u32,
    /// Tokens of its answer.
    #[arg(long, default_value_t = 8)]
    answer: u32,
    /// Questions of a round, alone and again beside the load.
    #[arg(long, default_value_t = 12)]
    questions: u32,
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "loadtest/out/fairness.json")]
    out: PathBuf,
}

impl FairnessArgs {
    fn course(&self, target: Target) -> Fairness {
        Fairness {
            target,
            crowd_key: self.crowd_key.clone(),
            guest_key: self.guest_key.clone(),
            clients: self.clients,
            crowd_prompt_tokens: self.crowd_prompt,
            crowd_answer_tokens: self.crowd_answer,
            guest_prompt_tokens: self.prompt,
            guest_answer_tokens: self.answer,
            questions: self.questions,
            rounds: self.rounds,
        }
    }
}

#[derive(Debug, Args)]
struct RaceArgs {
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Clients that ask at once; may be repeated.
    #[arg(long = "clients", default_values_t = [1, 8])]
    clients: Vec<u32>,
    /// Tokens of a prompt; may be repeated.
    #[arg(long = "prompt", default_values_t = [256])]
    prompt_tokens: Vec<u32>,
    /// Tokens with which every prompt begins alike.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Tokens of an answer.
    #[arg(long = "answer", default_value_t = 64)]
    answer_tokens: u32,
    /// Prompts of each client.
    #[arg(long, default_value_t = 4)]
    requests: u32,
    /// Clients with prompts of 32, 256 and 1024 tokens in turn; 0 leaves the load out.
    #[arg(long, default_value_t = 0)]
    mixed: u32,
    /// Streams under way while a prompt of 1024 tokens arrives; 0 leaves the load out.
    #[arg(long, default_value_t = 0)]
    stall: u32,
    /// Processors kept busy by others during a load; may be repeated, each load then comes once with
    /// each.
    #[arg(long, default_values_t = [0])]
    neighbours: Vec<u32>,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "loadtest/out/engine.json")]
    out: PathBuf,
}

impl RaceArgs {
    fn race(&self, targets: Vec<Target>) -> Race {
        let heat = |name: String, load, requests| Heat {
            name,
            load,
            answer_tokens: self.answer_tokens,
            shared_tokens: self.shared,
            requests,
            neighbours: 0,
        };
        let mut heats = Vec::new();
        for prompt_tokens in self.prompt_tokens.iter().copied() {
            for clients in self.clients.iter().copied() {
                let load = EngineLoad::Even {
                    clients,
                    prompt_tokens,
                };
                let name = format!("c={clients} p={prompt_tokens} s={}", self.shared);
                heats.push(heat(name, load, self.requests));
            }
        }
        if self.mixed > 0 {
            let load = EngineLoad::Mixed {
                clients: self.mixed,
            };
            heats.push(heat(format!("mixed c={}", self.mixed), load, self.requests));
        }
        if self.stall > 0 {
            let load = EngineLoad::Stall {
                streams: self.stall,
            };
            heats.push(heat(format!("stall n={}", self.stall), load, 1));
        }
        Race {
            targets,
            heats: beside(&heats, &self.neighbours),
            rounds: self.rounds,
        }
    }
}

/// Each heat beside each number of neighbours.
fn beside(heats: &[Heat], neighbours: &[u32]) -> Vec<Heat> {
    let pairs = heats
        .iter()
        .flat_map(|heat| neighbours.iter().map(move |count| (heat, *count)));
    pairs
        .map(|(heat, neighbours)| Heat {
            name: match neighbours {
                0 => heat.name.clone(),
                count => format!("{} busy={count}", heat.name),
            },
            neighbours,
            ..heat.clone()
        })
        .collect()
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// The hedge to start.
    #[arg(long, default_value = "target/release/hedge")]
    hedge: PathBuf,
    /// A GGUF file instead of the model inside the binary.
    #[arg(long)]
    model: Option<PathBuf>,
    /// A node that already runs, instead of one that is started: NAME,ADDR:PORT,MODEL,PID.
    #[arg(long, value_parser = parse_target, conflicts_with_all = ["hedge", "model"])]
    target: Option<Target>,
    /// Where that node shows its metrics.
    #[arg(long, requires = "target")]
    admin: Option<SocketAddr>,
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Callers at once.
    #[arg(long, default_value_t = 12)]
    clients: u32,
    /// `local.slots_max`, of the node that is started or that runs.
    #[arg(long, default_value_t = 8)]
    slots: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "loadtest/out/soak.json")]
    out: PathBuf,
}

impl SoakArgs {
    fn soak(&self, target: Target, admin: Option<SocketAddr>) -> anyhow::Result<Soak> {
        let span = Duration::try_from_secs_f64(self.minutes * 60.0);
        let span = span.context("--minutes is out of range")?;
        if span.is_zero() || self.clients == 0 || self.slots == 0 {
            bail!("--minutes, --clients and --slots are above 0");
        }
        Ok(Soak {
            target,
            admin,
            span,
            clients: self.clients,
            slots: self.slots,
            seed: self.seed,
        })
    }
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
    /// Connections that read one short stream after another, for the time to the first event; may be
    /// repeated.
    #[arg(long = "first-events", default_values_t = [1])]
    first_events: Vec<u32>,
    /// Streams held at once; 0 leaves the scenario out.
    #[arg(long, default_value_t = 512)]
    streams: u32,
    /// Tokens of each stream.
    #[arg(long, default_value_t = 64)]
    stream_tokens: u32,
    /// Milliseconds between a stream's tokens.
    #[arg(long, default_value_t = 20)]
    stream_gap_ms: u32,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "loadtest/out/report.json")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct AgreeArgs {
    #[arg(long, default_value_t = 50)]
    questions: u32,
    /// Tokens of an answer, at most.
    #[arg(long = "answer", default_value_t = 64)]
    answer_tokens: u32,
    /// Questions at once in the second pass.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Compare what `/v1/embeddings` gives.
    #[arg(long)]
    embeddings: bool,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "loadtest/out/agree.json")]
    out: PathBuf,
}

fn parse_target(text: &str) -> Result<Target, String> {
    let fields: Vec<&str> = text.split(',').collect();
    let (name, addr, model, more) = match fields.as_slice() {
        [name, addr, model, more @ ..] if more.len() <= 2 => (name, addr, model, more),
        _ => return Err("expected NAME,ADDR:PORT,MODEL[,PID[,KEY]]".to_owned()),
    };
    let pid = more.first().map(|pid| pid.parse());
    let pid = pid.transpose().map_err(|_| "the PID is no number")?;
    let addr: SocketAddr = addr.parse().map_err(|_| "ADDR:PORT is no address")?;
    Ok(Target {
        name: (*name).to_owned(),
        addr,
        model: (*model).to_owned(),
        pid,
        key: more.get(1).map(|key| (*key).to_owned()),
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
        let first_events = self.first_events.iter().map(|connections| Scenario {
            name: format!("first event c={connections}"),
            load: Load::FirstEvents {
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
            scenarios: whole.chain(first_events).chain(streams).collect(),
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
        Command::Soak(args) => {
            // Ends when the soak is over.
            let (_fleet, target, admin) = match &args.target {
                Some(target) => (None, target.clone(), args.admin),
                None => {
                    let started = Fleet::with_model(&args.hedge, args.model.as_deref(), args.slots);
                    let (fleet, admin) = started?;
                    let target = fleet.targets[0].clone();
                    (Some(fleet), target, Some(admin))
                }
            };
            let soak = args.soak(target, admin)?;
            let report = runtime()?.block_on(loadtest::soak(&soak, say))?;
            publish_soak(&report, &args.out)
        }
        Command::Engine { targets, race } => {
            let course = race.race(targets);
            let standing = runtime()?.block_on(loadtest::race(&course, say))?;
            publish_race(&standing, &race.out)
        }
        Command::Agree { targets, agree } => {
            let asked = Agree {
                targets,
                questions: agree.questions,
                answer_tokens: agree.answer_tokens,
                clients: agree.clients,
                of_embeddings: agree.embeddings,
            };
            let agreement = runtime()?.block_on(loadtest::agree(&asked, say))?;
            publish_agreement(&agreement, &agree.out)
        }
        Command::Failing(args) => {
            let failed = args.run()?;
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&failed)?)?;
            ensure!(
                failed.survived.is_well(),
                "too many callers without a whole answer, or too many requests for it"
            );
            ensure!(
                failed.ledger.is_well(&failed.survived),
                "an answer was charged twice, or not at all"
            );
            Ok(())
        }
        Command::Fairness { target, fairness } => {
            let course = fairness.course(target);
            let verdict = runtime()?.block_on(loadtest::fairness(&course, say))?;
            publish_verdict(&verdict, &fairness.out)
        }
        Command::Reuse {
            cached,
            bare,
            encoder,
            questions,
        } => {
            let course = Reuse {
                cached,
                bare,
                encoder,
                questions,
            };
            let reused = runtime()?.block_on(loadtest::reuse(&course, say))?;
            writeln!(std::io::stdout(), "{}\n{}", reused.machine, reused.table())?;
            Ok(())
        }
    }
}

fn drive(course: &Course) -> anyhow::Result<Report> {
    Ok(runtime()?.block_on(loadtest::run(course, say))?)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn publish(report: &Report, out: &Path) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}, {} rounds", report.machine, report.rounds)?;
    writeln!(stdout, "{}", report.table())?;
    for (scenario, ratio) in report.ratios("hedge", "nginx") {
        writeln!(stdout, "hedge / nginx, added p50, {scenario}: {ratio:.2}")?;
    }
    write_figures(&report.to_json(), out)?;
    refuse_failures(report.rows().iter().map(|row| row.failed).sum())
}

fn publish_race(standing: &Standing, out: &Path) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}, {} rounds", standing.machine, standing.rounds)?;
    writeln!(stdout, "{}", standing.table())?;
    write_figures(&standing.to_json(), out)?;
    refuse_failures(standing.places().iter().map(|place| place.failed).sum())
}

fn publish_soak(report: &SoakReport, out: &Path) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "{}, {:.1} minutes, {} callers",
        report.machine,
        report.span_s / 60.0,
        report.clients
    )?;
    writeln!(stdout, "{}", report.table())?;
    write_figures(&report.to_json(), out)?;
    if !report.is_good() {
        bail!("not all checks hold");
    }
    Ok(())
}

fn publish_agreement(agreement: &Agreement, out: &Path) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", agreement.machine)?;
    writeln!(stdout, "{}", agreement.table())?;
    write_figures(&serde_json::to_value(agreement)?, out)
}

fn publish_verdict(verdict: &Verdict, out: &Path) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", verdict.machine)?;
    writeln!(stdout, "{}", verdict.table())?;
    writeln!(
        stdout,
        "beside / alone, first text p50: {:.2}",
        verdict.ratio
    )?;
    write_figures(&serde_json::to_value(verdict)?, out)?;
    refuse_failures(verdict.failed())
}

fn write_figures(figures: &serde_json::Value, out: &Path) -> anyhow::Result<()> {
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(out, serde_json::to_string_pretty(figures)?)
        .with_context(|| format!("cannot write {}", out.display()))?;
    writeln!(std::io::stdout(), "figures: {}", out.display())?;
    Ok(())
}

fn refuse_failures(failed: u64) -> anyhow::Result<()> {
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
