//! nginx as a child: found, told what to serve, kept alive, ended.
//!
//! It runs in the ingress folder, to which all its paths are relative. A configuration goes live only when nginx itself has
//! accepted it; the last good one stays otherwise. A change is a reload: workers of the configuration before finish what
//! they have under way.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;

use super::super::node::lock;
use super::super::verbs::blocking;
use super::pace::Generations;
use crate::ingress::Http2;
use crate::sys::process::{ChildHandle, bind_to_thread};
use crate::sys::{clock, cred};

/// The oldest that has all the directives.
const OLDEST: Version = Version(1, 19, 5);
const HTTP2_DIRECTIVE: Version = Version(1, 25, 1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);
const RELOAD_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Each look goes through all processes of the machine.
const LEFTOVERS_LOOK_INTERVAL: Duration = Duration::from_millis(20);
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
/// What it complains of, in levels.
const LEVELS: [&str; 2] = ["[emerg]", "[alert]"];
/// Lines of one level that are told.
const TOLD_PER_SECOND_MAX: u32 = 10;
/// Lines of its log that are kept for people.
const LINES_MAX: usize = 8;
const LINE_LEN_MAX: usize = 400;
/// Where it may be beside the folders of PATH.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin"];
/// Who runs its workers when root starts it: the first account that there is.
const ACCOUNTS: [&str; 4] = ["www-data", "nginx", "http", "nobody"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

/// Why nginx does not do what it is to do.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    #[error("there is no nginx on this machine")]
    Missing,
    #[error("nginx {0} is too old: {OLDEST} is the oldest that can be used")]
    TooOld(Version),
    #[error("nginx does not say its version")]
    Unknown,
    #[error("nginx cannot be run")]
    Run(#[from] io::Error),
    #[error("nginx does not accept the configuration: {0}")]
    Refused(String),
    #[error("nginx has not taken the configuration up: {0}")]
    NotLive(String),
    #[error("nginx has ended: {0}")]
    Ended(String),
}

/// The program.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    pub version: Version,
}

impl Program {
    /// Finds it, and looks whether it is new enough.
    pub async fn find() -> Result<Self, NginxError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
        let path = folders.map(|folder| folder.join("nginx")).find(|path| path.is_file()).ok_or(NginxError::Missing)?;
        let mut command = tokio::process::Command::new(&path);
        command.arg("-v").stdin(Stdio::null()).env_clear().kill_on_drop(true);
        let output = tokio::time::timeout(CHECK_TIMEOUT, command.output()).await.map_err(|_| NginxError::Unknown)??;
        let version = Version::parse(&String::from_utf8_lossy(&output.stderr)).ok_or(NginxError::Unknown)?;
        if version < OLDEST {
            return Err(NginxError::TooOld(version));
        }
        Ok(Self { path, version })
    }

    pub fn http2(&self) -> Http2 {
        if self.version < HTTP2_DIRECTIVE { Http2::Parameter } else { Http2::Directive }
    }

    /// nginx in `dir`, reading `file`. What it inherits are its three standard streams and nothing else.
    fn command(&self, dir: &Path, file: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["-e", "stderr", "-p", "./", "-c", file]).current_dir(dir).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// nginx's own verdict on a configuration in `dir`.
    pub async fn check(&self, dir: &Path, file: &str) -> Result<(), NginxError> {
        let mut command = self.command(dir, file);
        command.args(["-t", "-q"]);
        let mut command = tokio::process::Command::from(command);
        let output = tokio::time::timeout(CHECK_TIMEOUT, command.kill_on_drop(true).output());
        let output = output.await.map_err(|_| NginxError::Refused("it did not finish reading it".to_owned()))??;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| line.contains("[emerg]")).or(said.lines().next()).unwrap_or_default();
        Err(NginxError::Refused(shown(line)))
    }

    /// Starts it. Its children are its own business.
    pub fn start(&self, dir: &Path, file: &str) -> Result<Running, NginxError> {
        let mut command = self.command(dir, file);
        bind_to_thread(&mut command);
        let mut child = tokio::process::Command::from(command).spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let handle = ChildHandle::open(pid)?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(listen(stderr, said.clone()));
        }
        Ok(Running {
            child,
            handle,
            pid,
            dir: dir.to_owned(),
            said,
            since: clock::now(),
            generations: Generations::default(),
        })
    }
}

