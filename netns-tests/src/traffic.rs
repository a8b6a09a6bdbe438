//! Traffic that goes on while something happens to it, and what became of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::FOLDER;
use crate::wait::{self, SOON};
use crate::{Background, Container};

/// Sends every datagram and every byte back: PORT, by UDP and by TCP.
const ECHO: &str = r#"
import selectors, socket, sys
port = int(sys.argv[1])
select = selectors.DefaultSelector()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", port))
listener = socket.create_server(("", port))
select.register(datagrams, selectors.EVENT_READ)
select.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in select.select():
        if key.fileobj is datagrams:
            data, sender = datagrams.recvfrom(65536)
            try:
                datagrams.sendto(data, sender)
            except OSError:
                pass
        elif key.fileobj is listener:
            select.register(listener.accept()[0], selectors.EVENT_READ)
        else:
            try:
                data = key.fileobj.recv(65536)
                key.fileobj.sendall(data)
            except OSError:
                data = b""
            if not data:
                select.unregister(key.fileobj)
                key.fileobj.close()
"#;

/// A numbered datagram every 10 ms, and a line for each that comes back: ADDRESS PORT TEXT.
const NUMBERED: &str = r#"
import select, socket, sys, time
to, text = (sys.argv[1], int(sys.argv[2])), sys.argv[3]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.setblocking(False)
number, due = 0, time.monotonic()
while True:
    if time.monotonic() >= due:
        number, due = number + 1, max(due + 0.01, time.monotonic() - 0.05)
        try:
            datagrams.sendto(b"%s %d" % (text.encode(), number), to)
        except OSError:
            pass
    select.select([datagrams], [], [], max(0, due - time.monotonic()))
    try:
        back = datagrams.recv(2048)
        print("%.6f %d" % (time.monotonic(), int(back.split()[-1])), flush=True)
    except BlockingIOError:
        pass
"#;

/// One connection on which something is said every 20 ms, and a line for each answer: ADDRESS PORT TEXT. It ends when the
/// connection does.
const CHAT: &str = r#"
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
number = 0
while True:
    number += 1
    said = b"%s %d\n" % (sys.argv[3].encode(), number)
    connection.sendall(said)
    heard = b""
    while len(heard) < len(said):
        part = connection.recv(4096)
        assert part, "the connection has ended"
        heard += part
    assert heard == said, (heard, said)
    print("%.6f %d" % (time.monotonic(), number), flush=True)
    time.sleep(0.02)
"#;

/// Takes one connection's bytes to its end and prints their digest: PORT. A line for every MiB.
const TAKE: &str = r#"
import hashlib, socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
connection, _ = listener.accept()
digest, mib, rest = hashlib.sha256(), 0, 0
while True:
    data = connection.recv(1 << 18)
    if not data:
        break
    digest.update(data)
    rest += len(data)
    while rest >= 1 << 20:
        rest, mib = rest - (1 << 20), mib + 1
        print("mib", mib, flush=True)
print("digest", digest.hexdigest(), flush=True)
"#;

/// Sends so many MiB that nobody can foretell and prints their digest: ADDRESS PORT MIB.
const GIVE: &str = r#"
import hashlib, random, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
digest, source = hashlib.sha256(), random.Random(1)
for _ in range(int(sys.argv[3])):
    data = source.randbytes(1 << 20)
    digest.update(data)
    connection.sendall(data)
connection.close()
print("digest", digest.hexdigest(), flush=True)
"#;

/// The port of [`echo`].
pub const ECHO_PORT: &str = "7007";
const TAKE_PORT: &str = "7008";
const COUNT_PORT: &str = "7009";

fn start(container: &Container, name: &str, program: &str, args: &[&str]) -> Result<Background> {
    let words = [&["python3", "-c", program], args].concat();
    let log: PathBuf = Path::new(FOLDER).join(format!("{}-{name}.log", container.name()));
    // One of an earlier time would be read as this one's.
    let _ = std::fs::remove_file(&log);
    Background::start(&mut container.command(&words), log)
}

fn listening(mut server: Background) -> Result<Background> {
    wait::until_true("a server", SOON, || {
        server.still_runs()?;
        Ok(server.printed()?.contains("listening"))
    })?;
    Ok(server)
}

/// Sends every datagram and every byte back, on [`ECHO_PORT`].
///
/// # Errors
/// If it does not start.
pub fn echo(container: &Container) -> Result<Background> {
    listening(start(container, "echo", ECHO, &[ECHO_PORT])?)
}

/// Questions and answers between two containers, each answer with its time.
#[derive(Debug)]
pub struct Flow {
    asker: Background,
}

impl Flow {
    /// A numbered datagram every 10 ms to a container that runs [`echo`].
    ///
    /// # Errors
    /// If no answer comes.
    pub fn datagrams(from: &Container, to: &Container, text: &str) -> Result<Self> {
        Self::of(start(from, "datagrams", NUMBERED, &[to.address(), ECHO_PORT, text])?)
    }

    /// One TCP connection to a container that runs [`echo`], as of somebody who types.
    ///
    /// # Errors
    /// If no answer comes.
    pub fn connection(from: &Container, to: &Container, text: &str) -> Result<Self> {
        Self::of(start(from, "connection", CHAT, &[to.address(), ECHO_PORT, text])?)
    }

    fn of(asker: Background) -> Result<Self> {
        let mut flow = Self { asker };
        flow.goes_on(10)?;
        Ok(flow)
    }

