//! Command lines that cannot be understood, said as every other failure is: what, why, what to try.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Command, Parser};

use crate::control::{ExitStatus, Failure};

/// The words of this process's command line. Ends the process when they ask for help or cannot be understood.
pub fn parse<P: Parser>() -> P {
    P::try_parse().unwrap_or_else(|error| match failure(&error, &understood(P::command(), std::env::args_os())) {
        Some(failure) => {
            eprintln!("{failure}");
            std::process::exit(failure.status.code().into())
        }
        // Help and version, on stdout; help that nobody asked for on stderr.
        None => error.exit(),
    })
}

/// The program and the verb, as far as they are there.
fn understood(mut command: Command, words: impl IntoIterator<Item = OsString>) -> String {
    let mut words = words.into_iter();
    let program = words.next().map(PathBuf::from);
    let program = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let mut known = vec![program.unwrap_or_else(|| command.get_name().to_owned())];
    for word in words.filter(|word| !word.to_string_lossy().starts_with('-')) {
        let Some(verb) = command.find_subcommand(word).cloned() else { break };
        known.push(verb.get_name().to_owned());
        command = verb;
    }
    known.join(" ")
}

/// The three lines of a usage error in what follows `understood`; none if it is a wish for help.
fn failure(error: &clap::Error, understood: &str) -> Option<Failure> {
    let wishes =
        [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
    if wishes.contains(&error.kind()) {
        return None;
    }
    let text = error.render().to_string();
    let (said, usage) = text.split_once("\nUsage: ").unwrap_or((&text, ""));
    let usage = usage.lines().next().unwrap_or_default();
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    let mut said = lines(said.split("\nFor more information").next().unwrap_or(said)).into_iter();
    let what = said.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what).trim_end_matches(':');
    let why = match said.collect::<Vec<_>>().join(" ") {
        why if !why.is_empty() => why,
        _ if !usage.is_empty() => format!("usage: {usage}"),
        _ => "the command line cannot be understood".to_owned(),
    };
    Some(Failure::new(ExitStatus::Usage, what, why, format_args!("{understood} --help")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::daemon::config::Args;

    fn said(words: &[&str]) -> String {
        let error = Args::try_parse_from(words).expect_err("refused");
        let known = understood(Args::command(), words.iter().map(OsString::from));
        failure(&error, &known).expect("no wish for help").to_string()
    }

    #[test]
    fn a_usage_error_has_three_lines_like_any_other() {
        for words in
            [&["peerd", "--nme", "a"][..], &["peerd", "--listen", "nowhere"], &["peerd", "x"], &["peerd", "--name"]]
        {
            let said = said(words);
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines.len(), 3, "{said}");
            assert!(
                lines[0].starts_with("error: ")
                    && lines[2].starts_with("  try: ")
                    && lines[2].ends_with(": peerd --help"),
                "{said}"
            );
        }
        assert!(said(&["peerd", "--nme", "a"]).contains("'--name'"));
    }

    #[test]
    fn the_verb_is_found_among_options_as_far_as_it_is_there() {
        let grant = Command::new("grant").alias("allow");
        let peerctl = || Command::new("peerctl").subcommand(Command::new("network").subcommand(grant.clone()));
        let known = |words: &[&str]| understood(peerctl(), words.iter().map(OsString::from));
        assert_eq!(known(&["/usr/local/bin/peerctl", "--json", "network", "allow", "shop"]), "peerctl network grant");
        assert_eq!(known(&["peerctl", "network", "--pid", "abc", "grant"]), "peerctl network");
        assert_eq!(known(&["peerctl", "nonsense", "network"]), "peerctl");
        assert_eq!(known(&[]), "peerctl");
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for wish in ["--help", "--version"] {
            assert!(failure(&Args::try_parse_from(["peerd", wish]).expect_err("a wish"), "peerd").is_none());
        }
    }
}
