//! The border to boringtun: no other file names it.
//!
//! boringtun 0.7.1 panics on a message or packet that is longer than the buffer for its result, before it has authenticated
//! anything, so every call here checks lengths first; and should it panic all the same, the panic ends here, and costs
//! one tunnel. It looks at no inner address, and reads clocks of its own: time moves for it in [`Noise::tick`] alone.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::PublicKey;

use crate::model::{Psk, WgPublicKey, WgSecret};

/// What a data message adds to its packet: type, receiver, counter, tag.
pub(super) const DATA_OVERHEAD: usize = 32;
/// No buffer for a result is shorter: an initiation is the longest message of the handshake.
pub(super) const RESULT_LEN_MIN: usize = 148;

const COOKIE_LEN: usize = 64;
/// Handshakes that a container's key answers without asking for a cookie, in each second.
const HANDSHAKES_PER_SECOND: u64 = 1_000;

/// A WireGuard message by its type and length, before any key has been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Initiation,
    Response { receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32, counter: u64 },
}

impl Message {
    /// Reads a message's type and receiver; `None` if its length is not right for its type.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        Some(match (word(0)?, bytes.len()) {
            (1, 148) => Self::Initiation,
            (2, 92) => Self::Response { receiver: word(8)? },
            (3, COOKIE_LEN) => Self::Cookie { receiver: word(4)? },
            (4, DATA_OVERHEAD..) => {
                Self::Data { receiver: word(4)?, counter: u64::from(word(8)?) | u64::from(word(12)?) << 32 }
            }
            _ => return None,
        })
    }
}

/// What a tunnel wants done; lengths count from the beginning of the buffer that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The message was good, and there is nothing to do: a keepalive, or a cookie kept.
    Nothing,
    /// A message for the peer.
    Send(usize),
    /// A packet from the peer.
    Packet(usize),
    /// The message was not good; nothing has changed.
    Refused,
    /// Nothing was heard for so long that the tunnel forgot its sessions.
    Expired,
}

#[cfg(test)]
thread_local! {
    /// Whether the tunnels that a test's thread makes panic at the first call.
    pub(super) static NEW_PANICS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The tunnel panicked. It is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

/// One side of a tunnel.
pub(super) struct Noise {
    tunn: Box<Tunn>,
    /// A test wants a panic after so many calls.
    #[cfg(test)]
    pub(super) panics_after: Option<u32>,
}

impl Noise {
    /// A tunnel between `local` and `remote`, whose messages carry `index`, 24 bits, in their receiver field.
    pub(super) fn new(local: &LocalKey, remote: WgPublicKey, psk: &Psk, index: u32) -> Self {
        let secret = local.secret.reveal().clone();
        let limiter = Some(Arc::clone(&local.unlimited));
        let tunn = Tunn::new(secret, remote.into(), Some(*psk.reveal()), None, index, limiter);
        Self {
            tunn: Box::new(tunn),
            #[cfg(test)]
            panics_after: NEW_PANICS.get().then_some(0),
        }
    }

    /// Encrypts `packet` into `out`. Only with a session; without one it is [`Step::Refused`].
    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Result<Step, Panicked> {
        if out.len() < (packet.len() + DATA_OVERHEAD).max(RESULT_LEN_MIN) {
            return Ok(Step::Refused);
        }
        self.guarded(|tunn| match tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(message) if message[0] == 4 => Step::Send(message.len()),
            _ => Step::Refused,
        })
    }

    /// Takes a message from `source`; a packet, or an answer, comes to stand in `out`.
    pub(super) fn open(&mut self, source: IpAddr, message: &[u8], out: &mut [u8]) -> Result<Step, Panicked> {
        // An empty message would mean something else to boringtun: whether packets of its own wait.
        if message.is_empty() || out.len() < message.len().max(RESULT_LEN_MIN) {
            return Ok(Step::Refused);
        }
        self.guarded(|tunn| Step::from(tunn.decapsulate(Some(source), message, out)))
    }

    /// Begins a handshake, or begins it anew.
    pub(super) fn initiate(&mut self, out: &mut [u8]) -> Result<Step, Panicked> {
        self.guarded(|tunn| Step::from(tunn.format_handshake_initiation(out, true)))
    }

    /// Lets time pass: to be called about once a second.
    pub(super) fn tick(&mut self, out: &mut [u8]) -> Result<Step, Panicked> {
        self.guarded(|tunn| Step::from(tunn.update_timers(out)))
    }

    /// Whether it can encrypt.
    pub(super) fn has_session(&self) -> bool {
        self.tunn.stats().0.is_some()
    }

    fn guarded(&mut self, call: impl FnOnce(&mut Tunn) -> Step) -> Result<Step, Panicked> {
        #[cfg(test)]
        let panics = {
            let left = self.panics_after;
            self.panics_after = left.and_then(|left| left.checked_sub(1));
            left == Some(0)
        };
        let tunn = &mut self.tunn;
        // What a panic leaves behind is seen by nobody: the caller closes the tunnel.
        catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            assert!(!panics, "a test asked for this panic");
            call(tunn)
        }))
        .map_err(|_| Panicked)
    }
}

impl From<TunnResult<'_>> for Step {
    fn from(result: TunnResult<'_>) -> Self {
        match result {
            TunnResult::Done => Self::Nothing,
            TunnResult::WriteToNetwork(message) => Self::Send(message.len()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Self::Packet(packet.len())
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => Self::Expired,
            TunnResult::Err(_) => Self::Refused,
        }
    }
}

/// An attachment's key pair, and what answers to initiations with it.
pub(super) struct LocalKey {
    secret: WgSecret,
    public: WgPublicKey,
    /// Guards the expensive part of a handshake: beyond its limit a sender must show a cookie.
    limiter: RateLimiter,
    /// For the tunnels: what reaches them has passed the limiter above.
    unlimited: Arc<RateLimiter>,
    limiter_reset: Instant,
}

/// Why an initiation was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InitiationError {
    Mac,
    /// There are too many; the sender may try again with the cookie in this message.
    UnderLoad([u8; COOKIE_LEN]),
}

impl LocalKey {
    pub(super) fn new(secret: WgSecret, now: Instant) -> Self {
        let public = secret.public();
        let key = PublicKey::from(public);
        Self {
            limiter: RateLimiter::new(&key, HANDSHAKES_PER_SECOND),
            unlimited: Arc::new(RateLimiter::new(&key, u64::MAX)),
            limiter_reset: now,
            secret,
            public,
        }
    }

    pub(super) fn public(&self) -> WgPublicKey {
        self.public
    }

    /// Checks that an initiation was made for this key, and under load that its sender is where it says it is.
    pub(super) fn check(&mut self, now: Instant, source: IpAddr, message: &[u8]) -> Result<(), InitiationError> {
        if now.saturating_duration_since(self.limiter_reset) >= Duration::from_secs(1) {
            self.limiter_reset = now;
            self.limiter.reset_count();
        }
        let mut cookie = [0; COOKIE_LEN];
        match self.limiter.verify_packet(Some(source), message, &mut cookie) {
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(_)) => Err(InitiationError::UnderLoad(cookie)),
            Err(_) => Err(InitiationError::Mac),
        }
    }

    /// Who sent an initiation, as it says itself: a tunnel with that key proves it.
    pub(super) fn initiator(&self, message: &[u8]) -> Option<WgPublicKey> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else { return None };
        let half = parse_handshake_anon(self.secret.reveal(), &self.public.into(), &initiation).ok()?;
        WgPublicKey::try_from(half.peer_static_public).ok()
    }
}
