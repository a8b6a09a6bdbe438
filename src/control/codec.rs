//! Lines of JSON, bounded.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Failure, Warning};

/// The longest request, in bytes: a service file fits, of which JSON makes twice as much at most (it has no control
/// characters but line ends and tabs).
pub const REQUEST_LEN_MAX: usize = 136 * 1024;

/// One line of the node's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frame {
    /// Something was reached on the way; for the person who waits.
    Step(String),
    /// Something has happened; for whoever listens.
    Event(serde_json::Value),
    /// The last line: it is done.
    Done { data: serde_json::Value, warnings: Vec<Warning> },
    /// The last line: it was not done.
    Failed(Failure),
}

/// A line that says nothing we know.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a request has at most {REQUEST_LEN_MAX} bytes")]
    TooLong,
    #[error("this line is not in the control protocol")]
    Json(#[from] serde_json::Error),
}

/// `value` as one line, with its newline.
pub fn encode_line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("control types have string keys only");
    line.push(b'\n');
    line
}

/// What one line says; the newline may be there or not.
pub fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    Ok(serde_json::from_slice(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Request;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_one_line_and_reads_back() {
        let request = Request::Invite { networks: vec!["a\nb".into()], ttl_s: 3600, uses: 1, signer: false };
        let line = encode_line(&request);
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(decode_line::<Request>(&line).expect("reads back"), request);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode_line::<Request>(&bytes);
            let _ = decode_line::<Frame>(&bytes);
        }

        #[test]
        fn a_request_with_a_byte_changed_is_read_without_a_panic(at in 0usize..40, to in any::<u8>()) {
            let mut line = encode_line(&Request::Detach { target: "0011223344556677".into(), drain_s: Some(30) });
            let len = line.len();
            line[at % len] = to;
            let _ = decode_line::<Request>(&line);
        }
    }
}
