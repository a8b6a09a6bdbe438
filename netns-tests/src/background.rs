//! A process that runs while the test goes on.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::output::{run, shown};
use crate::wait;

/// A process that is killed when this is dropped. What it prints goes to a file.
#[derive(Debug)]
pub struct Background {
    command: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts a command; stdout and stderr go to the end of `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let shown = shown(command);
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start: {shown}"))?;
        Ok(Self { command: shown, child, log })
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// If its file is gone.
    pub fn printed(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// # Errors
    /// If it has ended; with what it printed.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("$ {}\n[{status}]\n{}", self.command, self.printed()?),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, as `TERM`.
    ///
    /// # Errors
    /// If it has been waited for already.
    pub fn signal(&self, name: &str) -> Result<()> {
        run("kill", &["-s", name, &self.pid().to_string()]).map(drop)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it takes longer than `limit`.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of: {}", self.command);
        wait::until(&what, limit, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
