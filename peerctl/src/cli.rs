//! The command line, as a value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::verbs::reach::Forward;

/// Drives a peerd node: private networks for containers, in userspace.
#[derive(Debug, Parser)]
#[command(
    name = "peerctl",
    version,
    about,
    long_about = None,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Try it all on this machine, without root: peerctl demo\n\
        Exit codes: 0 ok, 1 failure, 2 usage, 3 daemon unreachable, 4 not found,\n\
        5 conflict or full, 6 permission, 7 degraded (--check), 8 timeout, 9 invalid file"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Control socket of the node [default: /run/peerd/peerd.sock, or the user's own]
    #[arg(long, global = true, env = "PEERCTL_SOCKET", hide_env_values = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON with a stable schema
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on stderr
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a cluster; this node is its first signer
    Init {
        /// The node's name [default: the daemon's]
        #[arg(long, value_name = "NODE")]
        name: Option<String>,
    },
    /// Print a token with which another node may join
    Invite(Invite),
    /// Join a cluster with a token from standard input or a file
    Join {
        /// `-` for standard input, or `@FILE`; a token never stands on a command line
        #[arg(value_name = "-|@FILE")]
        token: String,
    },
    /// Leave the cluster for ever and stop the node; it forgets its key, and may join again as another
    Leave {
        /// First drain all containers for so long: out of the names at once, then detached [default: no drain]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        drain: Option<Duration>,
        /// Remove the containers' interfaces too [default: the next start of the node does]
        #[arg(long)]
        release: bool,
    },
    /// Private networks
    #[command(subcommand, arg_required_else_help = true)]
    Network(Network),
    /// The nodes of the cluster
    #[command(subcommand, arg_required_else_help = true)]
    Node(Node),
    /// Put a container on a network; prints its address
    Attach(Attach),
    /// Take a container off its network
    Detach {
        /// The container's id, or the path of its namespace
        #[arg(value_name = "ID|TARGET")]
        target: String,
        /// Take it out of the names at once, and detach it after so long: 30s outlasts every answer of DNS that leads to it.
        /// Interrupted, the node ends the drain by itself [default: no drain]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        drain: Option<Duration>,
    },
    /// Run a command in a new namespace on a network
    Run(Run),
    /// Run a command in the namespaces of a container that `run` started on this node
    Exec(Exec),
    /// The containers of all nodes
    #[command(subcommand, arg_required_else_help = true)]
    Container(Container),
    /// Same as `container ls`
    Ps(ContainerLs),
    /// Define an application's services as its file says, in the place of what defined them before
    Apply(Apply),
    /// Check a service file; needs no node
    Validate(Validate),
    /// Services and databases
    #[command(subcommand, arg_required_else_help = true)]
    Service(Service),
    /// Declare a version of an application live: its ready containers answer to names from now on
    Deploy {
        /// The application
        app: String,
        /// The version; the last one deployed is the latest
        version: String,
        /// The network, by name or id; may be left out when the node holds one
        #[arg(long, value_name = "N")]
        network: Option<String>,
    },
    /// List the private domain names of an application
    #[command(alias = "private-networks-domain-names")]
    DomainNames {
        /// Only this application's
        #[arg(long, value_name = "APP")]
        app: Option<String>,
        /// The network, by name or id; may be left out when the node holds one
        #[arg(long, value_name = "N")]
        network: Option<String>,
    },
    /// Private names as a container sees them
    #[command(subcommand)]
    Dns(Dns),
    /// The node, its peers and networks, and what needs attention
    Status {
        /// Exit 7 if something is wrong
        #[arg(long)]
        check: bool,
    },
    /// The way in from outside: nginx in front of the services of a network
    #[command(subcommand)]
    Ingress(Ingress),
    /// Have ports of this machine lead to containers' ports, until interrupted; prints where it listens
    Forward {
        /// LOCAL:NAME:PORT. LOCAL is a port of 127.0.0.1 (0: any that is free) or ADDRESS:PORT; NAME is a full name,
        /// SERVICE.NAMESPACE or an address of the network
        #[arg(value_name = "LOCAL:NAME:PORT", required = true)]
        forwards: Vec<Forward>,
        /// Its name or id [default: the only one]
        #[arg(long, value_name = "N")]
        network: Option<String>,
    },
    /// Be a proxy into a network, until interrupted; prints where it listens. Names are the network's: socks5h:// in curl
    Proxy {
        /// Where SOCKS5 clients connect, as 127.0.0.1:1080
        #[arg(long, value_name = "ADDR:PORT")]
        socks5: SocketAddr,
        /// Its name or id [default: the only one]
        #[arg(long, value_name = "N")]
        network: Option<String>,
    },
    /// Packets that were dropped, by reason
    Drops,
    /// Wait until something is so, as this node sees it
    Wait(Wait),
    /// Tell what changes, a line each, until interrupted
    Events {
        /// End after so many; the first says that from here on nothing is missed
        #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// The whole system on this machine, without root: three nodes, two networks, six containers
    Demo(Demo),
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
    /// Be a container of the demo
    #[command(hide = true)]
    DemoPart { page: String },
    /// Be the daemon
    #[command(hide = true)]
    Daemon(peerd::daemon::config::Args),
}

