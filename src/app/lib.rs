//! configuration, wiring, task set, telemetry, drain

#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
