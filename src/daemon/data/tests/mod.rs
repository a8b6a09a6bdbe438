//! The data plane with real sockets, and socket pairs for devices.
