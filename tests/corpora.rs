//! Replays what the fuzzers have kept, and each of it cut and changed, on a stable compiler.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

fn replay(name: &str, feed: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file that can be read");
        count += 1;
        feed(&bytes);
        for at in 0..bytes.len().min(512) {
            feed(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            feed(&changed);
            changed[at] = 0xff;
            feed(&changed);
        }
    }
    count
}

#[test]
fn every_corpus_is_read_without_a_panic() {
    for (name, feed) in targets::TARGETS {
        assert!(replay(name, feed) > 0, "{name} has no corpus");
    }
}

#[test]
fn every_target_has_its_fuzzer() {
    let manifest = include_str!("fuzz/Cargo.toml");
    for (name, _) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/fuzz_targets/{name}.rs"));
        assert!(file.exists(), "{name}");
    }
}
