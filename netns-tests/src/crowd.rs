//! Many containers at once.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::Host;
use crate::lab::FOLDER;

impl Host {
    /// Makes a namespace for each name and attaches it, a few at a time.
    ///
    /// # Errors
    /// If any is refused.
    pub fn crowd(&self, names: &[String], network: &str, more: &[&str]) -> Result<()> {
        let (list, batch) = (self.file("crowd"), self.file("batch"));
        fs::write(&list, names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
        fs::write(&batch, names.iter().map(|name| format!("netns add {name}\n")).collect::<String>())?;
        let made = Command::new("ip").args(["-batch", &batch]).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let words = ["attach", "--netns", "/run/netns/{}", "--network", network, "--app", "shop"];
        let attach = self.peerctl_command(&[&words, more].concat())?;
        // The command line of one attach, with the name left open.
        let mut all = Command::new("xargs");
        all.args(["-a", &list, "-P", "4", "-I", "{}"]).arg(attach.get_program()).args(attach.get_args());
        let attached = all.stdin(Stdio::null()).output()?;
        ensure!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
        Ok(())
    }

    /// The address of every container that this host's node knows.
    ///
    /// # Errors
    /// If the command fails.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let rows = self.json(&["container", "ls"])?;
        let rows = rows.as_array().context("rows")?;
        Ok(rows.iter().filter_map(|row| row["address"].as_str().map(str::to_owned)).collect())
    }

    fn file(&self, name: &str) -> String {
        Path::new(FOLDER).join(format!("{}-{name}", self.name())).to_string_lossy().into_owned()
    }
}
