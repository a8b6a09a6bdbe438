//! See `peerd_fuzz`: what is called with the bytes, and what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    peerd_fuzz::dialled(bytes);
});
