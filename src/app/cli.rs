//! The command line: names, words and examples. What each command does is in [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// One OpenAI-compatible endpoint that answers on this machine or in the cloud.
#[derive(Debug, Parser)]
#[command(
    name = "hedge",
    version,
    about,
    long_about = "hedge answers OpenAI-compatible requests. For each it decides whether a reply is \
        already known, whether the model on this machine should answer, or which cloud may.\n\n\
        Nothing needs to be set up: `hedge serve` starts with a small model that is inside the \
        binary.",
    after_help = "First steps:
  hedge serve                          serve on http://127.0.0.1:8787/v1
  hedge chat \"What is the capital of Portugal?\"
                                       ask the running server
  hedge doctor                         what this machine can do, and what is missing

Next steps:
  hedge models pull Qwen/Qwen2.5-1.5B-Instruct-GGUF
                                       a larger model; then set local.model in hedge.toml
  hedge relay init                     a relay of your own, which nobody on the way can look into
  hedge config schema                  every key of hedge.toml
  hedge check                          everything wrong with hedge.toml, at once",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer requests until told to stop
    #[command(after_help = "Examples:
  hedge serve
  hedge serve --listen 127.0.0.1:9000
  hedge serve --config /etc/hedge.toml
  HEDGE_LOCAL__MODEL=./model.gguf hedge serve

Then, from any OpenAI client: base_url http://127.0.0.1:8787/v1, any api_key, model \"auto\".
SIGTERM or Ctrl-C lets running replies finish; a second one ends at once. SIGHUP reloads
routes, aliases, upstreams, pools, keys and privacy rules, whole or not at all.")]
    Serve(ServeArgs),
    /// Say everything that is wrong with the configuration, without starting
    Check(ConfigArgs),
    /// Print the configuration's schema, or what is in force
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Talk to a running server from the terminal
    #[command(after_help = "Examples:
  hedge chat \"What is the capital of Portugal?\"
  hedge chat --model local
  echo \"Summarise this\" | hedge chat -
  HEDGE_API_KEY=... hedge chat --url https://hedge.example/v1

Without a prompt it keeps asking; an empty line or Ctrl-D ends it.")]
    Chat(ChatArgs),
    /// Show the models of a running server: state, slots, speed, memory
    #[command(after_help = "Examples:
  hedge ps
  hedge ps --json
  hedge ps --url http://127.0.0.1:9001

It asks the admin listener, which the configuration names unless --url does.")]
    Ps(PsArgs),
    /// What a running server keeps for other requests, and why a request got what it got
    #[command(after_help = "Examples:
  hedge cache stats
  hedge cache explain 0193b3a0-7c2e-7000-8000-0123456789ab
                                       the id is the answer's x-request-id
  hedge cache purge --tag spring
  hedge cache purge --all

It asks the admin listener, which the configuration names unless --url does. No text is shown.")]
    Cache {
        #[command(subcommand)]
        what: CacheCommand,
    },
    /// Keys of a running server: make, list, disable, rotate and delete them
    #[command(after_help = "Examples:
  hedge keys create --team research --name ci --expires 30d
  hedge keys create --team research --models auto,local --networks 10.0.0.0/8 --limit cost=25/month
  hedge keys list --team research
  hedge keys show ci
  hedge keys disable ci
  hedge keys enable ci
  hedge keys change ci --expires never --limit requests=600/minute --limit concurrency=8
  hedge keys rotate ci --overlap 24h   the old secret and the new one both open until then
  hedge keys delete ci

A secret is shown once, when it is made. Keys in the configuration file are listed, and changed there
alone. It asks the admin listener, which the configuration names unless --url does, and sends the token
in HEDGE_ADMIN_TOKEN where that is set. docs/keys.md says more.")]
    Keys {
        #[command(subcommand)]
        what: KeysCommand,
    },
    /// What a running server keeps of somebody: hand it out, or remove it
    #[command(after_help = "Examples:
  hedge data export --user anna@example.com --json > anna.json
  hedge data export --user anna@example.com --team research
  hedge data export --tag customer:17
  hedge data erase --user anna@example.com --yes
  hedge data erase --tag customer:17

