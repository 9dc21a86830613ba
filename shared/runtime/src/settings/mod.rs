//! Reads the process settings: flag, else environment, else default; every fault is told, not just the first.

mod fault;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, Error, Parser};

use crate::telemetry::{LogFormat, check_level};

/// The exit code for settings that are wrong.
const WRONG_SETTINGS: u8 = 2;

/// The flags about logging, for `#[command(flatten)]`.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, env = "NTONIX_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// error, warn, info, debug or trace, or directives as in "info,h2=warn"
    #[arg(long, env = "NTONIX_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = check_level)]
    pub log_level: String,
}

/// What reading settings ends in when it does not end in settings.
#[derive(Debug, PartialEq)]
enum Ending {
    /// `--help` or `--version` was asked for.
    Told(String),
    /// Everything that is wrong.
    Wrong(Vec<String>),
}

/// Where state is kept unless a flag says otherwise: `$XDG_STATE_HOME/ntonix`, `~/.local/state/ntonix`, or `state` in
/// the current directory of a user without a home.
pub fn state_dir() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "settings read the environment")]
    let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = env("XDG_STATE_HOME").or_else(|| Some(env("HOME")?.join(".local/state")));
    state.map_or_else(|| PathBuf::from("state"), |state| state.join("ntonix"))
}

/// The name of this host, or "worker" where the system does not tell.
pub fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = String::new();
    if name.is_empty() { "worker".to_owned() } else { name }
}

/// Reads `args` (the program's name first) and the environment. `Err` is how to exit: 0 after `--help` and `--version`,
/// 2 when something is wrong, each fault having been told on stderr.
///
/// # Errors
/// As said: the exit code.
pub fn parse<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, ExitCode> {
    read(args.into_iter().collect()).map_err(|ending| match ending {
        Ending::Told(text) => {
            // A closed stdout is the reader's choice.
            let _ = write!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Ending::Wrong(faults) => refuse(T::command().get_name(), &faults),
    })
}

/// Tells faults of the settings on stderr as [`parse`] does, for those that only show when settings are put together.
pub fn refuse<F: std::fmt::Display>(program: &str, faults: &[F]) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    // There is no other place to complain to when stderr is closed.
    let _ = match faults {
        [fault] => writeln!(stderr, "{program}: {fault}"),
        _ => writeln!(stderr, "{program}: {} settings are wrong", faults.len())
            .and_then(|()| faults.iter().try_for_each(|fault| writeln!(stderr, "  {fault}"))),
    };
    let _ = writeln!(stderr, "For all settings, try --help.");
    ExitCode::from(WRONG_SETTINGS)
}

/// Parses, and after each fault takes its cause out and parses again, so that clap's first fault is not the only one.
fn read<T: Parser>(mut args: Vec<OsString>) -> Result<T, Ending> {
    let mut command = outspoken(T::command());
    let mut faults = Vec::new();
    let mut taken_out = Vec::new();
    loop {
        let matches = command.clone().try_get_matches_from(&args);
        match matches.and_then(|mut matches| T::from_arg_matches_mut(&mut matches)) {
            Ok(settings) if faults.is_empty() => return Ok(settings),
            Ok(_) => return Err(Ending::Wrong(faults)),
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Err(Ending::Told(error.to_string()));
            }
            // Clap looks for what is missing when all values are read, and only misses what was taken out here.
            Err(error) if is_missing_one_of(&error, &taken_out) => return Err(Ending::Wrong(faults)),
            Err(error) => {
                let told = fault::describe(&error);
                // What was taken out did not help, so it would be told for ever.
                if faults.contains(&told) {
                    return Err(Ending::Wrong(faults));
                }
                faults.push(told);
                taken_out.extend(fault::flag(&error));
                command = match take_out(&mut args, command, &error) {
                    Some(command) => command,
                    None => return Err(Ending::Wrong(faults)),
                };
            }
        }
    }
}

/// The same command, which also says what is wrong where clap would show its help or see a flag: a command that is
/// missing, and a negative number.
fn outspoken(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let takes_value = arg.get_action().takes_values();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    });
    command.arg_required_else_help(false).mut_subcommands(outspoken)
}

fn is_missing_one_of(error: &Error, flags: &[String]) -> bool {
    error.kind() == ErrorKind::MissingRequiredArgument && fault::flag(error).is_some_and(|flag| flags.contains(&flag))
}

/// Removes what `error` is about from the arguments, or else its environment variable from the command. `None`: neither
/// is to be found, so parsing again would say the same.
fn take_out(args: &mut Vec<OsString>, command: Command, error: &Error) -> Option<Command> {
    let flag = fault::flag(error)?;
    let known = command.get_arguments().find(|arg| is_called(arg, &flag));
    let subject = Subject {
        // The value of an unknown flag would be told as one more unknown argument.
        takes_value: known.is_none_or(|arg| arg.get_action().takes_values()),
        unknown: error.kind() == ErrorKind::UnknownArgument,
        value: fault::value(error),
        flag,
    };
    if let Some((at, count)) = subject.position(args) {
        args.drain(at..at + count);
        return Some(command);
    }
    let id = known.filter(|arg| arg.get_env().is_some())?.get_id().clone();
    Some(command.mut_arg(id, |arg| arg.env(None::<&'static str>)))
}

fn is_called(arg: &clap::Arg, flag: &str) -> bool {
    arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long))
}

/// What a fault is about.
struct Subject {
    flag: String,
    value: Option<String>,
    takes_value: bool,
    unknown: bool,
}

impl Subject {
    /// Where in the arguments it stands, and how many of them it takes.
    fn position(&self, args: &[OsString]) -> Option<(usize, usize)> {
        // An argument without a flag, shown as "<KIND>" or "[NAME]", is its value.
        if self.flag.starts_with(['<', '[']) {
            let value = self.value.as_deref()?;
            return (1..args.len()).find(|at| args[*at] == value).map(|at| (at, 1));
        }
        (1..args.len()).find_map(|at| {
            let arg = args.get(at)?.to_str()?;
            let next = args.get(at + 1).and_then(|next| next.to_str());
            let count = self.count(arg, next)?;
            Some((at, count))
        })
    }

    /// How many arguments it takes when it begins with `arg`; `None` when it does not.
    fn count(&self, arg: &str, next: Option<&str>) -> Option<usize> {
        let rest = arg.strip_prefix(self.flag.as_str())?;
        match (&self.value, rest.strip_prefix('=')) {
            (Some(value), Some(given)) => (given == value).then_some(1),
            // An unknown flag is told without its value.
            (None, Some(_)) => self.unknown.then_some(1),
            (_, None) if !rest.is_empty() => None,
            (Some(value), None) => (next == Some(value)).then_some(2),
            (None, None) => {
                let has_value = self.takes_value && next.is_some_and(|next| !next.starts_with('-'));
                Some(if has_value { 2 } else { 1 })
            }
        }
    }
}
