//! `hedge store`: what is kept where, and how it comes to where replicas share it.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use store::{
    KeyFile, KeyShift, PostgresAddress, RecordsState, ShiftFault, Shifted, ShiftedFile,
    ShiftedKeys, own_records, records_state, shift_keys, shift_records,
};

use super::savings::dollars;
use crate::cli::{ConfigArgs, StoreCommand};
use crate::config::RecordPlace;
use crate::{config, keys, terminal};

/// Moves records and keys to where replicas share them, or says what is where.
///
/// # Errors
/// Postgres or a file cannot be used, or a node still writes to the file.
pub fn store(what: &StoreCommand, args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let place = place(args)?;
    match what {
        StoreCommand::Migrate => migrate(&place),
        StoreCommand::Status { json } => status(&place, *json),
    }
}

fn place(args: &ConfigArgs) -> anyhow::Result<RecordPlace> {
    let environment = config::environment();
    let loaded = config::load(args.config.as_deref(), &environment, &[]);
    Ok(loaded.record_place(&environment)?)
}

fn migrate(place: &RecordPlace) -> anyhow::Result<ExitCode> {
    let Some(address) = &place.postgres else {
        bail!(
            "there is nowhere to move records and keys to; set postgres under [store] to the database that the \
             replicas share (docs/records.md), and run this again"
        );
    };
    let bar = bar()?;
    let moved = super::runtime()?.block_on(async {
        let moving = shift_records(&place.dir, address, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        tokio::select! {
            moved = moving => moved.map_err(|fault| in_words(fault, address)),
            _ = tokio::signal::ctrl_c() => {
                Err(anyhow::anyhow!("interrupted; run the same command to go on"))
            }
        }
    });
    bar.finish_and_clear();
    for shifted in moved? {
        terminal::say(told(&shifted, address));
    }
    let dir = keys::folder(&place.data_dir);
    let moment = SystemTime::now().duration_since(UNIX_EPOCH);
    let moment_s = moment.unwrap_or_default().as_secs();
    let moved = super::runtime()?.block_on(shift_keys(&dir, address, moment_s));
    let moved = moved.map_err(|fault| keys_in_words(fault, address))?;
    terminal::say(keys_told(&moved, &dir, address));
    Ok(ExitCode::SUCCESS)
}

fn keys_in_words(fault: KeyShift, address: &PostgresAddress) -> anyhow::Error {
    let next = match &fault {
        KeyShift::Held { .. } => "stop it, and run this again".to_owned(),
        KeyShift::OtherBeginning { .. } => format!(
            "make those keys anew (`hedge keys create` at any node that shares {address}), and move that \
             file away"
        ),
        KeyShift::Differs { .. } | KeyShift::Postgres(_) | KeyShift::Rows(_) => {
            format!("no key was moved to {address}; run this again once it answers")
        }
        KeyShift::File { .. } => "run this as the user that the node runs as".to_owned(),
    };
    anyhow::Error::new(fault).context(next)
}

fn keys_told(moved: &ShiftedKeys, dir: &Path, address: &PostgresAddress) -> String {
    let file = KeyFile::path(dir);
    let file = file.display();
    match moved {
        ShiftedKeys::Empty => format!("{file}: nothing to move"),
        ShiftedKeys::Moved {
            keys,
            teams,
            is_again,
            aside,
        } => {
            let aside = aside.display();
            let what = match is_again {
                true => format!("its {keys} keys and {teams} teams were moved to {address} before"),
                false => format!("{keys} keys and {teams} teams are at {address}, by count"),
            };
            format!("{file}: {what}. The file is now {aside} and is not read any more")
        }
    }
}

/// Hidden where standard error is no terminal.
fn bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} records {per_sec} {eta}")?;
    let bar = ProgressBar::new(0).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}

/// With what to do next.
fn in_words(fault: ShiftFault, address: &PostgresAddress) -> anyhow::Error {
    let next = match &fault {
        ShiftFault::Held { .. } => {
            "stop it, or start it again with [store] postgres so that it writes there, and run this again"
                .to_owned()
        }
        ShiftFault::Differs { .. } => format!(
            "somebody changed records at {address} or in the file; compare them by ended_us and \
             request_id, and run this again"
        ),
        ShiftFault::Folder { .. } | ShiftFault::File { .. } => {
            "run this as the user that the node runs as".to_owned()
        }
        ShiftFault::Postgres(_) => format!("nothing more was moved to {address}; run this again once it answers"),
    };
    anyhow::Error::new(fault).context(next)
}