#[derive(Debug, Args)]
pub struct Invite {
    /// Grant the node this network; may be given several times
    #[arg(long = "network", value_name = "N")]
    pub networks: Vec<String>,
    /// How long the token is good
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub ttl: Duration,
    /// How many nodes may use it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub uses: u32,
    /// The node becomes a signer (needs the root key on this node)
    #[arg(long)]
    pub signer: bool,
    /// Show the token as a QR code too, on standard error
    #[arg(long)]
    pub qr: bool,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// `converged`: every node of the cluster is connected and holds the same records; `network N`: this node may host
    /// containers of it; `container ID`: it is known here and ready; `service S`: a container that is ready serves it
    #[arg(long = "for", required = true, num_args = 1..=2, value_names = ["WHAT", "NAME"])]
    pub awaited: Vec<String>,
    /// The network of `service S`; may be left out when the node holds one
    #[arg(long)]
    pub network: Option<String>,
    /// The application of `service S`, if several have one of that name
    #[arg(long)]
    pub app: Option<String>,
    /// How long to wait before giving up with exit code 8
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Ingress {
    /// Whether nginx serves here, what is left out and why, and the gateways
    Status,
    /// The ports of this node, and where they lead
    Routes,
    /// Have nginx serve the services' HTTP and HTTPS ports on this node, now and after each start
    Enable {
        /// Balancers stand in front, at these addresses or prefixes, and say with the PROXY protocol who the client is; nobody else is served then. `none` if none do any more [default: as it was settled before]
        #[arg(long, value_name = "FROM", value_delimiter = ',')]
        proxy_protocol: Option<Vec<String>>,
    },
    /// Have nginx serve no more
    Disable,
    /// Certificates for HTTPS on this node
    #[command(subcommand)]
    Cert(Cert),
}

#[derive(Debug, Subcommand)]
pub enum Cert {
    /// The certificates, by their names
    Ls,
    /// Take a certificate from files; one that is for no other names is replaced
    Add {
        /// The chain as PEM, the server's own certificate first
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its private key as PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Make a certificate for development, signed by this node's own authority, for 397 days
    Dev {
        /// As app.example.com or *.example.com
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Remove the certificate that is for this name
    Rm {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Print the certificate of this node's development authority, for those who are to trust it
    Ca,
}

#[derive(Debug, Subcommand)]
pub enum Network {
    /// Make a network; prints its id
    Create {
        /// What people call it, a DNS label [default: none, only the id]
        name: Option<String>,
        /// Forward no names to the outside
        #[arg(long)]
        internal: bool,
    },
    /// The networks that this node is granted
    Ls,
    /// One network whole
    Inspect {
        /// The network, by name or id; may be left out when the node holds one
        #[arg(value_name = "N")]
        network: Option<String>,
    },
    /// Let a node host containers of a network
    Grant {
        /// The network, by name or id
        #[arg(value_name = "N")]
        network: String,
        /// The node, by name or id
        node: String,
        /// It may grant and define as well
        #[arg(long)]
        owner: bool,
    },
    /// Take a network from a node: its containers leave it, and the network's secret is replaced
    Ungrant {
        /// The network, by name or id
        #[arg(value_name = "N")]
        network: String,
        /// The node, by name or id
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// The nodes of the cluster
    Ls,
    /// Expel a node from the cluster for ever: its key is refused from now on, wherever it is used
    Expel {
        /// The node, by name or id
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Container {
    /// The containers of all nodes in the networks that this node holds
    Ls(ContainerLs),
    /// One container whole
    Inspect {
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Dns {
    /// Ask a question as a container would
    Query {
        name: String,
        /// The type of record
        #[arg(value_name = "TYPE", default_value = "A")]
        kind: String,
        #[command(flatten)]
        caller: Caller,
    },
    /// Say why a name means what it means to a container
    Explain {
        name: String,
        #[command(flatten)]
        caller: Caller,
    },
}

#[derive(Debug, Args)]
pub struct Caller {
    /// The container that asks
    #[arg(long = "as", value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// Begin the injected variables' names with this, as SCALINGO_
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub env_prefix: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Validate {
    /// The service file, or `-` for standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// The application, for a file that does not say it
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
}

#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub file: Validate,
    /// The network, by name or id; may be left out when the node holds one
    #[arg(long, value_name = "N")]
    pub network: Option<String>,
    /// Only tell what would change
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum Service {
    /// The services of the networks that this node holds, from service files and from containers
    Ls {
        /// Only this network's
        #[arg(long, value_name = "N")]
        network: Option<String>,
        /// Only this application's
        #[arg(long, value_name = "APP")]
        app: Option<String>,
    },
    /// One service whole: its names, ports and containers
    Inspect {
        /// The service: NAME, NAME.NAMESPACE, or TYPE-SERVER of a database
        #[arg(value_name = "S")]
        service: String,
        /// The application, where several have a service of this name
        #[arg(long, value_name = "APP")]
        app: Option<String>,
        /// The network, by name or id; may be left out when the node holds one
        #[arg(long, value_name = "N")]
        network: Option<String>,
    },
    /// Take back all that a service file said of an application; its containers stay, with the services that they declare
    Rm {
        /// The application
        #[arg(long, value_name = "APP")]
        app: String,
        /// The network, by name or id; may be left out when the node holds one
        #[arg(long, value_name = "N")]
        network: Option<String>,
        /// Only tell what would change
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub struct ContainerLs {
    /// Only this network's
    #[arg(long, value_name = "N")]
    pub network: Option<String>,
}

/// What a container is called, for `attach` and `run`.
#[derive(Debug, Args)]
pub struct Place {
    /// The network, by name or id; may be left out when the node holds one
    #[arg(long, value_name = "N")]
    pub network: Option<String>,
    /// The application it belongs to
    #[arg(long)]
    pub app: String,
    /// Its type within the application [default: web; of a database its own]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Its number within the type, from 1 [default: the lowest free]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub number: Option<u32>,
    /// The application's version that it runs
    #[arg(long, value_name = "V")]
    pub version: Option<String>,
    /// The service that it serves [default: its type]
    #[arg(long, value_name = "S")]
    pub service: Option<String>,
    /// The database that it is, and which of its servers: mysql, mysql/leopard [default server: default]
    #[arg(long, value_name = "TYPE[/SERVER]", conflicts_with = "service")]
    pub database: Option<String>,
    /// Let no name lead to it until this succeeds: tcp:PORT, http:PORT/PATH (a status of 200 to 399), or exec CMD, a line
    /// for its /bin/sh [default: it is ready at once]
    #[arg(long, value_name = "WHAT", num_args = 1..)]
    pub ready_when: Vec<String>,
    /// Its interface
    #[arg(long, default_value = "peerd0", value_name = "NAME")]
    pub ifname: String,
}

#[derive(Debug, Args)]
pub struct Attach {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// A network namespace, as /run/netns/NAME
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// A process whose network namespace it is
    #[arg(long)]
    pub pid: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub place: Place,
    /// Begin the injected variables' names with this, as SCALINGO_
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub env_prefix: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    pub nodes: u8,
    /// Leave it running until interrupted, and say how to drive it
    #[arg(long)]
    pub keep: bool,
    /// Play it here, in an enclosure that is there already
    #[arg(long, hide = true, value_name = "FOLDER")]
    pub inside: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_stands_after_two_hyphens_is_the_command_whole() {
        let cli = Cli::try_parse_from(["peerctl", "run", "--app", "a", "--", "sh", "-c", "--json"]).expect("parses");
        let Verb::Run(run) = cli.verb else { panic!("run is run") };
        assert_eq!((run.command, cli.global.json), (vec!["sh".into(), "-c".into(), "--json".into()], false));
    }

    #[test]
    fn a_target_is_one_and_only_one() {
        assert!(Cli::try_parse_from(["peerctl", "attach", "--app", "a"]).is_err());
        assert!(Cli::try_parse_from(["peerctl", "attach", "--app", "a", "--pid", "1", "--netns", "/x"]).is_err());
        assert!(Cli::try_parse_from(["peerctl", "attach", "--app", "a", "--pid", "1"]).is_ok());
    }

    #[test]
    fn a_condition_ends_at_the_next_option_and_a_database_is_no_service() {
        let words = ["peerctl", "run", "--app", "a", "--ready-when", "exec", "pg_isready", "--type", "db", "--", "x"];
        let Verb::Run(run) = Cli::try_parse_from(words).expect("parses").verb else { panic!("run is run") };
        assert_eq!(run.place.ready_when, ["exec", "pg_isready"]);
        assert_eq!((run.place.kind.as_deref(), run.command), (Some("db"), vec!["x".to_owned()]));
        let both = ["peerctl", "attach", "--app", "a", "--pid", "1", "--database", "mysql", "--service", "db"];
        assert!(Cli::try_parse_from(both).is_err());
    }

    /// Every help text, verb by verb, as a person sees it on a terminal of 100 columns.
    #[test]
    fn the_help_of_every_verb_is_as_it_was_agreed() {
        fn collect(command: &mut clap::Command, path: &str, out: &mut String) {
            let help = command.render_long_help();
            out.push_str(&format!("$ {path} --help\n{help}\n"));
            let names: Vec<String> = command
                .get_subcommands()
                .filter(|verb| !verb.is_hide_set())
                .map(|verb| verb.get_name().to_owned())
                .collect();
            for name in names {
                let verb = command.find_subcommand_mut(&name).expect("it was just listed");
                collect(verb, &format!("{path} {name}"), out);
            }
        }
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut out = String::new();
        collect(&mut command, "peerctl", &mut out);
        insta::assert_snapshot!(out);
    }

    #[test]
    fn every_shell_gets_a_completion_script_with_every_verb() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "peerctl", &mut script);
            let script = String::from_utf8(script).expect("text");
            for verb in ["init", "invite", "join", "network", "attach", "detach", "run", "domain-names", "status"] {
                assert!(script.contains(verb), "{shell}: {verb}");
            }
        }
    }
}