/// A running nginx. Dropped, it is told to end, and its workers with it.
pub struct Running {
    child: Child,
    handle: ChildHandle,
    pub pid: u32,
    dir: PathBuf,
    said: Arc<Mutex<VecDeque<String>>>,
    pub since: Instant,
    generations: Generations,
}

impl Running {
    /// Has it read its configuration again, and waits until workers of the new one are there.
    pub async fn reload(&mut self) -> Result<(), NginxError> {
        let before = self.workers().await;
        self.generations.count(&before);
        lock(&self.said).clear();
        self.handle.signal(Signal::HUP)?;
        self.generations.begin();
        self.wait_for_workers(|now| now.iter().any(|pid| !before.contains(pid))).await
    }

    /// Waits until it serves for the first time.
    pub async fn started(&mut self) -> Result<(), NginxError> {
        self.wait_for_workers(|now| !now.is_empty()).await
    }

    async fn wait_for_workers(&mut self, enough: impl Fn(&[u32]) -> bool) -> Result<(), NginxError> {
        let deadline = clock::now() + RELOAD_TIMEOUT;
        while !enough(&self.workers().await) {
            if self.has_ended() {
                return Err(NginxError::Ended(self.last_words()));
            }
            if self.complains() || clock::now() >= deadline {
                return Err(NginxError::NotLive(self.last_words()));
            }
            tokio::time::sleep(RELOAD_LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether it said that it cannot do what it was told to.
    fn complains(&self) -> bool {
        // A port that is in use is tried five times, and then it says something else.
        lock(&self.said).iter().any(|line| line.contains("[emerg]") && !line.contains("Address already in use"))
    }

    /// Has it open its log anew.
    pub fn reopen(&self) -> io::Result<()> {
        self.handle.signal(Signal::USR1)
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it complained about last.
    pub fn last_words(&self) -> String {
        lock(&self.said).back().cloned().unwrap_or_else(|| "it did not say why".to_owned())
    }

    /// The processes that it has started, those that finish older work included.
    async fn workers(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let children = blocking(move || std::fs::read_to_string(path).unwrap_or_default()).await;
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Of how many configurations there are workers.
    pub async fn generations(&mut self) -> usize {
        let workers = self.workers().await;
        self.generations.count(&workers)
    }

    /// Ends it, and its workers.
    pub async fn stop(mut self) {
        let _ = self.handle.signal(Signal::TERM);
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!("nginx does not end: it is killed");
            let _ = self.handle.signal(Signal::KILL);
            let _ = self.child.wait().await;
            // It could not tell them.
            end_leftovers(&self.dir).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its workers end with it, unless it was killed before.
        let _ = self.handle.signal(Signal::TERM);
        if self.has_ended() {
            signal_leftovers(&self.dir, Signal::TERM);
        }
    }
}

/// Keeps the last lines that it says. Only what it cannot go on with is told above debug: the rest a stranger can cause. Some of
/// that he can cause too, such as that it has no room for more connections.
async fn listen(stderr: impl AsyncRead + Unpin, said: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut told = LEVELS.map(|level| (level, Told::new(clock::now())));
    loop {
        // What it has said of a line so far stays in `line`.
        let read = tokio::time::timeout(Told::SECOND, lines.read_until(b'\n', &mut line)).await;
        let is_over = matches!(read, Ok(Ok(0) | Err(_)));
        for (level, told) in &mut told {
            if let Some(lines) = told.left_out(clock::now(), is_over) {
                tracing::warn!(level, lines, "nginx said more than is told");
            }
        }
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return,
            Err(_) => continue,
        }
        let text = shown(&String::from_utf8_lossy(&line));
        line.clear();
        let Some((_, told)) = told.iter_mut().find(|(level, _)| text.starts_with(level)) else {
            tracing::debug!(nginx = %text.escape_debug());
            continue;
        };
        if told.admits(clock::now()) {
            tracing::warn!(nginx = %text.escape_debug());
        }
        let mut said = lock(&said);
        said.push_back(text);
        if said.len() > LINES_MAX {
            said.pop_front();
        }
    }
}

/// How many lines of one level were told in this second, and how many were not.
struct Told {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Told {
    const SECOND: Duration = Duration::from_secs(1);

    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0, left_out: 0 }
    }

    /// Whether one more is told.
    fn admits(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Self::SECOND {
            (self.since, self.lines) = (now, 0);
        }
        let admits = self.lines < TOLD_PER_SECOND_MAX;
        self.lines += u32::from(admits);
        self.left_out += u64::from(!admits);
        admits
    }

    /// How many were not told, once the second is over, or all is.
    fn left_out(&mut self, now: Instant, is_over: bool) -> Option<u64> {
        let is_due = is_over || now.saturating_duration_since(self.since) >= Self::SECOND;
        Some(std::mem::take(if is_due { &mut self.left_out } else { return None })).filter(|lines| *lines > 0)
    }
}

fn shown(line: &str) -> String {
    // The time that it begins with is ours too.
    let line = line.trim();
    let line = line.find('[').map_or(line, |at| &line[at..]);
    line.chars().take(LINE_LEN_MAX).collect()
}

/// Ends what an nginx of this folder has left behind: workers whose master was killed serve on, and keep its ports.
pub async fn end_leftovers(dir: &Path) {
    let deadline = clock::now() + STOP_TIMEOUT;
    for signal in [Signal::TERM, Signal::KILL] {
        loop {
            let dir = dir.to_owned();
            if !blocking(move || signal_leftovers(&dir, signal)).await {
                return;
            }
            // What is killed is gone a moment later.
            if clock::now() >= deadline && (signal == Signal::TERM || clock::now() >= deadline + KILL_TIMEOUT) {
                break;
            }
            tokio::time::sleep(LEFTOVERS_LOOK_INTERVAL).await;
        }
    }
}

/// Tells them to end; whether there are any.
fn signal_leftovers(dir: &Path, signal: Signal) -> bool {
    let left = leftovers(dir);
    for worker in &left {
        // One that has ended since is no error.
        let _ = worker.signal(signal);
    }
    !left.is_empty()
}

/// The processes called nginx that work in this folder, which is closed to everybody else.
fn leftovers(dir: &Path) -> Vec<ChildHandle> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let is_one = |process: &Path| {
        let comm = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        comm.trim() == "nginx" && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)
    };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|process| is_one(process));
    processes
        .filter_map(|process| {
            let handle = ChildHandle::open(process.file_name()?.to_str()?.parse().ok()?).ok()?;
            // The number may be another's since it was looked at; the handle's is not.
            is_one(&process).then_some(handle)
        })
        .collect()
}