A user is whom requests name by `user`, `safety_identifier` or `metadata.user_id`, letter by letter; a tag
is one of x-hedge-cache-tags. What was spent and saved stays as it was. Erasing takes the role `owner`. It
asks the admin listener, which the configuration names unless --url does, and sends the token in
HEDGE_ADMIN_TOKEN where that is set. docs/data.md says what is found where.")]
    Data {
        #[command(subcommand)]
        what: DataCommand,
    },
    /// Teams of a running server, which keys are of
    #[command(after_help = "Examples:
  hedge teams create research --limit cost=1000/month,when_spent=local
  hedge teams list
  hedge teams change research --limit cost=2000/month
  hedge teams delete research

What is said with --limit takes the place of all limits that the team had. A team that has keys is not
deleted.")]
    Teams {
        #[command(subcommand)]
        what: TeamsCommand,
    },
    /// What everybody, teams and keys may use, and what is left of it
    #[command(after_help = "Examples:
  hedge limits list
  hedge limits list --json
  hedge limits set --team research --limit cost=25/month --limit tokens=2000000/hour
  hedge limits set --key ci --limit requests=600/minute,burst=60
  hedge limits set --key ci            takes all its own limits away")]
    Limits {
        #[command(subcommand)]
        what: LimitsCommand,
    },
    /// What may be spent, and what is left of it: the limits of cost
    #[command(after_help = "Examples:
  hedge budgets list
  hedge budgets list --json")]
    Budgets {
        #[command(subcommand)]
        what: BudgetsCommand,
    },
    /// Look at this machine and say what is missing and what to do next
    Doctor(ConfigArgs),
    /// Fetch, list and remove model files
    Models {
        #[command(subcommand)]
        what: ModelsCommand,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// What an exchange said, where a running server keeps it
    #[command(after_help = "Examples:
  hedge records show 0193b3a0-7c2e-7000-8000-0123456789ab
                                       the id is the answer's x-request-id
  hedge records show ID --json

Prompts and replies are kept where [retention] says so (docs/retention.md). Reading one takes the role
`owner`, and is written down in the audit log. It asks the admin listener, which the configuration names
unless --url does, and sends the token in HEDGE_ADMIN_TOKEN where that is set.")]
    Records {
        #[command(subcommand)]
        what: RecordsCommand,
    },
    /// What this node spent and saved, and how that is known
    #[command(after_help = "Examples:
  hedge savings
  hedge savings --since 7d --team research
  hedge savings --since 2026-11-01 --json
  hedge savings --csv

It reads the records that a server keeps (docs/records.md), while it runs or not. What ended less than
a second ago may be missing. Days begin at midnight in organisation.time_zone.")]
    Savings(SavingsArgs),
    /// What is kept where, and how it comes to where replicas share it
    #[command(after_help = "Examples:
  hedge store status
  hedge store status --json
  hedge store migrate

With postgres under [store], the records of all replicas are in one database (docs/records.md).
`migrate` moves there what this node kept before, counts it on both sides, and renames the file. It may
be interrupted, and run again: what is there already is not doubled.")]
    Store {
        #[command(subcommand)]
        what: StoreCommand,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Whether the audit log of what was sealed is as it was written, and both ends' agree
    Audit {
        #[command(subcommand)]
        what: AuditCommand,
    },
    /// Run a relay: open what edges seal, and answer it
    #[command(after_help = "Examples:
  hedge relay init                     make a relay's keys, its relay.toml and a first token
  hedge relay                          run it
  hedge relay join https://localhost:8443 TOKEN
                                       on an edge: become one, with what init printed
  hedge relay edges add branch-7       a token for another edge
  hedge relay edges list
  hedge relay edges revoke branch-7    at once, with its answers under way

docs/relay.md says what is hidden from whom. SIGHUP reloads as with `hedge serve`; edges and their
policies are read anew by themselves.")]
    Relay(RelayArgs),
    /// Print the version, and what this build can do
    Version,
    /// Hold a model for the process that started this one
    #[command(hide = true)]
    Engine {
        /// What to log, as `log.level`
        #[arg(long, default_value = "info")]
        log: String,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// The configuration file. Left out: $HEDGE_CONFIG, ./hedge.toml, ~/.config/hedge/hedge.toml
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where clients connect, instead of 127.0.0.1:8787
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
}

#[derive(Debug, Args)]
pub struct RelayArgs {
    /// The relay's file. Left out: $HEDGE_CONFIG, ./relay.toml, ~/.config/hedge/relay.toml. For `join`
    /// the edge's, as for `hedge serve`
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub what: Option<RelayCommand>,
}

#[derive(Debug, Subcommand)]
pub enum RelayCommand {
    /// Make what a relay needs, and a token for its first edge; what is there stays
    Init(RelayInitArgs),
    /// The edges that may come, and what they may do
    Edges {
        #[command(subcommand)]
        what: EdgesCommand,
    },
    /// Become an edge of a relay: on the machine that is to seal
    Join(RelayJoinArgs),
    /// Who the relay is, and who it is going to be
    Identity {
        #[command(subcommand)]
        what: IdentityCommand,
    },
}

#[derive(Debug, Args)]
pub struct RelayInitArgs {
    /// The folder for keys, edges and tokens
    #[arg(long, value_name = "DIR", default_value = "relay")]
    pub dir: PathBuf,
    /// What edges call the relay
    #[arg(long, default_value = "relay")]
    pub name: String,
    /// Where edges reach it
    #[arg(long, value_name = "URL", default_value = "https://localhost:8443")]
    pub url: String,
    /// The first edge
    #[arg(long, value_name = "ID", default_value = "edge-1")]
    pub edge: String,
    /// A model that the first edge may ask for; once for each
    #[arg(long = "model", value_name = "MODEL", default_values = ["auto", "local"])]
    pub models: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum EdgesCommand {
    /// Who may come, and whether they have
    List,
    /// Let an edge join: prints a token for one use within 15 minutes. One that is known gets another
    /// key, and keeps its policy
    Add {
        /// In letters, digits, `-`, `_` and `.`
        id: String,
        /// A model that it may ask for; once for each, `*` for any
        #[arg(long = "model", value_name = "MODEL", default_values = ["auto", "local"])]
        models: Vec<String>,
    },
    /// Take everything from an edge, within a second
    Revoke { id: String },
}

#[derive(Debug, Args)]
pub struct RelayJoinArgs {
    /// Where the relay is, as https://relay.example:8443
    pub url: String,
    /// What the relay printed; `-` reads it from standard input
    pub token: String,
    /// The folder for the membership, instead of one in the usual place
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What callers name it: NAME/model. Left out: as the relay calls itself
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// What edges have pinned
    Show,
    /// Make the next one, and let edges know of it
    Prepare,
    /// Become the next one, once every edge knows of it
    Turn,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every key, its default and its meaning, as JSON schema
    Schema {
        /// Of one further model's file in local.models_dir instead of hedge.toml
        #[arg(long)]
        model: bool,
    },
    /// File, environment and flags together, as TOML; secrets stay hidden
    Show(ConfigArgs),
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The prompt; `-` reads it from standard input
    pub prompt: Option<String>,
    /// The server, up to and including /v1
    #[arg(
        long,
        env = "HEDGE_URL",
        default_value = "http://127.0.0.1:8787/v1",
        value_name = "URL"
    )]
    pub url: String,
    /// auto, local, UPSTREAM/MODEL or an alias
    #[arg(long, env = "HEDGE_MODEL", default_value = "auto")]
    pub model: String,
    /// The API key, where the server asks for one; better as a variable than as a flag
    #[arg(
        long,
        env = "HEDGE_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub key: Option<String>,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The server's admin listener, instead of the configuration's
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// As the server says it, in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SavingsArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// From when on: so many days, hours or minutes ago, or a day
    #[arg(
        long,
        value_name = "30d|12h|45m|today|YYYY-MM-DD",
        default_value = "30d"
    )]
    pub since: String,
    /// Of one team
    #[arg(long)]
    pub team: Option<String>,
    /// For machines; money in micro-dollars
    #[arg(long)]
    pub json: bool,
    /// For tables: the total and its parts, a line each
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Move this node's own records and keys into the Postgres that replicas share
    Migrate,
    /// Which family keeps records and keys, its versions, and how many there are
    Status {
        /// For machines
        #[arg(long)]
        json: bool,
    },
}

