//! What a stranger on the wire sees.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::Background;
use crate::wait::{self, SOON};

/// Writes every frame of an interface to a file: INTERFACE FILE. tcpdump gives up its rights before it listens, which
/// cannot be done in a user namespace of one user.
const PROGRAM: &str = r#"
import signal, socket, struct, sys
SOL_PACKET, ADD_MEMBERSHIP, PROMISCUOUS, STATISTICS = 263, 1, 1, 6
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
try:
    wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE, for root alone
except PermissionError:
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
wire.bind((sys.argv[1], 3))
every_frame = struct.pack("iHH8s", socket.if_nametoindex(sys.argv[1]), PROMISCUOUS, 0, b"")
wire.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, every_frame)
done = False
def stop(*_):
    global done
    done = True
signal.signal(signal.SIGINT, stop)
with open(sys.argv[2], "wb") as out:
    print("listening", flush=True)
    while True:
        wire.settimeout(0 if done else 0.1)
        try:
            out.write(wire.recv(1 << 17))
        except (TimeoutError, BlockingIOError):
            if done:
                break
_, lost = struct.unpack("II", wire.getsockopt(SOL_PACKET, STATISTICS, 8))
print("lost", lost, flush=True)
"#;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    listener: Background,
    file: PathBuf,
}

impl Capture {
    /// Starts one with `python`, which is Python somewhere.
    pub(crate) fn start(mut python: Command, interface: &str, file: PathBuf) -> Result<Self> {
        python.args(["-c", PROGRAM, interface]).arg(&file);
        let log = file.with_extension("log");
        // An earlier one of this interface has said that it listens.
        let _ = std::fs::remove_file(&log);
        let mut listener = Background::start(&mut python, log)?;
        wait::until_true("a capture", SOON, || {
            listener.still_runs()?;
            Ok(listener.printed()?.contains("listening"))
        })?;
        Ok(Self { listener, file })
    }

    /// Ends it; all that crossed the wire.
    ///
    /// # Errors
    /// If it does not end, or missed frames.
    pub fn stop(mut self) -> Result<Vec<u8>> {
        self.listener.still_runs()?;
        self.listener.signal("INT")?;
        self.listener.ended(SOON)?;
        let printed = self.listener.printed()?;
        ensure!(printed.contains("lost 0\n"), "{printed}");
        Ok(std::fs::read(&self.file)?)
    }
}

/// Whether `needle` stands in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
