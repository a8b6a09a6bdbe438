//! A file's bytes as text that YAML can be in.

use super::problem::{Mark, Problem};
use super::tree::FILE_LEN_MAX;

/// The text of a file, without its byte order mark.
///
/// # Errors
/// The first thing that is no text: too much, no UTF-8, or a character that YAML 1.2 §5.1 does not have.
pub fn of(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.len() > FILE_LEN_MAX {
        let what = format!("the file has {} bytes", bytes.len());
        let why = format!("a service file has at most {FILE_LEN_MAX}");
        return Err(Problem::new(Mark::START, what, why, "is this the right file?"));
    }
    let hint = "save the file as UTF-8";
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem::new(Mark::START, "the file is UTF-16", "a service file is UTF-8", hint));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = str::from_utf8(&bytes[..error.valid_up_to()]).expect("valid up to there");
        let what = format!("the byte 0x{:02x} here is no UTF-8", bytes[error.valid_up_to()]);
        Problem::new(end_of(before), what, "a service file is UTF-8", hint)
    })?;
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !is_printable(*c)) {
        let what = format!("the character U+{:04X}", u32::from(found));
        return Err(Problem::new(end_of(&text[..at]), what, "YAML is text, and this is not printable", "remove it"));
    }
    Ok(text)
}

/// YAML 1.2 §5.1, c-printable; without the byte order mark, which has no place inside of a file.
fn is_printable(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' | '\u{85}' => true,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        c => !c.is_control(),
    }
}

/// The place behind a text; lines end as in YAML, with CR, LF or both.
fn end_of(text: &str) -> Mark {
    let (mut at, mut last) = (Mark::START, ' ');
    for c in text.chars() {
        at = match c {
            '\n' if last == '\r' => at,
            '\n' | '\r' => Mark { line: at.line + 1, column: 1 },
            _ => at.right(1),
        };
        last = c;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of_fault(bytes: &[u8]) -> Option<(usize, usize)> {
        of(bytes).err().map(|problem| (problem.at.line, problem.at.column))
    }

    #[test]
    fn text_is_taken_with_or_without_a_mark_and_with_any_line_ends() {
        for good in [&b"a: b\n"[..], b"\xef\xbb\xbfa: b", b"a: b\r\nc:\td\r", "ä: \u{1f980}\u{a0}".as_bytes(), b""] {
            assert_eq!(place_of_fault(good), None, "{good:?}");
        }
        assert_eq!(of(b"\xef\xbb\xbfa"), Ok("a"), "the mark is no part of the text");
    }

    #[test]
    fn what_is_no_text_is_refused_where_it_stands() {
        for (bad, place) in [
            (&b"\xff\xfea\0"[..], (1, 1)),
            (b"\xfe\xff\0a", (1, 1)),
            (b"a: \xff", (1, 4)),
            (b"a: 1\r\nb: \0", (2, 4)),
            (b"a: 1\rb: \x1b[2J", (2, 4)),
            ("ää\u{feff}".as_bytes(), (1, 3)),
            (b"\x7f", (1, 1)),
            ("a\u{9b}".as_bytes(), (1, 2)),
            (&[b'a'; FILE_LEN_MAX + 1], (1, 1)),
        ] {
            assert_eq!(place_of_fault(bad), Some(place), "{:?}", &bad[..bad.len().min(20)]);
        }
    }
}