/// How to reach a running server's operator's side.
#[derive(Debug, Args)]
pub struct AdminArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The server's admin listener, instead of the configuration's
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// As the server says it, in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is kept for other requests, and what came of looking
    Stats(AdminArgs),
    /// What the cache did for one of the latest requests
    Explain {
        /// The answer's x-request-id
        request_id: String,
        #[command(flatten)]
        args: AdminArgs,
    },
    /// Remove kept replies: by one of tag, model and team, or all
    Purge(PurgeArgs),
}

#[derive(Debug, Subcommand)]
pub enum RecordsCommand {
    /// What was asked and answered
    Show {
        /// The answer's x-request-id
        request_id: String,
        #[command(flatten)]
        args: AdminArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// All of it, one JSON object a line
    Export(SubjectArgs),
    /// Remove all of it; records stay as nobody's, with their numbers
    Erase {
        /// Without asking again
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        subject: SubjectArgs,
    },
}

#[derive(Debug, Args)]
#[group(id = "who", required = true, multiple = false, args = ["user", "tag"])]
pub struct SubjectArgs {
    /// Whom requests name as their user
    #[arg(long)]
    pub user: Option<String>,
    /// What has this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// Of this team alone
    #[arg(long)]
    pub team: Option<String>,
    #[command(flatten)]
    pub args: AdminArgs,
}

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["tag", "model", "team", "all"])]
pub struct PurgeArgs {
    /// Those that their requests tagged so, by x-hedge-cache-tags
    #[arg(long)]
    pub tag: Option<String>,
    /// Those of requests that named this model
    #[arg(long)]
    pub model: Option<String>,
    /// Those of this team's requests
    #[arg(long)]
    pub team: Option<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub args: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key, and show its secret once
    Create(KeyCreateArgs),
    /// All keys, the configuration's too; none of their secrets
    List {
        /// Of this team alone
        #[arg(long)]
        team: Option<String>,
        #[command(flatten)]
        args: AdminArgs,
    },
    /// One key, with all that it may
    Show(KeyArgs),
    /// Let it open nothing from the next request on
    Disable(KeyArgs),
    /// Let it open again
    Enable(KeyArgs),
    /// Change what it may
    Change {
        name: String,
        #[command(flatten)]
        grants: GrantArgs,
        #[command(flatten)]
        args: AdminArgs,
    },
    /// Make another secret for it
    Rotate {
        name: String,
        /// How long the old secret opens beside the new one, as 24h; 90 days at most
        #[arg(long, value_name = "SPAN", default_value = "0s")]
        overlap: String,
        #[command(flatten)]
        args: AdminArgs,
    },
    /// Take it away for good
    Delete(KeyArgs),
}

