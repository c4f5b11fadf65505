//! The `tfjs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfjs_cli::tfjs(std::env::args_os())
}
