//! What a command printed, and how it ended.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    /// The exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end with `stdin` as its input.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn of(command: &mut Command, stdin: &str) -> Result<Self> {
        let shown = shown(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start: {shown}"))?;
        // A command that ends without reading leaves a broken pipe, which says nothing of how it ended.
        let _ = child.stdin.take().context("the pipe was just made")?.write_all(stdin.as_bytes());
        let output = child.wait_with_output()?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        Ok(Self {
            command: shown,
            code: output.status.code().or(signal.map(|signal| 128 + signal)).unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The output of a command that went well.
    ///
    /// # Errors
    /// If it did not.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == 0, "{self}");
        Ok(self)
    }

    /// The `data` of a `--json` answer, after a look at its envelope.
    ///
    /// # Errors
    /// If the command failed or the answer is no such JSON.
    pub fn data(self) -> Result<Value> {
        let output = self.ok()?;
        let mut answer: Value = serde_json::from_str(&output.stdout).with_context(|| output.to_string())?;
        let schema = answer["schema"].as_str().with_context(|| format!("no schema in {output}"))?;
        ensure!(schema.starts_with("peerctl.") && schema.ends_with("/1"), "{schema} is no schema of ours");
        ensure!(answer["warnings"].is_array(), "no warnings in {output}");
        Ok(answer["data"].take())
    }

    /// Checks that the command failed as it should: with this code, nothing on stdout, and three lines that say what,
    /// why and what to try.
    ///
    /// # Errors
    /// If it did not.
    pub fn refused(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "exit code {code} was due\n{self}");
        ensure!(self.stdout.is_empty(), "a refusal has nothing to say on stdout\n{self}");
        let lines: Vec<_> = self.stderr.lines().collect();
        match lines.as_slice() {
            [what, why, next]
                if what.starts_with("error: ") && why.starts_with("  ") && next.starts_with("  try: ") =>
            {
                Ok(self)
            }
            _ => bail!("three lines were due: what, why, what to try\n{self}"),
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "$ {command}\n[exit code {code}]\n{stdout}{stderr}")
    }
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command that has to go well, and says what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    Ok(Output::of(Command::new(program).args(args), "")?.ok()?.stdout)
}
