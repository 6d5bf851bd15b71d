//! `hedge audit`: whether logs are as they were written, and whether both ends' agree.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use domain::SealedSide;
use serde_json::{Value, json};
use store::{
    AuditEntry, AuditReport, Comparison, Reconciled, Verifier, audit_files, export_copies,
};

use crate::cli::{AuditCommand, ConfigArgs};
use crate::{config, terminal};

/// Verifies or reconciles. A failure where something does not hold.
///
/// # Errors
/// A file cannot be read, or there is none.
pub fn audit(what: &AuditCommand) -> anyhow::Result<ExitCode> {
    let (text, holds) = match what {
        AuditCommand::Verify {
            files,
            head,
            json,
            config,
        } => verify(files, head.as_deref(), *json, config)?,
        AuditCommand::Reconcile { edge, relay, json } => reconcile(edge, relay, *json)?,
        AuditCommand::Export { out, json, config } => export(out, *json, config)?,
    };
    terminal::say(text);
    Ok(match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn verify(
    files: &[PathBuf],
    head: Option<&str>,
    is_json: bool,
    config: &ConfigArgs,
) -> anyhow::Result<(String, bool)> {
    if let Some(head) = head
        && !(head.len() == 64
            && head
                .bytes()
                .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f')))
    {
        bail!("--head: must be the 64 small hexadecimal digits that an earlier verify printed");
    }
    let own;
    let files = if files.is_empty() {
        own = own_files(config)?;
        &own
    } else {
        files
    };
    let report = read(files, head, |_| Ok(()))?;
    let text = if is_json {
        serde_json::to_string_pretty(&report_json(&report))?
    } else {
        report_text(&report)
    };
    Ok((text, report.breach_count == 0))
}

fn export(out: &Path, is_json: bool, args: &ConfigArgs) -> anyhow::Result<(String, bool)> {
    let environment = config::environment();
    let loaded = config::load(args.config.as_deref(), &environment, &[]);
    let place = loaded.record_place(&environment)?;
    let Some(address) = place.postgres else {
        bail!(
            "store.postgres is not set: each node's log is in its own files alone, which \
             `hedge audit verify` reads"
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(export_copies(&address, out));
    let done = done.with_context(|| format!("cannot export the logs in {address}"))?;
    let holds = !done.iter().any(|it| it.is_cut);
    if is_json {
        let chains = done.iter().map(|it| {
            json!({
                "dir": it.dir.display().to_string(),
                "files": it.files,
                "lines": it.lines,
                "is_cut": it.is_cut,
            })
        });
        let chains = json!({ "logs": chains.collect::<Vec<_>>() });
        return Ok((serde_json::to_string_pretty(&chains)?, holds));
    }
    let lines = done.iter().map(|it| {
        let (dir, files, lines) = (it.dir.display(), it.files, it.lines);
        let cut = match it.is_cut {
            true => {
                ", and does not begin as a log does: something before it was taken away or moved"
            }
            false => "",
        };
        format!("{dir}: {lines} lines in {files} files{cut}\n")
    });
    let text: String = lines.collect();
    let text = match text.trim_end() {
        "" => format!("no replica has copied lines to {address}"),
        text => text.to_owned(),
    };
    Ok((text, holds))
}

fn own_files(args: &ConfigArgs) -> anyhow::Result<Vec<PathBuf>> {
    let environment = config::environment();
    let loaded = config::load(args.config.as_deref(), &environment, &[]);
    let dir = loaded.audit_dir(&environment)?;
    let found = audit_files(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if found.is_empty() {
        bail!(
            "there is no audit log in {}; name the files, or the configuration with --config",
            dir.display()
        );
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Files are given oldest first, as a shell sorts them.
fn read(
    files: &[PathBuf],
    head: Option<&str>,
    mut each: impl FnMut(&AuditEntry<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<AuditReport> {
    let mut verifier = Verifier::new(head.map(str::to_owned));
    let mut outcome = Ok(());
    for path in files {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let take = |entry: &AuditEntry<'_>| {
            if outcome.is_ok() {
                outcome = each(entry);
            }
        };
        let done = verifier.read(&name(path), BufReader::new(file), take);
        done.with_context(|| format!("cannot read {shown}"))?;
    }
    outcome?;
    Ok(verifier.finish())
}

fn name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.unwrap_or_default().into_owned()
}

fn reconcile(edge: &[PathBuf], relay: &[PathBuf], is_json: bool) -> anyhow::Result<(String, bool)> {
    let mut comparison = Comparison::default();
    let mut of = |side: SealedSide, files: &[PathBuf]| {
        read(files, None, |entry| Ok(comparison.take(side, entry)?))
    };
    let edge = of(SealedSide::Edge, edge)?;
    let relay = of(SealedSide::Relay, relay)?;
    let found = comparison.finish();
    let holds = edge.breach_count + relay.breach_count == 0 && found.agrees();
    let text = if is_json {
        serde_json::to_string_pretty(&json!({
            "agrees": found.agrees(),
            "edge": report_json(&edge),
            "relay": report_json(&relay),
            "matched": found.matched,
            "only_edge": found.only_edge,
            "only_relay": found.only_relay,
            "outside": found.outside,
            "differ": found.differ,
            "again_edge": found.again_edge,
            "again_relay": found.again_relay,
            "other_side": found.other_side,
            "differences": found.differences.iter().map(|it| json!({
                "enc": it.enc, "what": it.what, "edge": it.edge, "relay": it.relay, "at_ms": it.at_ms,
            })).collect::<Vec<Value>>(),
        }))?
    } else {
        let sides = format!("edge   {}\nrelay  {}", line(&edge), line(&relay));
        format!("{sides}{}", reconciled_text(&found))
    };
    Ok((text, holds))
}

fn reconciled_text(found: &Reconciled) -> String {
    let mut text = format!(
        "\n{} at both ends, {} of them not the same; {} only at the edge, {} only at the relay, \
         {} again at the edge, {} again at the relay",
        found.matched,
        found.differ,
        found.only_edge,
        found.only_relay,
        found.again_edge,
        found.again_relay
    );
    if found.outside > 0 {
        text += &format!(
            "\n{} of a time of which only one end has a log: not counted",
            found.outside
        );
    }
    if found.other_side > 0 {
        text += &format!(
            "\n{} of the other side in a side's files: passed over",
            found.other_side
        );
    }
    for it in &found.differences {
        text += &format!(
            "\nfail  {} {} {}",
            clock(it.at_ms),
            visible(&it.enc),
            it.what
        );
        if let (Some(edge), Some(relay)) = (&it.edge, &it.relay) {
            text += &format!(
                ": {} at the edge, {} at the relay",
                visible(edge),
                visible(relay)
            );
        }
    }
    let told = found.differences.len();
    if told == store::DIFFERENCES_MAX {
        text += "\nfurther ones are not shown";
    }
    text += match found.agrees() {
        true => "\nok    both ends agree",
        false => "\nfail  the ends do not agree",
    };
    text
}

fn report_text(report: &AuditReport) -> String {
    let mut text = line(report);
    for breach in &report.breaches {
        let place = match breach.line {
            0 => String::new(),
            line => format!("{}:{line}: ", visible(&breach.file)),
        };
        text += &format!("\nfail  {place}{}", breach.kind);
    }
    let untold = report.breach_count - report.breaches.len() as u64;
    if untold > 0 {
        text += &format!("\nfail  and {untold} more");
    }
    if report.breach_count == 0 {
        text += "\nok    the chain holds";
    }
    if let Some(head) = &report.head {
        text += &format!("\nhead  {head}");
    }
    text
}

fn line(report: &AuditReport) -> String {
    let mut text = format!("{} entries in {} files", report.entries, report.files);
    if report.changes > 0 {
        text += &format!(", {} changes by operators", report.changes);
    }
    if let (Some(first), Some(last)) = (report.first_ms, report.last_ms) {
        text += &format!(", {} to {}", clock(first), clock(last));
    }
    if report.first_seq.is_some_and(|first| first > 0) {
        text += "; older files are not among them";
    }
    if report.gaps > 0 {
        text += &format!("; {} entries lost in {} gaps", report.lost, report.gaps);
    }
    if report.torn > 0 {
        text += &format!("; {} lines cut by crashes and put aside", report.torn);
    }
    if report.breach_count > 0 {
        text += &format!("; {} breaches", report.breach_count);
    }
    text
}

fn report_json(report: &AuditReport) -> Value {
    let breaches = report
        .breaches
        .iter()
        .map(|it| json!({ "file": it.file, "line": it.line, "what": it.kind.to_string() }));
    json!({
        "holds": report.breach_count == 0,
        "files": report.files,
        "lines": report.lines,
        "entries": report.entries,
        "changes": report.changes,
        "starts": report.starts,
        "gaps": report.gaps,
        "lost": report.lost,
        "torn": report.torn,
        "first_seq": report.first_seq,
        "first_ms": report.first_ms,
        "last_ms": report.last_ms,
        "head": report.head,
        "breach_count": report.breach_count,
        "breaches": breaches.collect::<Vec<Value>>(),
    })
}

/// What a terminal would act on is shown, and not done: a log may be anybody's.
fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|it| match it.is_control() {
            true => it
                .escape_default()
                .collect::<String>()
                .chars()
                .collect::<Vec<_>>(),
            false => vec![it],
        })
        .collect()
}

/// RFC 3339, in UTC, to the second. Days since 1970 are made a date by counting from 1 March, so that
/// the day which only some years have comes last.
pub fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // From 1 March of the year 0; 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (400 * era + year, month + 3),
        _ => (400 * era + year + 1, month - 9),
    };
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
