//! The machine beneath: everything that needs the operating system, and all that is `unsafe`.
//!
//! Files here turn the kernel's interfaces (namespaces, TUN devices, netlink, sockets, files, processes) into values of
//! their own with typed errors. They decide nothing about networks or members: the daemon asks, they act.
//!
//! What must happen in a single-threaded process (entering a user namespace) is done by [`helper`]: the same program,
//! executed again with a hidden argument. Whatever only needs another network namespace runs on a thread of its own.

pub mod alarm;
pub mod beside;
pub mod clock;
pub mod cred;
pub mod device_pair;
pub mod helper;
pub mod host_udp;
pub mod interfaces;
pub mod lab;
pub mod netlink;
pub mod netns;
pub mod os_error;
pub mod probe;
pub mod process;
pub mod random;
pub mod resolv;
pub mod sandbox;
pub mod socket;
pub mod store;
pub mod tun;
pub mod tun_io;
pub mod udp;
pub mod userns;

pub use os_error::OsError;
