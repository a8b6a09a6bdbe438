//! A machine with a daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{FOLDER, log_of};
use crate::wait::{self, SOON};
use crate::{Background, Capture, Container, Output, is_soak};

/// A host: a network namespace on the switch, and the folder of its daemon.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: String,
    address: String,
    folder: PathBuf,
    daemon: Option<Background>,
    /// Keeps the user namespace of an ordinary user there.
    user: Option<Background>,
}

/// The ordinary user's id on a host where [`Host::as_ordinary_user`] was said.
const ORDINARY_UID: &str = "1000";

impl Host {
    pub(crate) fn new(name: &str, netns: String, address: String) -> Result<Self> {
        let folder = Path::new(FOLDER).join(name);
        fs::create_dir(&folder)?;
        Ok(Self { name: name.to_owned(), netns, address, folder, daemon: None, user: None })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("peerd.toml")
    }

    /// What stands in the settings file of the daemon from its next start on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, settings: &str) -> Result<()> {
        Ok(fs::write(self.settings(), settings)?)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("peerd.sock")
    }

    /// What its daemons have logged.
    ///
    /// # Errors
    /// If none ever ran.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(log_of(&self.name))?)
    }

    /// From now on all that runs on this host runs as an ordinary user: in a user namespace that has no rights over the
    /// host's network namespace, and with no capability in its own.
    ///
    /// # Errors
    /// If there is no such namespace.
    pub fn as_ordinary_user(&mut self) -> Result<()> {
        self.enter_user_namespace("")
    }

    /// As [`Host::as_ordinary_user`], on a machine that lets its users make no user namespaces.
    ///
    /// # Errors
    /// If there is no such namespace.
    pub fn as_ordinary_user_without_namespaces(&mut self) -> Result<()> {
        self.enter_user_namespace("echo 0 > /proc/sys/user/max_user_namespaces;")
    }

    fn enter_user_namespace(&mut self, first: &str) -> Result<()> {
        let script = format!("set -e; {first} echo in; exec sleep infinity");
        let map = [format!("--map-user={ORDINARY_UID}"), format!("--map-group={ORDINARY_UID}")];
        let mut keeper = self.command("unshare");
        keeper.args(["--user", "--keep-caps"]).args(map).args(["sh", "-c", &script]);
        let mut keeper = Background::start(&mut keeper, self.folder.join("user"))?;
        wait::until_true("the user namespace", SOON, || {
            keeper.still_runs()?;
            Ok(keeper.printed()?.contains("in\n"))
        })?;
        self.user = Some(keeper);
        let status = self.exec(&["cat", "/proc/self/status"])?.ok()?.stdout;
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let is_ordinary = value("Uid:").split_whitespace().all(|uid| uid == ORDINARY_UID);
        ensure!(is_ordinary && value("CapEff:") == "0000000000000000", "no ordinary user:\n{status}");
        Ok(())
    }

    /// A command in the host's network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns));
        if let Some(user) = &self.user {
            // In two steps: the user namespace has no right to enter the network namespace.
            command.args(["--", "nsenter", "--preserve-credentials", "--user", "--target", &user.pid().to_string()]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a command in the host's network namespace to its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        Output::of(self.command(words[0]).args(&words[1..]), "")
    }

    /// Everything that crosses one of the host's interfaces from now on.
    ///
    /// # Errors
    /// If it does not start.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        Capture::start(self.command("python3"), interface, self.folder.join(format!("{interface}.frames")))
    }

    /// The command line of a daemon with this host's state and that socket.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn daemon_command(&self, socket: &Path) -> Result<Command> {
        let mut command = self.command(peerctl_binary()?);
        command.arg("daemon").args(["--name", &self.name]);
        // A published figure is that of a daemon as it is shipped: each handshake is a dozen lines of the debug log.
        if !is_soak() {
            command.args(["--log", "debug"]);
        }
        command.arg("--state-dir").arg(self.state_dir()).arg("--socket").arg(socket);
        if self.settings().exists() {
            command.arg("--config").arg(self.settings());
        }
        Ok(command)
    }

    /// Starts the daemon, and waits until it serves.
    ///
    /// # Errors
    /// If it ends, or does not serve.
    pub fn peerd(&mut self) -> Result<()> {
        let mut daemon = Background::start(&mut self.daemon_command(&self.socket())?, log_of(&self.name))?;
        let what = format!("{}'s socket", self.name);
        let mut ended = None;
        wait::until_true(&what, SOON, || {
            ended = daemon.still_runs().err();
            Ok(ended.is_some() || self.socket().exists() && self.peerctl(&["status"])?.code == 0)
        })?;
        if let Some(error) = ended {
            return Err(error);
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Its daemon.
    ///
    /// # Errors
    /// If none runs.
    pub fn daemon(&mut self) -> Result<&mut Background> {
        let daemon = self.daemon.as_mut().context("no daemon was started")?;
        daemon.still_runs()?;
        Ok(daemon)
    }

    /// Waits until the daemon has ended by itself.
    ///
    /// # Errors
    /// If it does not, or ends badly.
    pub fn ended(&mut self) -> Result<()> {
        let status = self.daemon.as_mut().context("no daemon was started")?.ended(SOON)?;
        self.daemon = None;
        if status.success() { Ok(()) } else { bail!("{}'s daemon: {status}", self.name) }
    }

    /// Stops the daemon as an operator does.
    ///
    /// # Errors
    /// If it does not end, or ends badly.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon()?.signal("TERM")?;
        self.ended()
    }

    /// Kills the daemon, as a crash does.
    ///
    /// # Errors
    /// If none runs.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon()?;
        self.daemon = None;
        Ok(())
    }

    /// peerctl, talking to this host's daemon.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn peerctl_command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.command(peerctl_binary()?);
        command.arg("--socket").arg(self.socket()).args(words);
        Ok(command)
    }

    /// Runs peerctl against this host's daemon.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn peerctl(&self, words: &[&str]) -> Result<Output> {
        self.peerctl_with_input(words, "")
    }

    /// Runs peerctl with something on its standard input.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn peerctl_with_input(&self, words: &[&str], input: &str) -> Result<Output> {
        Output::of(&mut self.peerctl_command(words)?, input)
    }

    /// The data of peerctl's `--json` answer.
    ///
    /// # Errors
    /// If the command fails.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        self.peerctl(&[words, &["--json"]].concat())?.data()
    }

    /// peerctl's `--json` answer whole, with its warnings.
    ///
    /// # Errors
    /// If the command fails.
    pub fn json_whole(&self, words: &[&str]) -> Result<Value> {
        let output = self.peerctl(&[words, &["--json"]].concat())?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| output.to_string())
    }

    /// Starts a command in a container of its own by `peerctl run`; `name` names its output.
    ///
    /// # Errors
    /// If peerctl cannot be started.
    pub fn run(&self, name: &str, words: &[&str]) -> Result<Background> {
        let mut command = self.peerctl_command(&[&["run"], words].concat())?;
        Background::start(&mut command, self.folder.join(name))
    }

    /// Whether the node's status has a row of health with this code.
    ///
    /// # Errors
    /// If the command fails.
    pub fn is_told(&self, code: &str) -> Result<bool> {
        let status = self.json(&["status"])?;
        Ok(status["health"].as_array().into_iter().flatten().any(|row| row["code"] == code))
    }

    /// Joins the cluster of `host` with an invite of its.
    ///
    /// # Errors
    /// If either command fails.
    pub fn join(&self, host: &Self, invite: &[&str]) -> Result<()> {
        let token = host.peerctl(&[&["invite"], invite].concat())?.ok()?.stdout;
        self.peerctl_with_input(&["join", "-"], &token)?.ok().map(drop)
    }

    /// Makes a network and grants it to the others; its id when all of them know it.
    ///
    /// # Errors
    /// If a command fails, or the grant does not arrive.
    pub fn network(&self, name: &str, others: &[&Self]) -> Result<String> {
        let made = self.json(&["network", "create", name])?;
        let id = made["id"].as_str().context("a network has an id")?.to_owned();
        for other in others {
            let what = format!("the grant of {name} to {}", other.name);
            // The first host may not have heard the other's name yet.
            wait::until_true(&what, SOON, || {
                self.peerctl(&["network", "grant", name, &other.name])?.ok()?;
                Ok(true)
            })?;
            wait::until_true(&what, SOON, || Ok(other.peerctl(&["network", "inspect", name])?.code == 0))?;
        }
        Ok(id)
    }

    /// Makes a namespace of this name on this host and attaches it to a network.
    ///
    /// # Errors
    /// If the command fails.
    pub fn container(&self, name: &str, network: &str, app: &str, more: &[&str]) -> Result<Container> {
        Container::attach(self, name, network, app, more)
    }

    /// Waits until this host's node knows a container.
    ///
    /// # Errors
    /// If it does not.
    pub fn knows(&self, container: &Container) -> Result<()> {
        let what = format!("{} on {}", container.name(), self.name);
        wait::until_true(&what, SOON, || {
            let rows = self.json(&["container", "ls"])?;
            Ok(rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["id"] == container.id())))
        })
    }
}

/// The program under test: `PEERCTL_BIN`, or what was built beside this test.
pub(crate) fn peerctl_binary() -> Result<PathBuf> {
    let binary = match env::var_os("PEERCTL_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = env::current_exe()?;
            let profile = test.ancestors().nth(2).context("a test stands in target/PROFILE/deps")?;
            profile.join("peerctl")
        }
    };
    if binary.exists() {
        return Ok(binary);
    }
    bail!("there is no {}\n  the tests drive the real program\n  try: cargo build -p peerctl", binary.display())
}
