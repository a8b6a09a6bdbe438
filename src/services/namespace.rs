//! Which namespaces nobody may take: those that names of the outside world end in.

use crate::model::Label;

/// Names set aside for a use of their own, that names of hosts and other systems end in (RFC 6761, RFC 6762, RFC 9476, and
/// `internal`, which ICANN keeps free for private use).
const SPECIAL: [&str; 6] = ["alt", "internal", "invalid", "local", "localhost", "onion"];

/// Whether names of the outside world end in this label, as in `com` and `shop` (the Public Suffix List) or `local`.
///
/// `X.NAMESPACE` is private in a network where the namespace exists: a namespace `com` would hide `example.com` from
/// every container there.
pub fn is_public_suffix(label: &Label) -> bool {
    // Of a name below it, since of some suffixes the list has what is below only (`*.ck`). For a label that it does not
    // know the default rule `*` answers, which makes every word a suffix.
    let below = format!("name.{label}");
    SPECIAL.contains(&label.as_str()) || psl::suffix(below.as_bytes()).is_some_and(|suffix| suffix.is_known())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_of_the_outside_world_is_told_from_a_name_of_ones_own() {
        let is_suffix = |text: &str| is_public_suffix(&text.parse().expect("a label"));
        for suffix in ["com", "COM", "shop", "io", "de", "uk", "ck", "arpa", "xn--p1ai", "local", "internal", "onion"] {
            assert!(is_suffix(suffix), "{suffix}");
        }
        for own in ["backoffice-workers", "web-front-end", "ap-1", "co-uk", "test", "github"] {
            assert!(!is_suffix(own), "{own}");
        }
    }
}
