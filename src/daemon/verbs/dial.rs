//! Dial: somebody outside of a network speaks with a container in it, through this node's gateway.

use super::{Answer, Then};
use crate::control::{ExitStatus, Failure};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;

/// Opens a stream, unless the caller leaves before. Once that is told, the conversation is the stream.
pub async fn dial(
    node: &Node,
    network: Option<&str>,
    name: &str,
    port: u16,
    progress: &Progress,
) -> Result<Answer, Failure> {
    if port == 0 {
        let why = "ports begin with 1";
        return Err(Failure::new(
            ExitStatus::Usage,
            "cannot reach port 0",
            why,
            "name the port that the container has",
        ));
    }
    let network = node.network(network)?;
    let then = match node.gateways.dial(node, &network, name, port, progress.left()).await? {
        Some(opened) => Then::Join(opened),
        None => Then::Nothing,
    };
    Ok(Answer { then, ..Answer::nothing() })
}