    /// How many answers have come.
    ///
    /// # Errors
    /// If it has ended.
    pub fn answers(&mut self) -> Result<usize> {
        self.asker.still_runs()?;
        Ok(self.times()?.len())
    }

    /// Waits for so many more answers.
    ///
    /// # Errors
    /// If they do not come, or it has ended.
    pub fn goes_on(&mut self, count: usize) -> Result<()> {
        let before = self.answers()?;
        wait::until_true("answers", SOON, || {
            self.asker.still_runs()?;
            Ok(self.times()?.len() >= before + count)
        })
    }

    /// The longest time without an answer since so many had come.
    ///
    /// # Errors
    /// If it has ended.
    pub fn longest_gap_since(&mut self, answers: usize) -> Result<Duration> {
        self.asker.still_runs()?;
        let times = self.times()?;
        let since = times.get(answers.saturating_sub(1)..).context("answers do not go away")?;
        let longest = since.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        Ok(Duration::from_secs_f64(longest))
    }

    /// How many answers came twice.
    ///
    /// # Errors
    /// If what it printed cannot be read.
    pub fn duplicates(&self) -> Result<usize> {
        let printed = self.asker.printed()?;
        let numbers: Vec<_> = whole_lines(&printed).filter_map(|line| line.split(' ').nth(1)).collect();
        let different: std::collections::BTreeSet<_> = numbers.iter().collect();
        Ok(numbers.len() - different.len())
    }

    fn times(&self) -> Result<Vec<f64>> {
        let printed = self.asker.printed()?;
        let time = |line: &str| line.split(' ').next().unwrap_or_default().parse().with_context(|| line.to_owned());
        whole_lines(&printed).map(time).collect()
    }
}

/// The last line may still be on its way.
fn whole_lines(printed: &str) -> impl Iterator<Item = &str> {
    printed.rsplit_once('\n').map_or("", |(whole, _)| whole).lines()
}

/// Bytes on their way from one container to another.
#[derive(Debug)]
pub struct Transfer {
    giver: Background,
    taker: Background,
    mib: usize,
}

impl Transfer {
    /// Starts one.
    ///
    /// # Errors
    /// If either side does not start.
    pub fn start(from: &Container, to: &Container, mib: usize) -> Result<Self> {
        let taker = listening(start(to, "take", TAKE, &[TAKE_PORT])?)?;
        let giver = start(from, "give", GIVE, &[to.address(), TAKE_PORT, &mib.to_string()])?;
        Ok(Self { giver, taker, mib })
    }

    /// Waits until so many percent have arrived.
    ///
    /// # Errors
    /// If they do not.
    pub fn arrived(&mut self, percent: usize, limit: Duration) -> Result<()> {
        let wanted = self.mib * percent / 100;
        wait::until_true("a part of the transfer", limit, || {
            let printed = self.taker.printed()?;
            Ok(printed.lines().filter(|line| line.starts_with("mib")).count() >= wanted)
        })
    }

    /// Waits for its end: everything has arrived as it was sent.
    ///
    /// # Errors
    /// If it has not.
    pub fn whole(mut self, limit: Duration) -> Result<()> {
        let (sent, taken) = (self.giver.ended(limit)?, self.taker.ended(limit)?);
        let digest = |side: &Background| -> Result<String> {
            let printed = side.printed()?;
            let digest = printed.lines().find_map(|line| line.strip_prefix("digest ")).map(str::to_owned);
            digest.with_context(|| printed)
        };
        ensure!(sent.success() && taken.success(), "{sent}, {taken}");
        ensure!(digest(&self.giver)? == digest(&self.taker)?, "something else arrived than was sent");
        Ok(())
    }
}

/// What became of numbered datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub different: usize,
    pub duplicates: usize,
    /// Those that came after one with a higher number.
    pub disordered: usize,
}

/// Counts numbered datagrams until two seconds after the last: PORT.
const COUNT: &str = r#"
import socket, sys
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
datagrams.bind(("", int(sys.argv[1])))
print("listening", flush=True)
seen, duplicates, disordered, highest = set(), 0, 0, 0
datagrams.settimeout(20)
try:
    while True:
        number = int(datagrams.recv(64))
        datagrams.settimeout(2)
        duplicates += number in seen
        disordered += number < highest
        highest = max(highest, number)
        seen.add(number)
except TimeoutError:
    print("counted", len(seen), duplicates, disordered, flush=True)
"#;

/// Sends so many numbered datagrams, 2,000 a second: ADDRESS PORT COUNT.
const SEND: &str = r#"
import socket, sys, time
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
due = time.monotonic()
for number in range(int(sys.argv[3])):
    datagrams.sendto(b"%d" % number, (sys.argv[1], int(sys.argv[2])))
    if number % 20 == 19:
        due += 0.01
        time.sleep(max(0, due - time.monotonic()))
"#;

/// Sends so many numbered datagrams from one container to another, and counts what arrives.
///
/// # Errors
/// If either side fails.
pub fn count(from: &Container, to: &Container, datagrams: usize) -> Result<Counted> {
    let mut counter = listening(start(to, "count", COUNT, &[COUNT_PORT])?)?;
    from.python(SEND, &[to.address(), COUNT_PORT, &datagrams.to_string()])?.ok()?;
    counter.ended(SOON * 2)?;
    let printed = counter.printed()?;
    let counted = printed.lines().find_map(|line| line.strip_prefix("counted ")).with_context(|| printed.clone())?;
    let numbers = counted.split(' ').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let [different, duplicates, disordered] = numbers[..] else { anyhow::bail!("{printed}") };
    Ok(Counted { different, duplicates, disordered })
}
