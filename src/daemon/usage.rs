//! Command lines that cannot be understood, said as every other failure is: what, why, what to try.

use clap::Parser;
use clap::error::ErrorKind;

use crate::control::{ExitStatus, Failure};

/// The words of this process's command line. Ends the process when they ask for help or cannot be understood.
pub fn parse<P: Parser>() -> P {
    P::try_parse().unwrap_or_else(|error| match failure(&error) {
        Some(failure) => {
            eprintln!("{failure}");
            std::process::exit(failure.status.code().into())
        }
        // Help and version, on stdout; help that nobody asked for on stderr.
        None => error.exit(),
    })
}

/// The three lines of a usage error; none if it is a wish for help.
fn failure(error: &clap::Error) -> Option<Failure> {
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
    // The verb as far as it was understood: what precedes the first option or placeholder.
    let known: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect();
    let program = if known.is_empty() { vec![program_name()] } else { known.into_iter().map(str::to_owned).collect() };
    Some(Failure::new(ExitStatus::Usage, what, why, format_args!("{} --help", program.join(" "))))
}

fn program_name() -> String {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = name.as_deref().and_then(std::path::Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "peerd".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Args;

    fn said(words: &[&str]) -> String {
        let error = Args::try_parse_from(words).expect_err("refused");
        failure(&error).expect("no wish for help").to_string()
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
                lines[0].starts_with("error: ") && lines[2].starts_with("  try: ") && lines[2].ends_with(" --help"),
                "{said}"
            );
        }
        assert!(said(&["peerd", "--nme", "a"]).contains("'--name'"));
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for wish in ["--help", "--version"] {
            assert!(failure(&Args::try_parse_from(["peerd", wish]).expect_err("a wish")).is_none());
        }
    }
}
