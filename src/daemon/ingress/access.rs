//! nginx's access log, read as it grows: what each service was asked for, and how it went.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Below the ingress folder.
pub const FILE: &str = "logs/access.log";
const OLD_FILE: &str = "logs/access.log.1";
/// The log is put aside at this size, and the one before it goes.
const BYTES_MAX: u64 = 32 << 20;
/// What one look reads at most.
const LOOK_BYTES_MAX: u64 = 8 << 20;
/// Services that are counted; requests of further ones are counted as nobody's.
const SERVICES_MAX: usize = 10_000;

/// What a service was asked for since the node started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub requests: u64,
    /// By the first digit of the status: 1xx to 5xx.
    pub by_class: [u64; 5],
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub seconds: f64,
}

/// A line of the log.
#[derive(Deserialize)]
struct Line {
    service: String,
    status: u16,
    sent_bytes: u64,
    received_bytes: u64,
    seconds: f64,
}

/// The log and what was counted of it.
pub struct AccessLog {
    /// The one that nginx writes, and the one put aside, in which what was still to be counted is.
    files: [Grown; 2],
    pub services: BTreeMap<String, Counts>,
}

/// A file, and up to where it is counted.
struct Grown {
    path: PathBuf,
    at: u64,
}

impl AccessLog {
    /// What is there already is of an earlier run.
    pub fn new(dir: &Path) -> Self {
        let files = [FILE, OLD_FILE].map(|file| {
            let path = dir.join(file);
            Grown { at: fs::metadata(&path).map_or(0, |metadata| metadata.size()), path }
        });
        Self { files, services: BTreeMap::new() }
    }

    /// Counts what has come since the last look; whether the log was put aside, so that nginx has to open a new one.
    ///
    /// It is put aside at its size, however little of it is counted: who asks for more than is counted in a second fills no disk.
    /// What is in the one before then, and was not counted, is lost.
    pub fn look(&mut self) -> io::Result<bool> {
        let mut left = LOOK_BYTES_MAX;
        let [log, old] = &mut self.files;
        let services = &mut self.services;
        old.read(&mut left, |line| count(services, line))?;
        let size = log.read(&mut left, |line| count(services, line))?;
        if size < BYTES_MAX {
            return Ok(false);
        }
        fs::rename(&log.path, &old.path)?;
        old.at = std::mem::take(&mut log.at);
        Ok(true)
    }
}

impl Grown {
    /// Hands out the whole lines that have come, no more than `left` bytes of them; the file's size, 0 if it is not there.
    fn read(&mut self, left: &mut u64, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.at = 0;
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.size();
        if size < self.at {
            self.at = 0;
        }
        file.seek(io::SeekFrom::Start(self.at))?;
        let mut lines = BufReader::new(io::Read::take(file, *left));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            self.at += line.len() as u64;
            *left -= line.len() as u64;
            take(&line);
            line.clear();
        }
        Ok(size)
    }
}

fn count(services: &mut BTreeMap<String, Counts>, line: &[u8]) {
    let Ok(Line { service, status, sent_bytes, received_bytes, seconds }) = serde_json::from_slice(line) else {
        return;
    };
    let is_known = services.contains_key(&service);
    let service = if is_known || services.len() < SERVICES_MAX { service } else { String::new() };
    let counts = services.entry(service).or_default();
    counts.requests += 1;
    if let Some(class) = counts.by_class.get_mut(usize::from(status / 100).wrapping_sub(1)) {
        *class += 1;
    }
    counts.received_bytes += received_bytes;
    counts.sent_bytes += sent_bytes;
    counts.seconds += seconds;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(service: &str, status: u16) -> String {
        format!(
            "{{\"time\":\"t\",\"client\":\"::1\",\"host\":\"a\",\"request\":\"GET / HTTP/1.1\",\"service\":\"{service}\",\"agent\":\"\",\"status\":{status},\"sent_bytes\":100,\"received_bytes\":50,\"seconds\":0.5}}\n"
        )
    }

    #[test]
    fn each_line_is_counted_once_and_a_half_line_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("logs")).expect("a folder");
        let mut file = File::create(dir.path().join(FILE)).expect("a file");
        file.write_all(line("of before", 200).as_bytes()).expect("written");
        let mut log = AccessLog::new(dir.path());
        let (first, second) = (line("a", 200), line("a", 503));
        file.write_all(first.as_bytes()).expect("written");
        file.write_all(&second.as_bytes()[..20]).expect("written");
        for requests in [1, 1] {
            assert!(!log.look().expect("read"));
            assert_eq!(log.services["a"].requests, requests);
        }
        file.write_all(&second.as_bytes()[20..]).expect("written");
        file.write_all(b"nonsense\n").expect("written");
        assert!(!log.look().expect("read"));
        let counts =
            Counts { requests: 2, by_class: [0, 1, 0, 0, 1], received_bytes: 100, sent_bytes: 200, seconds: 1.0 };
        assert_eq!(log.services, [("a".to_owned(), counts)].into());
    }

    #[test]
    fn a_log_that_is_long_enough_is_put_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("logs")).expect("a folder");
        let mut log = AccessLog::new(dir.path());
        let lines = line("a", 200).repeat(1000);
        let mut file = File::create(dir.path().join(FILE)).expect("a file");
        let mut written = 0;
        while written < BYTES_MAX {
            file.write_all(lines.as_bytes()).expect("written");
            written += lines.len() as u64;
        }
        assert!(log.look().expect("read"), "at once, though a look counts no more than its share");
        assert!(!dir.path().join(FILE).exists() && dir.path().join(OLD_FILE).exists());
        assert!(log.services["a"].requests < written / lines.len() as u64 * 1000);
        // What a worker still writes until it has heard of it, and what comes into the next one.
        file.write_all(line("late", 200).as_bytes()).expect("written");
        fs::write(dir.path().join(FILE), line("next", 200)).expect("written");
        let looks = (0..10).take_while(|_| {
            assert!(!log.look().expect("read"));
            !log.services.contains_key("next")
        });
        assert!((1..10).contains(&looks.count()));
        let counted = ["a", "late", "next"].map(|service| log.services[service].requests);
        assert_eq!(counted, [written / lines.len() as u64 * 1000, 1, 1]);
    }

    #[test]
    fn who_asks_for_more_than_can_be_counted_fills_no_disk() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("logs")).expect("a folder");
        let mut log = AccessLog::new(dir.path());
        let lines = line("a", 200).repeat(1000);
        let mut file = File::create(dir.path().join(FILE)).expect("a file");
        for _ in 0..8 {
            // Twice what a look counts.
            for _ in 0..2 * LOOK_BYTES_MAX / lines.len() as u64 {
                file.write_all(lines.as_bytes()).expect("written");
            }
            if log.look().expect("read") {
                file = File::create(dir.path().join(FILE)).expect("a file");
            }
            let entries = fs::read_dir(dir.path().join("logs")).expect("there");
            let bytes: u64 = entries.map(|entry| entry.expect("there").metadata().expect("there").len()).sum();
            assert!(bytes <= 2 * (BYTES_MAX + 2 * LOOK_BYTES_MAX), "{bytes} bytes");
        }
    }
}
