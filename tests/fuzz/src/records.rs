//! What the nodes of a cluster say to each other, and what a node says to itself over a restart.

use peerd::gossip::Write;
use peerd::gossip::store::FileKind;
use peerd::membership::{CheckSignatures, SignedRef, Verified};
use peerd::model::ClusterId;

use super::cluster::{Cluster, machine};

/// Takes every signature for right, so that the reading of what is signed is reached.
struct Trusting;

impl CheckSignatures for Trusting {
    fn holds(&self, _: &'static [u8], _: ClusterId, _: SignedRef<'_>) -> bool {
        true
    }

    fn cluster(&self) -> ClusterId {
        ClusterId([0; 32])
    }
}

/// A signed record. What reads is written as the very bytes that were read.
pub fn record(bytes: &[u8]) -> bool {
    let mut decoder = minicbor::Decoder::new(bytes);
    let Ok(record) = decoder.decode_with::<_, Verified>(&mut Trusting) else { return false };
    let mut again = Vec::new();
    minicbor::encode_with(&record, &mut again, &mut Trusting).expect("a Vec takes every byte");
    let mut twice = minicbor::Decoder::new(&again);
    assert_eq!(twice.decode_with::<_, Verified>(&mut Trusting).ok(), Some(record), "a record changes on its way");
    true
}

/// A message of a member: pushed, asked, and answered to whatever the victim asks. Nothing of a network that the member is
/// not granted goes to it.
pub fn message(bytes: &[u8]) -> bool {
    let cluster = Cluster::shared();
    if cluster.victim().machine.verifier().verify(bytes).is_err() {
        return false;
    }
    let mut victim = cluster.victim();
    victim.push(bytes);
    victim.ask(bytes);
    victim.answer_all(bytes);
    victim.pass(std::time::Duration::from_secs(3));
    for heard in victim.heard() {
        super::member::assert_nothing_of(&heard, &cluster.closed);
    }
    true
}

/// A file of the state folder: the first byte is its place there, the second whether the rest is its whole content, or what is
/// in its frame. The node starts, or says which file is wrong.
pub fn state(bytes: &[u8]) -> bool {
    let Some(([place, framed], content)) = bytes.split_first_chunk::<2>() else { return false };
    let cluster = Cluster::shared();
    let name = &cluster.files[usize::from(*place) % cluster.files.len()];
    let mut stored = cluster.stored.clone();
    if framed & 1 == 0 {
        stored.insert(name.clone(), content.to_vec());
    } else {
        stored.apply(&Write::new(name.clone(), kind(name), content));
    }
    match machine(0, &stored, Vec::new()) {
        Ok(mut machine) => {
            while machine.poll_output().is_some() {}
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

fn kind(name: &str) -> FileKind {
    match name {
        "node.key" => FileKind::NodeKey,
        "root.key" => FileKind::RootKey,
        "boot" => FileKind::Boot,
        "cluster" => FileKind::Cluster,
        "invites" => FileKind::Invites,
        "resting" => FileKind::Resting,
        _ if name.starts_with("own-") => FileKind::OwnLog,
        _ if name.starts_with("log-") => FileKind::ForeignLog,
        _ => FileKind::Secrets,
    }
}
