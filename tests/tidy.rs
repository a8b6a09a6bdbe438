//! The house rules that no compiler checks: layers, where `unsafe` may stand, the shape of files.
//!
//! The layers are read from the tables of `docs/architecture.md`, so the page cannot say what the code does not do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file beyond this needs a table of contents: it is two files.
const FILE_LINES_MAX: usize = 700;
/// Nothing in the repository is as large as this; what is was added by mistake.
const FILE_BYTES_MAX: u64 = 512 * 1024;
/// A name that says nothing gathers what has no place.
const FILE_NAMES_WITHOUT_MEANING: [&str; 6] = ["utils", "util", "common", "helpers", "misc", "manager"];

#[test]
fn a_room_imports_only_what_its_row_in_the_architecture_allows() {
    let rooms = rooms();
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let Some(room) = room_of(&file) else { continue };
        let Some(row) = rooms.get(&room) else {
            faults.push(format!("{}: src/{room} has no row", file.display()));
            continue;
        };
        for used in rooms_named_in(&code_of(&file), depth_of(&file)) {
            if rooms.contains_key(&used) && used != room && !row.imports.contains(&used) {
                faults.push(format!("{}: {room} may not import {used}", file.display()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn layers_point_downwards_and_the_page_lists_what_is_there() {
    let rooms = rooms();
    let mut faults = Vec::new();
    for (name, row) in &rooms {
        for used in &row.imports {
            match rooms.get(used) {
                None => faults.push(format!("{name} imports {used}, which has no row")),
                Some(below) if below.height >= row.height => {
                    faults.push(format!("{name} stands above {used} and imports it"));
                }
                Some(_) => {}
            }
        }
        let there = repository().join("src").join(name).is_dir();
        match row.built.as_str() {
            "core" | "daemon" if !there => faults.push(format!("src/{name} is not there")),
            "to come" if there => faults.push(format!("src/{name} is there: say how it is built")),
            "core" | "daemon" | "to come" => {}
            other => faults.push(format!("{name} is built as {other:?}: core, daemon or to come")),
        }
    }
    assert_none(faults);
}

#[test]
fn a_big_crate_is_named_in_its_home_only() {
    let homes = homes();
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let Some(room) = room_of(&file) else { continue };
        let code = code_of(&file);
        for (name, home) in &homes {
            if !home.contains(&room) && words(&code).any(|(_, word, after)| word == *name && after.starts_with("::")) {
                faults.push(format!("{}: {name} is at home in {home:?}", file.display()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn unsafe_code_and_clocks_stand_in_sys_alone() {
    let mut faults = Vec::new();
    for file in all_rust_files() {
        let code = code_of(&file);
        let in_sys = file.starts_with("src/sys");
        if !in_sys && words(&code).any(|(_, word, _)| word == "unsafe") {
            faults.push(format!("{}: unsafe code", file.display()));
        }
        let clock = file == Path::new("src/sys/clock.rs") || is_test(&file) || !file.starts_with("src");
        if !clock && words(&code).any(|(_, word, _)| word == "disallowed_methods") {
            faults.push(format!("{}: allows itself a clock", file.display()));
        }
    }
    assert_none(faults);
}

#[test]
fn every_rust_file_says_first_what_it_is_for_and_is_one_thought_long() {
    let mut faults = Vec::new();
    for file in all_rust_files() {
        let text = text_of(&file);
        if !text.starts_with("//!") && !is_test(&file) {
            faults.push(format!("{}: begins without module docs", file.display()));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", file.display()));
        }
        let stem = file.file_stem().unwrap_or_default();
        if FILE_NAMES_WITHOUT_MEANING.iter().any(|name| stem == *name) {
            faults.push(format!("{}: a name that says nothing", file.display()));
        }
    }
    assert_none(faults);
}

#[test]
fn nothing_is_left_for_later_and_no_machine_shows() {
    // In two pieces, so that this file does not hold them.
    let unwanted = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["<<<<<", "<< "],
        [">>>>>", ">> "],
    ]
    .map(|pieces| pieces.concat());
    let mut faults = Vec::new();
    for file in files_below("") {
        let Ok(text) = fs::read_to_string(repository().join(&file)) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            for found in unwanted.iter().filter(|unwanted| line.contains(unwanted.as_str())) {
                faults.push(format!("{}:{number}: {found}", file.display()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn files_are_text_of_one_form() {
    let mut faults = Vec::new();
    for file in files_below("") {
        let bytes = fs::read(repository().join(&file)).expect("a file that was just listed");
        if bytes.len() as u64 > FILE_BYTES_MAX {
            faults.push(format!("{}: {} bytes, at most {FILE_BYTES_MAX}", file.display(), bytes.len()));
        }
        let Ok(text) = str::from_utf8(&bytes) else { continue };
        if !text.is_empty() && !text.ends_with('\n') {
            faults.push(format!("{}: the last line has no end", file.display()));
        }
        // A snapshot is what a program printed, spaces at the end included.
        let printed = file.extension().is_some_and(|extension| extension == "snap");
        for (number, line) in (1..).zip(text.split('\n')) {
            if line.ends_with('\r') || !printed && line.ends_with([' ', '\t']) {
                faults.push(format!("{}:{number}: white space at the end", file.display()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn the_reader_of_code_sees_code_and_nothing_else() {
    let code = code(concat!(
        "use crate::a::B; // crate::comment\n",
        "use crate::{c, d::{self, E}, f};\n",
        "/* crate::x /* crate::y */ crate::z */ let s = \"crate::string \\\" crate::more\";\n",
        "let r = r#\"crate::raw \" crate::raw\"#; let c = '\"'; let l: &'static str = crate::g::h();\n",
        "use super::super::i; use super::near; pub(crate) fn k() {}\n",
    ));
    let rooms = |depth| rooms_named_in(&code, depth).into_iter().collect::<Vec<_>>();
    assert_eq!(rooms(2), ["a", "c", "d", "f", "g", "i"]);
    assert_eq!(rooms(3), ["a", "c", "d", "f", "g"]);
}

// The tables.

struct Room {
    /// Its row, from above.
    height: usize,
    imports: BTreeSet<String>,
    built: String,
}

fn rooms() -> BTreeMap<String, Room> {
    let rows = table("room");
    let names: Vec<String> = rows.iter().map(|row| bare(&row[0])).collect();
    let room = |(height, row): (usize, &Vec<String>)| {
        let imports = match row[2].as_str() {
            "-" => BTreeSet::new(),
            "all" => names[..height].iter().cloned().collect(),
            listed => listed.split(',').map(bare).collect(),
        };
        (names[height].clone(), Room { height, imports, built: row[3].clone() })
    };
    rows.iter().enumerate().map(room).collect()
}

fn homes() -> BTreeMap<String, BTreeSet<String>> {
    let rows = table("crate");
    let each = |row: &Vec<String>| {
        let home: BTreeSet<_> = row[1].split(',').map(bare).collect();
        row[0].split(',').map(|name| (bare(name), home.clone())).collect::<Vec<_>>()
    };
    rows.iter().flat_map(each).collect()
}

/// The cells of the table of docs/architecture.md whose first column is `column`.
fn table(column: &str) -> Vec<Vec<String>> {
    let page = text_of(Path::new("docs/architecture.md"));
    let head = format!("| {column} |");
    let rows: Vec<_> = page
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "docs/architecture.md has no table of each {column}");
    rows
}

fn bare(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

// The code.

/// The room that a file below `src/` stands in.
fn room_of(file: &Path) -> Option<String> {
    let mut parts = file.strip_prefix("src").ok()?.iter();
    let first = parts.next()?.to_str()?;
    parts.next().map(|_| first.to_owned())
}

/// How many `super` lead from a file's module to the crate.
fn depth_of(file: &Path) -> usize {
    let below_src = file.iter().count() - 1;
    if file.ends_with("mod.rs") { below_src - 1 } else { below_src }
}

/// The first path segments behind `crate::`, and behind as many `super::` as lead to the crate.
fn rooms_named_in(code: &str, depth: usize) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let mut supers = 0;
    let mut chain_end = 0;
    for (at, word, after) in words(code) {
        supers = match word {
            "super" if chain_end == at => supers + 1,
            "super" => 1,
            _ => 0,
        };
        chain_end = at + word.len() + "::".len();
        let reaches_crate = word == "crate" || word == "super" && supers >= depth;
        if let (true, Some(path)) = (reaches_crate, after.strip_prefix("::")) {
            rooms.extend(first_segments(path));
        }
    }
    rooms.remove("super");
    rooms
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c}`.
fn first_segments(path: &str) -> Vec<String> {
    let Some(group) = path.trim_start().strip_prefix('{') else {
        return words(path).next().map(|(_, word, _)| word.to_owned()).into_iter().collect();
    };
    let (mut segments, mut depth, mut expected) = (Vec::new(), 0usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && depth == 0 && !c.is_whitespace() => {
                segments.extend(words(&group[at..]).next().map(|(_, word, _)| word.to_owned()));
                expected = false;
            }
            _ => {}
        }
    }
    segments
}

/// The words of a code: where each begins, itself, and what comes after it.
fn words(code: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(in_word)?;
        let end = code[start..].find(|c| !in_word(c)).map_or(code.len(), |len| start + len);
        rest = end;
        Some((start, &code[start..end], &code[end..]))
    })
}

fn code_of(file: &Path) -> String {
    code(&text_of(file))
}

/// A source without its comments and the content of its strings.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_len(rest)
        } else if c == '"' {
            string_len(rest)
        } else if rest.starts_with("r\"") || rest.starts_with("r#\"") || rest.starts_with("r##\"") {
            let hashes = "#".repeat(rest[1..].find('"').unwrap_or(0));
            let open = 2 + hashes.len();
            let close = format!("\"{hashes}");
            rest[open..].find(&close).map_or(rest.len(), |len| open + len + close.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            1 + rest[1..].char_indices().skip(2).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

// The files.

fn all_rust_files() -> Vec<PathBuf> {
    ["src", "tests", "peerctl", "netns-tests"].into_iter().flat_map(rust_files).collect()
}

/// Whether a file below `src/` holds tests and nothing else.
fn is_test(file: &Path) -> bool {
    file.ends_with("tests.rs") || file.iter().any(|part| part == "tests")
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    files_below(folder).into_iter().filter(|file| file.extension().is_some_and(|e| e == "rs")).collect()
}

/// The files below a folder of the repository, by path, as seen from its root. What is built is left out, and so are the
/// corpora: they are bytes.
fn files_below(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder)).expect("a folder that can be read") {
            let entry = entry.expect("a folder that can be read");
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().expect("a file with a type");
            let left_out = ["target", ".git", "tests/fuzz/corpus"].iter().any(|out| path == Path::new(out));
            if kind.is_dir() && !left_out {
                folders.push(path);
            } else if kind.is_file() && path != Path::new(".git") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
