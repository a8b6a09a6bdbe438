//! The operating system's randomness, for keys and seeds.

pub use rand_core::OsRng as Os;
use rand_core::RngCore;

/// A seed for a machine's own generator.
pub fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    Os.fill_bytes(&mut seed);
    seed
}