#[derive(Debug, Args)]
pub struct KeyCreateArgs {
    /// A team that there is; `default` always is
    #[arg(long)]
    pub team: String,
    /// What it is called in lists, logs and records. Left out: one is made up
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub grants: GrantArgs,
    #[command(flatten)]
    pub args: AdminArgs,
}

/// What a key may.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// When it is over, as 30d, 12h or never
    #[arg(long, value_name = "SPAN")]
    pub expires: Option<String>,
    /// The models that it may name, with commas between; `any` for all
    #[arg(long, value_name = "MODEL", value_delimiter = ',')]
    pub models: Vec<String>,
    /// The routes that its requests may take: names of rules, `default`, `model-named`, with commas between;
    /// `any` for all
    #[arg(long, value_name = "ROUTE", value_delimiter = ',')]
    pub routes: Vec<String>,
    /// Where it may come from, as 10.0.0.0/8, with commas between; `any` for anywhere
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub networks: Vec<String>,
    /// interactive, or batch: behind others at the local model
    #[arg(long, value_name = "PRIORITY")]
    pub priority: Option<String>,
    /// The longest reply, all its choices together
    #[arg(long, value_name = "TOKENS")]
    pub output_tokens_max: Option<u32>,
    /// COUNT=AMOUNT/PER, with further words of docs/limits.md after commas: cost=25/month,
    /// requests=600/minute,burst=60, concurrency=8. Once for each
    #[arg(long = "limit", value_name = "LIMIT")]
    pub limits: Vec<String>,
}

