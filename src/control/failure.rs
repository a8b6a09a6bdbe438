//! Why something was not done, in the three lines that a person sees: what, why, what to try.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The exit codes of `peerctl`, as scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    Failure = 1,
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    NotFound = 4,
    /// Something else holds it already, or there is no room left.
    Conflict = 5,
    Permission = 6,
    /// `status --check` found something wrong.
    Degraded = 7,
    Timeout = 8,
    InvalidFile = 9,
}

impl ExitStatus {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub status: ExitStatus,
    /// What could not be done, without a full stop.
    pub what: String,
    /// The cause, one line.
    pub why: String,
    /// What the person can do about it: a command or a sentence.
    pub hint: String,
}

impl Failure {
    /// A failure of this status. The three texts become one line each, with nothing that a
    /// terminal would obey: what they repeat may come from anywhere.
    pub fn new(status: ExitStatus, what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let line = |text: String| text.lines().collect::<Vec<_>>().join(" ").chars().map(printable).collect();
        Self { status, what: line(what.to_string()), why: line(why.to_string()), hint: line(hint.to_string()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  {}\n  try: {}", self.what, self.why, self.hint)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_repeats_cannot_steer_the_terminal() {
        let failure = Failure::new(ExitStatus::NotFound, "no network \x1b[2J\u{9b}31m", "a\tb\r", "c");
        assert!(!failure.to_string().chars().any(|c| c.is_control() && c != '\n'), "{failure:?}");
    }

    #[test]
    fn a_failure_is_always_three_lines() {
        let failure = Failure::new(ExitStatus::Conflict, "cannot\nattach", "a\nb", "c");
        assert_eq!(failure.to_string(), "error: cannot attach\n  a b\n  try: c");
        assert_eq!(failure.status.code(), 5);
    }
}
