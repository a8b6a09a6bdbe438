//! The conversation with the node.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use peerd::control::{ExitStatus, Failure, Frame, Request, Warning, decode_line, encode_line};
use serde::de::DeserializeOwned;

/// The longest line of an answer, in bytes: a full cluster's container list fits.
const LINE_LEN_MAX: u64 = 64 << 20;

/// How long the node may take to accept a caller, to read its request and, where it only has to look, to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks one node, one request a connection.
pub struct Client {
    pub socket: PathBuf,
    /// Whether steps are told on stderr.
    narrate: bool,
    patience: Duration,
}

/// What the node answered.
pub struct Answer {
    pub data: serde_json::Value,
    pub warnings: Vec<Warning>,
}

impl Answer {
    /// The answer as the type that belongs to its verb.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        parse(&self.data)
    }
}

/// What the node said, as the type that it should be.
pub fn parse<T: DeserializeOwned>(data: &serde_json::Value) -> Result<T, Failure> {
    T::deserialize(data).map_err(|error| {
        Failure::new(
            ExitStatus::Failure,
            "the node's answer is not understood",
            error,
            "use a peerctl and a peerd of one version: peerctl version",
        )
    })
}

impl Client {
    /// Somebody who asks the node at `socket`.
    pub fn new(socket: PathBuf, narrate: bool) -> Self {
        Self { socket, narrate, patience: PATIENCE }
    }

    /// Says `request` and waits for the last line of the answer.
    pub fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        self.follow(request, |_| Ok(true))
    }

    /// As [`Self::ask`], with what to do for each event before that; whether to go on listening.
    pub fn follow(
        &self,
        request: &Request,
        each: impl FnMut(serde_json::Value) -> Result<bool, Failure>,
    ) -> Result<Answer, Failure> {
        let stream = self.connect().map_err(|error| self.failed(&error))?;
        self.converse(stream, request, each)
    }

    fn converse(
        &self,
        mut stream: UnixStream,
        request: &Request,
        mut each: impl FnMut(serde_json::Value) -> Result<bool, Failure>,
    ) -> Result<Answer, Failure> {
        let told = stream.set_write_timeout(Some(self.patience)).and_then(|()| {
            stream.set_read_timeout(self.patience_with(request))?;
            stream.write_all(&encode_line(request)).or_else(unless_it_was_ended)
        });
        told.map_err(|error| self.failed(&error))?;
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line);
            let read = read.map_err(|error| self.failed(&error))?;
            // It is there: whatever comes next takes the time that it takes.
            lines.get_ref().set_read_timeout(None).map_err(|error| self.failed(&error))?;
            if read == 0 {
                return Err(self.unreachable(&"it ended the conversation without an answer"));
            }
            match decode_line(&line).map_err(|error| self.unreachable(&error))? {
                Frame::Step(step) if self.narrate => eprintln!("{step}"),
                Frame::Step(_) => {}
                Frame::Event(event) => {
                    if !each(event)? {
                        return Ok(Answer { data: serde_json::Value::Null, warnings: Vec::new() });
                    }
                }
                Frame::Done { data, warnings } => return Ok(Answer { data, warnings }),
                Frame::Failed(failure) => return Err(failure),
            }
        }
    }

    /// A socket whose queue of callers is full keeps the next one waiting, without a limit of its own.
    fn connect(&self) -> io::Result<UnixStream> {
        let (connected, wait) = mpsc::channel();
        let socket = self.socket.clone();
        thread::Builder::new().spawn(move || connected.send(UnixStream::connect(socket)))?;
        wait.recv_timeout(self.patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// How long the first line of the answer may take; what changes the node has no limit.
    fn patience_with(&self, request: &Request) -> Option<Duration> {
        match request {
            Request::Wait { timeout_s, .. } => Some(Duration::from_secs(*timeout_s).saturating_add(self.patience)),
            request => (!request.changes()).then_some(self.patience),
        }
    }

    fn failed(&self, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure {
                hint: "is it stopped, or its host overloaded? its log tells more".to_owned(),
                ..self.unreachable(&format_args!("it said nothing for {} s", self.patience.as_secs()))
            },
            _ => self.unreachable(error),
        }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(
            ExitStatus::Unreachable,
            format_args!("cannot reach the node at {}", self.socket.display()),
            error,
            "start it with `peerd`, or name its socket with --socket or PEERCTL_SOCKET",
        )
    }
}

/// A node that turns somebody away says so and ends the conversation, whatever was to come: that line waits to be read.
pub fn unless_it_was_ended(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_node_that_has_stopped_is_unreachable_for_who_looks_and_one_that_is_slow_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("peerd.sock");
        let listener = UnixListener::bind(&socket).expect("binds");
        let client = Client { patience: Duration::from_millis(50), ..Client::new(socket, false) };
        let failure = client.ask(&Request::Status).err().expect("nobody takes the call");
        assert_eq!(failure.status, ExitStatus::Unreachable);
        assert!(failure.why.contains("said nothing"), "{failure}");
        assert_eq!(client.patience_with(&Request::NetworkCreate { name: None, internal: false }), None);

        // The step is the first line; the last one may take longer than anybody's patience.
        let answering = thread::spawn(move || {
            let (_, _) = listener.accept().expect("the first caller");
            let (mut stream, _) = listener.accept().expect("a caller");
            stream.write_all(&encode_line(&Frame::Step("half".into()))).expect("told");
            thread::sleep(Duration::from_millis(150));
            let done = Frame::Done { data: serde_json::Value::Null, warnings: Vec::new() };
            stream.write_all(&encode_line(&done)).expect("told");
        });
        client.ask(&Request::Status).map(drop).expect("an answer");
        answering.join().expect("answered");
    }

    #[test]
    fn who_is_turned_away_before_it_has_asked_hears_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("peerd.sock");
        let listener = UnixListener::bind(&socket).expect("binds");
        let (ended, is_ended) = mpsc::channel();
        let turning_away = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let failure = Failure::new(ExitStatus::Conflict, "the node does not answer", "too many", "again");
            stream.write_all(&encode_line(&Frame::Failed(failure))).expect("told");
            drop(stream);
            ended.send(()).expect("somebody waits");
        });
        let client = Client::new(socket, false);
        let stream = client.connect().expect("connects");
        is_ended.recv().expect("turned away");
        let failure = client.converse(stream, &Request::Status, |_| Ok(true)).err().expect("refused");
        assert_eq!(failure.status, ExitStatus::Conflict, "{failure}");
        turning_away.join().expect("turned away");
    }
}