/// Who is to run the workers: nobody in particular unless root starts nginx. Where a user namespace has no other account,
/// root itself.
pub fn worker_account() -> Option<&'static str> {
    if !cred::is_root() {
        return None;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let is_there = |account: &&&str| {
        let has = |list: &str| list.lines().any(|line| line.split(':').next() == Some(**account));
        // nginx takes the group of the same name.
        has(&accounts) && has(&groups)
    };
    if !has_all {
        return Some("root");
    }
    ACCOUNTS.iter().find(is_there).copied().or(Some("root"))
}

impl Version {
    /// Of what `nginx -v` says: `nginx version: nginx/1.22.1`.
    fn parse(text: &str) -> Option<Self> {
        let (_, version) = text.split_once('/')?;
        let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next()??))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_of_what_nginx_and_its_kin_say() {
        assert_eq!(Version::parse("nginx version: nginx/1.22.1\n"), Some(Version(1, 22, 1)));
        assert_eq!(Version::parse("nginx version: openresty/1.25.3.1"), Some(Version(1, 25, 3)));
        for bad in ["", "nginx", "nginx/1", "nginx/x.y.z", "nginx/99999999999.1.1"] {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
        assert!(Version(1, 9, 20) < OLDEST && Version(1, 22, 0) > OLDEST);
    }

    #[test]
    fn of_what_a_stranger_makes_it_say_ten_lines_a_second_are_told_and_the_rest_is_counted() {
        let begin = clock::now();
        let mut told = Told::new(begin);
        let half = begin + Told::SECOND / 2;
        assert_eq!((0..1000).filter(|_| told.admits(half)).count(), 10);
        assert_eq!(told.left_out(half, false), None);
        let next = begin + Told::SECOND;
        assert_eq!((told.left_out(next, false), told.left_out(next, false)), (Some(990), None));
        assert_eq!((0..11).filter(|_| told.admits(next)).count(), 10);
        assert_eq!(told.left_out(next, true), Some(1), "its last words are over");
    }
}
