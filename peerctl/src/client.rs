//! The conversation with the node.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use peerd::control::{ExitStatus, Failure, Frame, Request, Warning, decode_line, encode_line};
use serde::de::DeserializeOwned;

/// The longest line of an answer, in bytes: a full cluster's container list fits.
const LINE_LEN_MAX: u64 = 64 << 20;

/// Asks one node, one request a connection.
pub struct Client {
    pub socket: PathBuf,
    /// Whether steps are told on stderr.
    pub narrate: bool,
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
    /// Says `request` and waits for the last line of the answer.
    pub fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        self.follow(request, |_| Ok(true))
    }

    /// As [`Self::ask`], with what to do for each event before that; whether to go on listening.
    pub fn follow(
        &self,
        request: &Request,
        mut each: impl FnMut(serde_json::Value) -> Result<bool, Failure>,
    ) -> Result<Answer, Failure> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| self.unreachable(&error))?;
        stream.write_all(&encode_line(request)).map_err(|error| self.unreachable(&error))?;
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line);
            let read = read.map_err(|error| self.unreachable(&error))?;
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

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(
            ExitStatus::Unreachable,
            format_args!("cannot reach the node at {}", self.socket.display()),
            error,
            "start it with `peerd`, or name its socket with --socket or PEERCTL_SOCKET",
        )
    }
}
