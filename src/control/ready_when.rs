//! What makes a container ready, as a person writes it: `tcp:PORT`, `http:PORT/PATH` or `exec CMD`.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest path or command, in bytes.
const TEXT_LEN_MAX: usize = 4096;

/// What must succeed once before names lead to a container. It travels, and is remembered, as its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReadyWhen {
    /// Something in the container takes a connection on this port.
    Tcp(NonZeroU16),
    /// A GET for this path, which begins with `/`, is answered with a status of 200 to 399.
    Http(NonZeroU16, String),
    /// This line of the shell ends with exit code 0.
    Exec(String),
}

/// Why a text says nothing that could be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadyWhenError {
    #[error("it is none of tcp:PORT, http:PORT/PATH and exec CMD")]
    Kind,
    #[error("a port is a number from 1 to 65535")]
    Port,
    #[error("a path begins with '/' and has printable ASCII characters only, no spaces, at most {TEXT_LEN_MAX}")]
    Path,
    #[error("a command has 1 to {TEXT_LEN_MAX} bytes, none of them zero")]
    Command,
}

impl FromStr for ReadyWhen {
    type Err = ReadyWhenError;

    fn from_str(text: &str) -> Result<Self, ReadyWhenError> {
        let port = |text: &str| {
            let is_decimal = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| is_decimal).ok_or(ReadyWhenError::Port)
        };
        if let Some(rest) = text.strip_prefix("tcp:") {
            return Ok(Self::Tcp(port(rest)?));
        }
        if let Some(rest) = text.strip_prefix("http:") {
            let (number, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let path = if path.is_empty() { "/" } else { path };
            if path.len() > TEXT_LEN_MAX || !path.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(ReadyWhenError::Path);
            }
            return Ok(Self::Http(port(number)?, path.to_owned()));
        }
        match text.strip_prefix("exec") {
            Some(rest) if rest.is_empty() || rest.starts_with(' ') => {
                let command = rest.trim();
                let fits = (1..=TEXT_LEN_MAX).contains(&command.len()) && !command.contains('\0');
                if fits { Ok(Self::Exec(command.to_owned())) } else { Err(ReadyWhenError::Command) }
            }
            _ => Err(ReadyWhenError::Kind),
        }
    }
}

impl fmt::Display for ReadyWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Http(port, path) => write!(f, "http:{port}{path}"),
            Self::Exec(command) => write!(f, "exec {command}"),
        }
    }
}

impl TryFrom<String> for ReadyWhen {
    type Error = ReadyWhenError;

    fn try_from(text: String) -> Result<Self, ReadyWhenError> {
        text.parse()
    }
}

impl From<ReadyWhen> for String {
    fn from(when: ReadyWhen) -> Self {
        when.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).expect("a port")
    }

    #[test]
    fn each_kind_is_read_as_it_is_written_and_a_path_may_be_left_out() {
        let said = [
            ("tcp:5432", ReadyWhen::Tcp(port(5432))),
            ("http:8080", ReadyWhen::Http(port(8080), "/".into())),
            ("http:8080/health?deep=1", ReadyWhen::Http(port(8080), "/health?deep=1".into())),
            ("exec pg_isready -q", ReadyWhen::Exec("pg_isready -q".into())),
            ("exec  test -e '/x y' ", ReadyWhen::Exec("test -e '/x y'".into())),
        ];
        for (text, due) in said {
            assert_eq!(text.parse(), Ok(due), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused_with_its_reason() {
        use ReadyWhenError as Error;
        let long = format!("http:1/{}", "x".repeat(TEXT_LEN_MAX));
        for (text, due) in [
            ("", Error::Kind),
            ("udp:53", Error::Kind),
            ("TCP:80", Error::Kind),
            ("executable", Error::Kind),
            ("tcp:", Error::Port),
            ("tcp:0", Error::Port),
            ("tcp:+80", Error::Port),
            ("tcp:65536", Error::Port),
            ("tcp:80/x", Error::Port),
            ("http:/x", Error::Port),
            ("http:80/a b", Error::Path),
            ("http:80/a\r\nHost:", Error::Path),
            (&long, Error::Path),
            ("exec", Error::Command),
            ("exec  ", Error::Command),
            ("exec a\0b", Error::Command),
        ] {
            assert_eq!(text.parse::<ReadyWhen>(), Err(due), "{text:?}");
        }
        assert!(serde_json::from_str::<ReadyWhen>("\"tcp:0\"").is_err(), "from the socket and the disk neither");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_as_the_same(text in "(tcp:|http:|exec )?.{0,40}") {
            if let Ok(when) = text.parse::<ReadyWhen>() {
                prop_assert_eq!(when.to_string().parse(), Ok(when));
            }
        }
    }
}
