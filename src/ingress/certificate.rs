//! Which certificate a server name is served with.

use crate::model::ServerPattern;

/// A certificate that nginx can read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// What its files are called, without an ending: letters, digits and hyphens.
    pub file: String,
    /// The names that it is for; a wildcard stands for one label, as browsers read it (RFC 6125 §6.4.3).
    pub names: Vec<ServerPattern>,
}

impl Certificate {
    /// Whether who asks for `name` takes it. For a pattern: whether all that the pattern stands for do, as far as one
    /// certificate can.
    pub fn covers(&self, name: &ServerPattern) -> bool {
        self.names.iter().any(|own| {
            own == name || own.wildcard().is_some_and(|domain| parent(name.as_str()).is_some_and(|p| p == domain))
        })
    }

    /// The best of them for a name: one that names it before one that covers it; of several the first, so
    /// the newest where they are listed so.
    pub fn best<'a>(all: &'a [Self], name: &ServerPattern) -> Option<&'a Self> {
        let exact = all.iter().find(|certificate| certificate.names.contains(name));
        exact.or_else(|| all.iter().find(|certificate| certificate.covers(name)))
    }
}

/// A name without its first label.
fn parent(name: &str) -> Option<&str> {
    name.split_once('.').filter(|(first, _)| *first != "*").map(|(_, parent)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ServerPattern {
        text.parse().expect("a pattern")
    }

    fn certificate(file: &str, names: &[&str]) -> Certificate {
        Certificate { file: file.to_owned(), names: names.iter().map(|name| pattern(name)).collect() }
    }

    #[test]
    fn a_wildcard_covers_one_label_and_a_certificate_of_the_very_name_is_better() {
        let all = [certificate("wild", &["*.a.com"]), certificate("exact", &["b.a.com", "c.com"])];
        let best = |name| Certificate::best(&all, &pattern(name)).map(|certificate| certificate.file.as_str());
        assert_eq!(best("b.a.com"), Some("exact"));
        assert_eq!(best("x.a.com"), Some("wild"));
        assert_eq!(best("*.a.com"), Some("wild"));
        for uncovered in ["a.com", "x.y.a.com", "*.b.a.com", "*.com", "c.org"] {
            assert_eq!(best(uncovered), None, "{uncovered}");
        }
    }
}
