//! The `hedge` binary. Everything it does is in `app`.

fn main() -> std::process::ExitCode {
    app::main()
}