#[derive(Debug, Args)]
pub struct KeyArgs {
    pub name: String,
    #[command(flatten)]
    pub args: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum TeamsCommand {
    /// Make a team
    Create(TeamArgs),
    /// All teams, the configuration's too
    List(AdminArgs),
    /// Give it other limits
    Change(TeamArgs),
    /// Take it away; it must have no keys
    Delete(KeyArgs),
}

#[derive(Debug, Args)]
pub struct TeamArgs {
    pub name: String,
    /// COUNT=AMOUNT/PER, as cost=1000/month; once for each
    #[arg(long = "limit", value_name = "LIMIT")]
    pub limits: Vec<String>,
    #[command(flatten)]
    pub args: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Every limit, with what is left of it
    List(AdminArgs),
    /// Give a team or a key these limits, in place of those that it had
    Set(LimitsSetArgs),
}

#[derive(Debug, Args)]
#[group(id = "whose", required = true, multiple = false, args = ["team", "key"])]
pub struct LimitsSetArgs {
    #[arg(long)]
    pub team: Option<String>,
    #[arg(long)]
    pub key: Option<String>,
    /// COUNT=AMOUNT/PER, as cost=25/month; once for each
    #[arg(long = "limit", value_name = "LIMIT")]
    pub limits: Vec<String>,
    #[command(flatten)]
    pub args: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum BudgetsCommand {
    /// Every limit of cost, in dollars
    List(AdminArgs),
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Say whether a log's lines are as they were written, each after the one before
    #[command(after_help = "Examples:
  hedge audit verify
  hedge audit verify --head 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  hedge audit verify /backup/audit-00000001.jsonl /backup/audit-00000002.jsonl
  hedge audit verify --json

Each line has the digest of the line before it, so what was changed, taken out, put in or moved
shows, with its file and line. Lines cut off the end do not show by themselves: keep the head that
is printed last somewhere else, and give it with --head the next time. Who may write the files and
knows this can write another chain; that it is another shows by the head, or by the other end's log.
Exit code 1: something does not hold.")]
    Verify {
        /// The files, oldest first. Left out: this node's own
        files: Vec<PathBuf>,
        /// The head that an earlier verify printed, which must be in the chain
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Write what Postgres has of all replicas' logs to files, for `verify` and `reconcile`
    #[command(after_help = "Examples:
  hedge audit export --out logs --config hedge.toml
  hedge audit verify logs/REPLICA/audit-*.jsonl

Where `store.postgres` is set, each replica copies its log's lines there within a second or two. The
folder gets one for each replica, by the name that its records have too, with the files as the replica
has them; a log that was begun anew is in REPLICA.2 and so on. Nothing is written over. Exit code 1: one
of these begins otherwise than a log does.")]
    Export {
        /// The folder, made where there is none
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Hold an edge's log against a relay's: who has an exchange that the other has not
    #[command(after_help = "Examples:
  hedge audit reconcile --edge edge.jsonl --relay relay.jsonl
  hedge audit reconcile --edge e1.jsonl e2.jsonl --relay r1.jsonl r2.jsonl --json

Exchanges are found by `enc`, which both ends write and no two exchanges share. What is only at the
edge never came to this relay, or was left out of its log; what is only at the relay came from
somebody else, or was left out of the edge's. What is of a time when the other end kept no log counts
for nothing. Both chains are verified too. Exit code 1: something does not hold.")]
    Reconcile {
        /// The edge's files, oldest first
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        edge: Vec<PathBuf>,
        /// The relay's files, oldest first
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        relay: Vec<PathBuf>,
        /// For machines
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Fetch a model file, with a progress bar, resumed where it broke off
    #[command(after_help = "Examples:
  hedge models pull Qwen/Qwen2.5-1.5B-Instruct-GGUF
  hedge models pull Qwen/Qwen2.5-1.5B-Instruct-GGUF:qwen2.5-1.5b-instruct-q8_0.gguf
  hedge models pull https://example.com/model.gguf --sha256 HEX

A hub token, where one is needed, is read from HF_TOKEN.")]
    Pull {
        /// ORG/REPO, ORG/REPO:FILE, or an https address
        source: String,
        /// What to call it; else the file's name
        #[arg(long)]
        name: Option<String>,
        /// Refuse the file if its digest differs
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
    },
    /// What is here
    List,
    /// Remove a model and its file
    Rm { name: String },
    /// Add a GGUF file that is already on this machine
    Import {
        file: PathBuf,
        /// What to call it; else the file's name
        #[arg(long)]
        name: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_in_the_help_parse() {
        let mut command = Cli::command();
        let mut texts = vec![command.render_long_help().to_string()];
        for sub in command.get_subcommands_mut() {
            texts.push(sub.render_long_help().to_string());
            texts.extend(
                sub.get_subcommands_mut()
                    .map(|sub| sub.render_long_help().to_string()),
            );
        }
        let examples: Vec<&str> = texts
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| line.starts_with("  hedge "))
            .map(str::trim)
            .collect();
        assert!(examples.len() > 10, "{examples:?}");
        for example in examples {
            // Words beyond two spaces explain the example.
            let typed = example.split("  ").next().unwrap_or(example);
            // What becomes of the output is a shell's affair.
            let typed = typed.split(" > ").next().unwrap_or(typed);
            let words = typed.replace("\"What is the capital of Portugal?\"", "Q");
            let parsed = Cli::try_parse_from(words.split_whitespace());
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }
}
