//! What is wrong with a file, and where.

use std::fmt;

/// So many problems are told of one file; who has more has misunderstood something, which the first ones show.
const PROBLEMS_MAX: usize = 20;
/// So many characters of a text are repeated in a message.
const SHOWN_CHARS_MAX: usize = 60;

/// A place in a file: line and column from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
}

impl Mark {
    /// Where a file begins.
    pub const START: Self = Self { line: 1, column: 1 };

    /// So many characters further on the line.
    pub fn right(self, columns: usize) -> Self {
        Self { column: self.column + columns, ..self }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong, or that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub at: Mark,
    /// What was found, without a full stop.
    pub what: String,
    /// The rule that it breaks, one line.
    pub why: String,
    /// What could be written instead.
    pub hint: String,
}

impl Problem {
    /// A problem whose texts are one line each, with nothing in them that a terminal would obey.
    pub fn new(at: Mark, what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let line = |text: String| text.chars().map(printable).collect();
        Self { at, what: line(what.to_string()), why: line(why.to_string()), hint: line(hint.to_string()) }
    }

    /// As a person reads it, in three lines: `FILE:LINE:COLUMN: WHAT`, why, what to try.
    pub fn in_file(&self, file: &str) -> String {
        let Self { at, what, why, hint } = self;
        format!("{file}:{at}: {what}\n  {why}\n  try: {hint}")
    }
}

/// All that is wrong with a file: one problem at least, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .0[0].at, .0[0].what)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.0.iter()
    }

    /// The first, by its place.
    pub fn first(&self) -> &Problem {
        &self.0[0]
    }

    pub fn last(&self) -> &Problem {
        &self.0[self.0.len() - 1]
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
pub struct Report {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Report {
    pub fn error(&mut self, at: Mark, what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) {
        push(&mut self.errors, || Problem::new(at, what, why, hint));
    }

    pub fn warn(&mut self, at: Mark, what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) {
        push(&mut self.warnings, || Problem::new(at, what, why, hint));
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// The warnings if there is no error, else the errors.
    pub fn finish(mut self) -> Result<Vec<Problem>, Problems> {
        if self.errors.is_empty() {
            self.warnings.sort_by_key(|problem| problem.at);
            return Ok(self.warnings);
        }
        self.errors.sort_by_key(|problem| problem.at);
        Err(Problems(self.errors))
    }
}

fn push(list: &mut Vec<Problem>, problem: impl FnOnce() -> Problem) {
    if list.len() < PROBLEMS_MAX {
        let problem = problem();
        // What an alias repeats is wrong once.
        if !list.contains(&problem) {
            list.push(problem);
        }
    }
}

/// A text of the file as a message repeats it: quoted, cut, and with nothing in it that a terminal would obey.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The one of `known` that somebody may have meant who wrote `word`.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Whoever wrote a text this long meant none of them, and the comparison is quadratic.
    let word = Some(word).filter(|word| word.len() <= SHOWN_CHARS_MAX)?.to_ascii_lowercase();
    let distance = |known: &&str| strsim::damerau_levenshtein(&word, known);
    let (distance, found) = known.iter().map(|known| (distance(known), *known)).min()?;
    (distance <= 1 + word.chars().count() / 4).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_three_lines_with_its_place_first() {
        let problem = Problem::new(Mark { line: 4, column: 13 }, "port 0", "a port is 1 to 65535", "3000");
        assert_eq!(problem.in_file("a.yml"), "a.yml:4:13: port 0\n  a port is 1 to 65535\n  try: 3000");
    }

    #[test]
    fn what_a_message_repeats_is_short_and_cannot_steer_the_terminal() {
        assert_eq!(shown("\x1b[2J\u{202e}"), r#""\u{1b}[2J\u{202e}""#);
        assert!(shown(&"ä".repeat(5000)).chars().count() < 80);
    }

    #[test]
    fn a_word_that_is_nearly_right_is_recognised_and_any_other_is_not() {
        let known = ["ports", "traffic_matches", "dns_behaviour", "load_balancing"];
        for (word, meant) in [
            ("port", Some("ports")),
            ("Ports", Some("ports")),
            ("dns_behavior", Some("dns_behaviour")),
            ("loadbalancing", Some("load_balancing")),
            ("traffic-matches", Some("traffic_matches")),
            ("image", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
        assert_eq!(nearest(&"ports".repeat(1000), &known), None);
    }

    #[test]
    fn problems_are_told_in_the_order_of_the_file_and_not_without_end() {
        let mut report = Report::default();
        for line in (1..1000).rev() {
            report.error(Mark { line, column: 1 }, "what", "why", "hint");
        }
        let problems = report.finish().expect_err("there are errors");
        assert_eq!(problems.iter().len(), PROBLEMS_MAX);
        assert!(problems.iter().is_sorted_by_key(|problem| problem.at));
    }
}
