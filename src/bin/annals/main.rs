//! The `annals` command: the library's public interface on a shell.
//!
//! This file only dispatches; each subcommand is one file of [`cmd`]. Exit statuses are stable:
//!
//! | status | meaning                                                                  |
//! |-------:|--------------------------------------------------------------------------|
//! |      0 | done                                                                     |
//! |      1 | usage, input, I/O, or the reader of standard output went away            |
//! |      3 | damaged: bytes that had been synced are no longer what they were         |
//! |      4 | locked: another process has the log open for writing                     |
//! |      5 | conflict: a stream is not at the version that was expected               |
//!
//! Results go to standard output; notes, progress bars (on a terminal only) and errors go to
//! standard error. An error is one line that ends with its chain of causes.

mod chunks;
mod cmd;
mod escape;
mod failure;
mod git;
mod ndjson;
mod open;
mod output;
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const STATUSES: &str = "\
Exit status:
  0  done
  1  usage, input, I/O, or the reader of standard output went away
  3  damaged: bytes that had been synced are no longer what they were
  4  locked: another process has the log open for writing
  5  conflict: a stream is not at the version that was expected";

/// An append-only event log in a directory.
#[derive(Parser)]
#[command(name = "annals", version, after_help = STATUSES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(after_help = STATUSES)]
    Append(cmd::append::Args),
    #[command(after_help = STATUSES)]
    Cat(cmd::cat::Args),
    #[command(after_help = STATUSES)]
    Import(cmd::import::Args),
    #[command(after_help = STATUSES)]
    Export(cmd::export::Args),
    #[command(after_help = STATUSES)]
    Repair(cmd::repair::Args),
    #[command(after_help = STATUSES)]
    Stat(cmd::stat::Args),
    #[command(after_help = STATUSES)]
    Verify(cmd::verify::Args),
    #[command(after_help = STATUSES)]
    Demo(cmd::demo::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Clap's own status for wrong usage is 2; `--help` and `--version` come this way too.
            let printed = error.print();
            return ExitCode::from(u8::from(error.use_stderr() || printed.is_err()));
        }
    };
    let outcome = match &cli.command {
        Command::Append(args) => cmd::append::run(args),
        Command::Cat(args) => cmd::cat::run(args),
        Command::Import(args) => cmd::import::run(args),
        Command::Export(args) => cmd::export::run(args),
        Command::Repair(args) => cmd::repair::run(args),
        Command::Stat(args) => cmd::stat::run(args),
        Command::Verify(args) => cmd::verify::run(args),
        Command::Demo(args) => cmd::demo::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
