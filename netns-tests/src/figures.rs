//! Figures that a test measures, and how often it does.

use std::env;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

/// Set for the published figures, which take hours: `just soak`.
const SOAK: &str = "PEERD_SOAK";

/// Whether the published figures are wanted.
pub fn is_soak() -> bool {
    env::var_os(SOAK).is_some_and(|value| !value.is_empty() && value != "0")
}

/// How often something is measured: `few` times in every run of the tests, `many` times for the published figure.
pub fn repeats(few: usize, many: usize) -> usize {
    if is_soak() { many } else { few }
}

/// Times of one kind, of which the median and the worst count.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<Duration>);

impl Figures {
    pub fn push(&mut self, took: Duration) {
        let at = self.0.partition_point(|other| *other <= took);
        self.0.insert(at, took);
    }

    /// The value that so many percent of all do not exceed: the nearest rank, so one that was measured.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// Prints them as `what: n, p50, p99, max`, and holds them to what is promised.
    ///
    /// # Errors
    /// When there are none, or they are worse.
    pub fn promise(&self, what: &str, p99: Duration, max: Duration) -> Result<()> {
        println!("FIGURE {what}: {self}");
        ensure!(!self.0.is_empty(), "{what}: nothing was measured");
        ensure!(self.percentile(99) <= p99 && self.max() <= max, "{what}: {self}, promised p99 {p99:?}, max {max:?}");
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let (p50, p99, max) = (ms(self.percentile(50)), ms(self.percentile(99)), ms(self.max()));
        write!(f, "n {}, p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured_and_a_broken_promise_is_an_error() {
        let mut figures = Figures::default();
        for ms in (1..=100).rev() {
            figures.push(Duration::from_millis(ms));
        }
        let ms = Duration::from_millis;
        assert_eq!((figures.percentile(50), figures.percentile(99), figures.max()), (ms(50), ms(99), ms(100)));
        assert!(figures.promise("it", ms(99), ms(100)).is_ok());
        assert!(figures.promise("it", ms(98), ms(100)).is_err() && figures.promise("it", ms(99), ms(99)).is_err());
        assert!(Figures::default().promise("it", ms(1), ms(1)).is_err(), "nothing measured proves nothing");
    }
}
