//! The committed corpora of the fuzz targets, replayed on stable: no file makes a parser panic, and each corpus holds
//! something that its target takes and something that it refuses.
//!
//! With `PEERD_SEEDS` set, the seeds are written anew first: after a change of a format (`just seeds`).

#[path = "../fuzz/src/lib.rs"]
mod fuzz;
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn replay(target: &str) {
    let (_, run) = fuzz::TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target");
    if std::env::var_os("PEERD_SEEDS").is_some() {
        fs::create_dir_all(corpus(target)).expect("a folder");
        for (name, bytes) in seeds::of(target) {
            fs::write(corpus(target).join(name), bytes).expect("a seed is written");
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target))
        .expect("every target has a corpus: just seeds")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    let (mut taken, mut refused) = (0, 0);
    for file in files {
        println!("{}", file.display());
        let bytes = fs::read(&file).expect("a file");
        if run(&bytes) { taken += 1 } else { refused += 1 }
    }
    assert!(taken > 0, "no seed of {target} is what it seems to be any more: just seeds");
    assert!(refused > 0, "{target} takes whatever it is given");
}

macro_rules! replayed {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed_and_can_be_fuzzed() {
            let names = fuzz::TARGETS.map(|(name, _)| name);
            assert_eq!(names, [$(stringify!($target)),*]);
            for name in names {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/targets/{name}.rs"));
                let text = fs::read_to_string(program).expect("a target has a program");
                assert!(text.contains(&format!("peerd_fuzz::{name}(bytes)")), "{name}");
            }
        }
    };
}

replayed!(
    control,
    datagram,
    device,
    dialled,
    dns,
    frame,
    member,
    message,
    record,
    service_file,
    state,
    tcp,
    token,
    upstream
);
