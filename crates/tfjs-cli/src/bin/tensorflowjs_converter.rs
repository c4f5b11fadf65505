//! The `tensorflowjs_converter` command: `tfjs convert` under the name and with the flags of the Python tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfjs_cli::tensorflowjs_converter(std::env::args_os())
}
