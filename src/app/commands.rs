//! What each command does.

mod admin;
mod audit;
mod cache;
mod chat;
mod check;
mod data;
mod doctor;
mod engine;
mod keys;
mod limits;
mod models;
mod ps;
mod records;
mod relay;
mod savings;
mod serve;
mod store;
mod version;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::terminal;

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            terminal::note(format!("error: {}", chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::serve(&args),
        Command::Check(args) => check::check(&args),
        Command::Config { what } => check::config(&what),
        Command::Chat(args) => chat::chat(&args),
        Command::Ps(args) => ps::ps(&args),
        Command::Cache { what } => cache::cache(&what),
        Command::Data { what } => data::data(&what),
        Command::Keys { what } => keys::keys(&what),
        Command::Teams { what } => keys::teams(&what),
        Command::Limits { what } => limits::limits(&what),
        Command::Budgets { what } => limits::budgets(&what),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Models { what, config } => models::models(what, &config),
        Command::Records { what } => records::records(&what),
        Command::Savings(args) => savings::savings(&args),
        Command::Store { what, config } => store::store(&what, &config),
        Command::Audit { what } => audit::audit(&what),
        Command::Engine { log } => engine::engine(&log),
        Command::Relay(args) => relay::relay(&args),
        Command::Version => {
            version::version();
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The error and its causes, each once.
fn chain(error: &anyhow::Error) -> String {
    domain::chain(error.as_ref())
}

/// A small runtime for commands that talk to the network and end.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