fn told(shifted: &Shifted, address: &PostgresAddress) -> String {
    let file = shifted.file.display();
    match &shifted.became {
        ShiftedFile::Empty => format!("{file}: nothing to move"),
        ShiftedFile::Tended => {
            format!(
                "{file}: left to the node that runs here, which brings it to {address} by itself"
            )
        }
        ShiftedFile::Moved {
            records,
            new,
            spent_microusd,
            aside,
        } => format!(
            "{file}: {records} records of {} spent are at {address}, by count and by sum; {new} were not \
             there before. The file is now {} and is not read any more",
            dollars(*spent_microusd),
            aside.display()
        ),
    }
}

fn status(place: &RecordPlace, is_json: bool) -> anyhow::Result<ExitCode> {
    let runtime = super::runtime()?;
    let (kept, waiting) = runtime
        .block_on(own_records(&place.dir))
        .with_context(|| format!("cannot read the records in {}", place.dir.display()))?;
    let found = place
        .postgres
        .as_ref()
        .map(|address| (address, runtime.block_on(records_state(address))));
    let is_well = !matches!(&found, Some((_, Err(_))));
    let has_own_keys = KeyFile::is_in(&keys::folder(&place.data_dir));
    let text = if is_json {
        let postgres = found.as_ref().map(|(address, state)| match state {
            Ok(state) => json!({
                "address": address.to_string(),
                "server": state.server,
                "schema": state.version,
                "schema_known": state.known,
                "records": state.records,
                "replicas": state.replicas,
                "keys": state.keys,
                "teams": state.teams,
            }),
            Err(fault) => json!({
                "address": address.to_string(),
                "error": domain::chain(fault),
            }),
        });
        serde_json::to_string_pretty(&json!({
            "family": family(place),
            "dir": place.dir,
            "own_records": kept,
            "waiting_records": waiting,
            "has_own_keys": has_own_keys,
            "postgres": postgres,
        }))?
    } else {
        let mut lines = vec![format!("records: {}", family(place))];
        lines.push(format!("  folder: {}", place.dir.display()));
        lines.push(format!("  in its own file: {}", counted(kept)));
        if let Some((address, state)) = &found {
            lines.push(format!("  waiting for Postgres: {}", counted(waiting)));
            lines.push(format!("  Postgres: {address}"));
            lines.extend(in_postgres(state));
            if has_own_keys {
                lines.push("  keys made here: in a file of its own".to_owned());
            }
            if kept.is_some_and(|count| count > 0) || has_own_keys {
                lines.push(
                    "next: hedge store migrate, which moves what it has of its own there"
                        .to_owned(),
                );
            }
        }
        lines.join("\n")
    };
    terminal::say(text);
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn family(place: &RecordPlace) -> &'static str {
    match place.postgres {
        Some(_) => "shared",
        None => "embedded",
    }
}

fn counted(records: Option<i64>) -> String {
    match records {
        Some(count) => count.to_string(),
        None => "no file".to_owned(),
    }
}

fn in_postgres(state: &Result<RecordsState, store::PostgresFault>) -> Vec<String> {
    let state = match state {
        Ok(state) => state,
        Err(fault) => {
            return vec![format!("  it cannot be asked: {}", domain::chain(fault))];
        }
    };
    let schema = match state.version {
        0 => "none yet; the first node makes it".to_owned(),
        version if version < state.known => {
            format!("{version}; the next node brings it to {}", state.known)
        }
        version if version > state.known => format!(
            "{version}, and this program knows {} at most: install a later one",
            state.known
        ),
        version => version.to_string(),
    };
    vec![
        format!("  its version: {}", state.server),
        format!("  schema: {schema}"),
        format!(
            "  records: {} of {} replicas",
            state.records, state.replicas
        ),
        format!(
            "  made at run time: {} keys, {} teams",
            state.keys, state.teams
        ),
    ]
}
