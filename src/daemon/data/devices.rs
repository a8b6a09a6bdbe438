//! The TUNs that the data thread serves, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::DeviceOffloads;
use crate::model::AttachmentId;
use crate::sys::tun_io::TunDevice;

/// Tokens below stand for something else than a device.
pub(super) const FIRST_TOKEN: usize = 3;

/// A device with its attachment.
pub(super) struct Served {
    pub(super) id: AttachmentId,
    pub(super) device: TunDevice,
    /// Whether it stands in the line of those that may have packets.
    queued: bool,
}

/// All devices. Readiness is edge-triggered: a device that may have packets stays in line until it says that it has none.
#[derive(Default)]
pub(super) struct Devices {
    slots: Vec<Option<Served>>,
    by_id: HashMap<AttachmentId, usize>,
    line: VecDeque<usize>,
}

impl Devices {
    pub(super) fn insert(&mut self, registry: &Registry, id: AttachmentId, device: TunDevice) -> io::Result<()> {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        registry.register(&mut SourceFd(&device.as_raw_fd()), Token(FIRST_TOKEN + slot), Interest::READABLE)?;
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(Served { id, device, queued: false });
        self.by_id.insert(id, slot);
        // What came before it was registered makes no edge.
        self.ready(slot);
        Ok(())
    }

    /// Takes a device out.
    pub(super) fn remove(&mut self, registry: &Registry, id: AttachmentId) -> Option<OwnedFd> {
        let slot = self.by_id.remove(&id)?;
        let served = self.slots[slot].take()?;
        if let Err(error) = registry.deregister(&mut SourceFd(&served.device.as_raw_fd())) {
            tracing::debug!(attachment = %id, %error, "a device was not being polled");
        }
        Some(served.device.into_fd())
    }

    pub(super) fn by_id(&self, id: AttachmentId) -> Option<&TunDevice> {
        self.by_id.get(&id).and_then(|slot| self.slots[*slot].as_ref()).map(|served| &served.device)
    }

    /// The device that stands here.
    pub(super) fn by_place(&self, place: usize) -> Option<&TunDevice> {
        self.slots.get(place)?.as_ref().map(|served| &served.device)
    }

    /// How many there are of each kind.
    pub(super) fn offloads(&self) -> DeviceOffloads {
        let mut count = DeviceOffloads::default();
        for Served { device, .. } in self.slots.iter().flatten() {
            match (device.offload(), device.uso()) {
                (true, true) => count.all += 1,
                (true, false) => count.tcp_only += 1,
                (false, _) => count.none += 1,
            }
        }
        count
    }

    /// The device of a token may have packets.
    pub(super) fn ready_token(&mut self, token: Token) {
        self.ready(token.0 - FIRST_TOKEN);
    }

    fn ready(&mut self, slot: usize) {
        if let Some(Some(served)) = self.slots.get_mut(slot)
            && !std::mem::replace(&mut served.queued, true)
        {
            self.line.push_back(slot);
        }
    }

    /// How many have a turn in this round.
    pub(super) fn ready_count(&self) -> usize {
        self.line.len()
    }

    /// Whose turn it is. It leaves the line; [`Self::again`] puts it back.
    pub(super) fn next(&mut self) -> Option<(usize, &Served)> {
        while let Some(slot) = self.line.pop_front() {
            // A slot may be empty, or of another device, since it was put in line.
            if let Some(served) = &mut self.slots[slot] {
                served.queued = false;
                return self.slots[slot].as_ref().map(|served| (slot, served));
            }
        }
        None
    }

    /// Its turn is over, and it may have more.
    pub(super) fn again(&mut self, slot: usize) {
        self.ready(slot);
    }
}
