//! What a stranger on the wire sees.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::Background;
use crate::wait::{self, SOON};

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

impl Capture {
    /// Starts `command`, which is tcpdump somewhere.
    pub(crate) fn start(mut command: Command, interface: &str, file: PathBuf) -> Result<Self> {
        command.args(["-i", interface, "-s", "0", "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(&file);
        let mut tcpdump = Background::start(&mut command, file.with_extension("log"))?;
        wait::until_true("tcpdump", SOON, || {
            tcpdump.still_runs()?;
            Ok(tcpdump.printed()?.contains("listening on"))
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends it; all that crossed the wire.
    ///
    /// # Errors
    /// If it does not end, or missed packets.
    pub fn stop(mut self) -> Result<Vec<u8>> {
        self.tcpdump.still_runs()?;
        self.tcpdump.signal("INT")?;
        self.tcpdump.ended(SOON)?;
        let printed = self.tcpdump.printed()?;
        ensure!(printed.contains("0 packets dropped by kernel"), "{printed}");
        Ok(std::fs::read(&self.file)?)
    }
}

/// Whether `needle` stands in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
