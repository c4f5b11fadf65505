//! The commands `tfjs` and `tensorflowjs_converter`: arguments to library calls to text.
//!
//! What was typed is parsed in `args`; each command of `cmd` makes the library's options of it, calls the
//! library, and returns the text to print. Printing and exit codes are decided here.
#![allow(clippy::print_stderr, reason = "a command line tool prints")]
#![allow(clippy::result_large_err, reason = "an error ends the process, its size costs nothing")]

mod args;
mod cmd;
mod converter;
mod curves;
mod data;
mod error;
mod files;
mod image;
mod inputs;
mod inspect;
mod interrupt;
mod load;
mod npy;
mod random;
mod show;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use args::{Args, Command};
use converter::Converter;
use error::CliError;

/// Runs the `tfjs` command; `argv` starts with the program's name. The exit code is 0 for success, 1 for a failure,
/// 2 for arguments that make no sense.
pub fn tfjs(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(with_converter_flags(argv.into_iter().collect())) {
        Ok(args) => args,
        Err(e) => return usage(&e),
    };
    trace(args.verbose);
    interrupt::install();
    report(match args.command {
        Command::Convert(args) => {
            if let Some(missing) = args.missing() {
                let mut command = Args::command();
                let message = format!("the {missing} path is missing: tfjs convert [FLAGS] INPUT OUTPUT");
                return usage(&command.error(ErrorKind::MissingRequiredArgument, message));
            }
            cmd::convert::run(&args)
        }
        Command::Run(args) => cmd::run::run(&args),
        Command::Bench(args) => cmd::bench::run(&args),
        Command::Train(args) => cmd::train::run(&args),
        Command::Evaluate(args) => cmd::evaluate::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
    })
}

/// Runs the `tensorflowjs_converter` command: `tfjs convert` with the Python tool's exit codes.
pub fn tensorflowjs_converter(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut argv = argv.into_iter();
    let program = argv.next();
    match Converter::try_parse_from(program.into_iter().chain(converter::normalised(argv))) {
        Ok(converter) => {
            interrupt::install();
            report(cmd::convert::run(&converter.args))
        }
        Err(e) => usage(&e),
    }
}

/// `tfjs convert` takes its flags as `tensorflowjs_converter` does.
fn with_converter_flags(mut argv: Vec<OsString>) -> Vec<OsString> {
    let command = argv.iter().skip(1).position(|arg| !arg.to_string_lossy().starts_with('-'));
    match command.map(|at| at + 1) {
        Some(at) if argv[at] == "convert" => {
            let flags = argv.split_off(at + 1);
            argv.extend(converter::normalised(flags));
            argv
        }
        _ => argv,
    }
}

/// Help, version or a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Prints what a command says, or the chain of causes of its failure.
fn report(result: Result<String, CliError>) -> ExitCode {
    let printed = result.and_then(|text| match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has enough, as in `tfjs inspect … | head`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CliError::Stdout),
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(e @ CliError::Interrupted { .. }) => {
            eprintln!("{e}");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(e) => {
            eprintln!("error: {}", chain(&e));
            ExitCode::FAILURE
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!("\n  caused by: {cause}");
        next = cause.source();
    }
    text
}

/// Sends what the libraries trace to stderr, if asked for.
fn trace(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // A second subscriber is refused, which happens only when a program calls this twice.
    let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).try_init();
}

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
