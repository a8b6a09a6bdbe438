//! What there is to say to peerctl, as its own help tells: so that no verb and no option goes untested for being new.

use std::process::Command;

use anyhow::Result;

use crate::Output;
use crate::host::peerctl_binary;

/// The words of every verb, those of groups as `["network", "ls"]`.
///
/// # Errors
/// If there is no binary.
pub fn verbs() -> Result<Vec<Vec<String>>> {
    let mut verbs = Vec::new();
    collect(&[], &mut verbs)?;
    Ok(verbs)
}

fn collect(words: &[String], verbs: &mut Vec<Vec<String>>) -> Result<()> {
    let help = help(words)?;
    let below: Vec<_> = section(&help, "Commands:").filter_map(|line| line.split_whitespace().next()).collect();
    if below.is_empty() {
        verbs.push(words.to_vec());
    }
    below.into_iter().try_for_each(|word| collect(&[words, &[word.to_owned()]].concat(), verbs))
}

/// The long options of a verb, as `--network`.
///
/// # Errors
/// If there is no binary.
pub fn options(verb: &[String]) -> Result<Vec<String>> {
    let help = help(verb)?;
    let words = section(&help, "Options:").filter(|line| line.trim_start().starts_with('-'));
    let named = words.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    Ok(named.map(str::to_owned).collect())
}

/// The completion script of a shell.
///
/// # Errors
/// If there is no binary, or it makes none for that shell.
pub fn completion(shell: &str) -> Result<String> {
    Ok(Output::of(Command::new(peerctl_binary()?).args(["completion", shell]), "")?.ok()?.stdout)
}

fn help(words: &[String]) -> Result<String> {
    Ok(Output::of(Command::new(peerctl_binary()?).args(words).arg("-h"), "")?.ok()?.stdout)
}

/// The lines that belong to a heading, without those that go on.
fn section<'a>(help: &'a str, heading: &'a str) -> impl Iterator<Item = &'a str> {
    let begun = help.lines().skip_while(move |line| *line != heading).skip(1);
    begun.take_while(|line| line.starts_with(' ')).filter(|line| !line.starts_with("          "))
}
