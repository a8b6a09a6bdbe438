//! A container: a network namespace that a daemon attached, and what runs in it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::FOLDER;
use crate::output::run;
use crate::wait::{self, SOON};
use crate::{Background, Host, Output};

/// A namespace on a private network.
#[derive(Debug)]
pub struct Container {
    name: String,
    /// What `attach --json` said.
    attached: Value,
}

impl Container {
    pub(crate) fn attach(host: &Host, name: &str, network: &str, app: &str, more: &[&str]) -> Result<Self> {
        let path = namespace(name)?;
        let words = ["attach", "--netns", &path, "--network", network, "--app", app];
        let attached = host.json(&[&words, more].concat())?;
        Ok(Self { name: name.to_owned(), attached })
    }

    /// A namespace of this name that was attached by other means; its id and addresses are not known.
    pub fn found(name: &str) -> Self {
        Self { name: name.to_owned(), attached: Value::Null }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> &str {
        self.text("id")
    }

    pub fn address(&self) -> &str {
        self.text("address")
    }

    /// Its 5-part name.
    pub fn hostname(&self) -> &str {
        self.text("hostname")
    }

    fn text(&self, field: &str) -> &str {
        self.attached[field].as_str().unwrap_or_default()
    }

    /// A command in the container: its network namespace, and its resolv.conf as `ip netns exec` mounts it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let script = format!(
            "for f in /etc/netns/{0}/resolv.conf; do [ -e $f ] && mount --bind $f /etc/resolv.conf; done; exec \"$@\"",
            self.name
        );
        command.arg(format!("--net=/run/netns/{}", self.name));
        command.args(["--", "unshare", "--mount", "sh", "-c", &script, "sh"]).args(words);
        command
    }

    /// Runs a command in the container to its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        Output::of(&mut self.command(words), "")
    }

    /// Runs a Python program in the container to its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn python(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.exec(&[&["python3", "-c", program], args].concat())
    }

    /// Starts a command in the container.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, words: &[&str]) -> Result<Background> {
        let log = format!("{}-{}.log", self.name, words[0].replace('/', "-"));
        Background::start(&mut self.command(words), Path::new(FOLDER).join(log))
    }

    /// Whether an echo comes back within a second.
    ///
    /// # Errors
    /// If ping cannot be started.
    pub fn ping(&self, to: &str) -> Result<bool> {
        Ok(self.exec(&["ping", "-n", "-c", "1", "-W", "1", to])?.code == 0)
    }

    /// Waits until an echo comes back.
    ///
    /// # Errors
    /// If none does.
    pub fn reaches(&self, to: &str) -> Result<()> {
        wait::until_true(&format!("an echo from {to} to {}", self.name), SOON, || self.ping(to))
    }

    /// What dig prints with `+short`, line by line.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn dig(&self, name: &str, asked: &str) -> Result<Vec<String>> {
        let output = self.exec(&["dig", "+short", "+tries=2", "+time=2", name, asked])?.ok()?;
        Ok(output.stdout.lines().map(str::to_owned).collect())
    }

    /// The answer's code as dig shows it, and its records: `("NXDOMAIN", [])`.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn dig_status(&self, name: &str, asked: &str) -> Result<(String, Vec<String>)> {
        let output = self.exec(&["dig", "+tries=2", "+time=2", "+noall", "+comments", "+answer", name, asked])?.ok()?;
        let status = output.stdout.split_once("status: ").and_then(|(_, rest)| rest.split_once(','));
        let records = output.stdout.lines().filter(|line| !line.is_empty() && !line.starts_with(';'));
        Ok((status.with_context(|| output.to_string())?.0.to_owned(), records.map(str::to_owned).collect()))
    }

    /// Serves a page with this text on port 8080, and waits until it can be fetched.
    ///
    /// # Errors
    /// If the server does not start.
    pub fn serve(&self, text: &str) -> Result<Background> {
        let folder = Path::new(FOLDER).join(format!("www-{}", self.name));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("index.html"), text)?;
        let folder = folder.to_str().context("a path of ours is text")?;
        let mut server = self.start(&["python3", "-m", "http.server", "8080", "--directory", folder])?;
        wait::until_true("the web server", SOON, || {
            server.still_runs()?;
            Ok(self.fetch(self.address()).is_ok_and(|page| page == text))
        })?;
        Ok(server)
    }

    /// The page that a host serves on port 8080.
    ///
    /// # Errors
    /// If there is none.
    pub fn fetch(&self, host: &str) -> Result<String> {
        let url = format!("http://{host}:8080/");
        Ok(self.exec(&["curl", "-sSf", "--max-time", "5", "--noproxy", "*", &url])?.ok()?.stdout)
    }
}

/// A new, empty network namespace; its path.
pub(crate) fn namespace(name: &str) -> Result<String> {
    run("ip", &["netns", "add", name])?;
    run("ip", &["-n", name, "link", "set", "lo", "up"])?;
    let path = format!("/run/netns/{name}");
    ensure!(Path::new(&path).exists(), "{path} is where ip puts it");
    Ok(path)
}
