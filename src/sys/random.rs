//! The system's randomness: for keys, and for the seeds of machines that draw their own.

pub use rand_core::OsRng as Os;
use rand_core::RngCore;

/// A seed to be used once.
///
/// # Panics
/// When the system has no randomness to give: nothing that peerd does is safe then.
pub fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    Os.fill_bytes(&mut seed);
    seed
}
