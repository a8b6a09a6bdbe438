//! The room that hosts stand in: one switch, and everything plugged into it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::output::run;
use crate::{Capture, Host};

/// Where the hosts' state, sockets and logs are.
pub(crate) const FOLDER: &str = "/run/lab";
const SWITCH: &str = "switch";

/// A switch, and the hosts that are plugged into it, 192.0.2.1 and up (TEST-NET-1, RFC 5737).
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<String>,
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        run("ip", &["link", "add", SWITCH, "type", "bridge", "mcast_snooping", "0"])?;
        run("ip", &["link", "set", SWITCH, "up"])?;
        Ok(Self { hosts: Vec::new() })
    }

    /// Plugs a new host in. Nothing runs on it yet.
    ///
    /// # Errors
    /// If one of that name stands there.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        ensure!(!self.hosts.iter().any(|host| host == name), "there is a host {name}");
        self.hosts.push(name.to_owned());
        let address = format!("192.0.2.{}", self.hosts.len());
        let (netns, port) = (format!("host-{name}"), format!("port-{name}"));
        run("ip", &["netns", "add", &netns])?;
        run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &netns])?;
        run("ip", &["link", "set", &port, "master", SWITCH, "up"])?;
        run("ip", &["-n", &netns, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        run("ip", &["-n", &netns, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &netns, "link", "set", "lo", "up"])?;
        Host::new(name, netns, address)
    }

    /// Hosts with running daemons, all nodes of one cluster that the first one made.
    ///
    /// # Errors
    /// If one of them does not join.
    pub fn cluster<const N: usize>(&mut self, names: [&str; N]) -> Result<[Host; N]> {
        self.cluster_of(names, |_| Ok(()))
    }

    /// As [`Lab::cluster`], of hosts whose daemons an ordinary user runs.
    ///
    /// # Errors
    /// If one of them does not join.
    pub fn ordinary_users_cluster<const N: usize>(&mut self, names: [&str; N]) -> Result<[Host; N]> {
        self.cluster_of(names, Host::as_ordinary_user)
    }

    fn cluster_of<const N: usize>(
        &mut self,
        names: [&str; N],
        prepare: impl Fn(&mut Host) -> Result<()>,
    ) -> Result<[Host; N]> {
        let mut hosts = Vec::new();
        for name in names {
            let mut host = self.host(name)?;
            prepare(&mut host)?;
            host.peerd()?;
            match hosts.first() {
                None => drop(host.peerctl(&["init", "--name", name])?.ok()?),
                Some(first) => host.join(first, &[])?,
            }
            hosts.push(host);
        }
        Ok(hosts.try_into().unwrap_or_else(|_| unreachable!("as many hosts as names")))
    }

    /// Everything that crosses the switch from now on.
    ///
    /// # Errors
    /// If it does not start.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(Command::new("python3"), SWITCH, Path::new(FOLDER).join("switch.frames"))
    }

    /// What the daemons said last, for whoever reads why a test failed.
    pub(crate) fn print_logs(&self) {
        for host in &self.hosts {
            let text = std::fs::read_to_string(log_of(host)).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            println!("-- the end of {host}'s log");
            for line in &lines[lines.len().saturating_sub(40)..] {
                println!("{line}");
            }
        }
    }
}

pub(crate) fn log_of(host: &str) -> PathBuf {
    Path::new(FOLDER).join(host).join("log")
}
