//! What passes an interface, counted and searched.
#![allow(unsafe_code)] // a packet socket's address, which no safe wrapper has

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use memchr::memmem::Finder;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};

use crate::sys::netlink::Netlink;
use crate::sys::netns::Netns;

/// A superpacket and its link header.
const FRAME_LEN_MAX: usize = 65_536 + 64;
/// Frames that are kept, and how much of each.
const SAMPLE_COUNT_MAX: usize = 8;
const SAMPLE_LEN_MAX: usize = 256;
/// What may queue while this process does something else.
const RECEIVE_BUFFER_LEN: usize = 8 * 1024 * 1024;
/// More frames than the receive buffer holds, each taking up 768 bytes of it at least.
const FRAMES_A_TURN_MAX: usize = 2 * RECEIVE_BUFFER_LEN / 768;
/// A capture on which nothing passes for so long has been forgotten.
const IDLE_TIMEOUT: Timespec = Timespec { tv_sec: 600, tv_nsec: 0 };

/// Listens on one interface from [`Capture::open`] to [`Capture::finish`].
#[derive(Debug)]
pub struct Capture {
    captured: Arc<Mutex<Captured>>,
    stop: OwnedFd,
    listener: Option<JoinHandle<io::Result<()>>>,
}

/// What a capture has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    pub frames: u64,
    pub bytes: u64,
    /// For each canary in the order given: the number of frames that hold it.
    pub canary_frames: Vec<u64>,
    /// The beginnings of the first few frames of more than 200 bytes.
    pub samples: Vec<Vec<u8>>,
    /// Frames that the kernel could not keep for us: with any, "not seen" proves nothing.
    pub missed: u64,
}

impl Capture {
    /// Begins to listen to what passes `ifname` in `netns`, both ways, looking for each of `canaries` in every frame.
    pub fn open(netns: &Netns, ifname: &str, canaries: Vec<Vec<u8>>) -> io::Result<Self> {
        let socket = netns.inside(|| packet_socket(ifname))??;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let captured = Arc::new(Mutex::new(Captured { canary_frames: vec![0; canaries.len()], ..Captured::default() }));
        let (seen, stopped) = (captured.clone(), stop.try_clone()?);
        let listen = move || listen(&socket, stopped.as_fd(), &canaries, &seen);
        let listener = thread::Builder::new().name("capture".into()).spawn(listen)?;
        Ok(Self { captured, stop, listener: Some(listener) })
    }

    /// What has been seen so far.
    pub fn so_far(&self) -> Captured {
        lock(&self.captured).clone()
    }

    /// Ends the capture: everything that had passed before this call is in the result.
    pub fn finish(mut self) -> io::Result<Captured> {
        self.stop()?;
        Ok(self.so_far())
    }

    fn stop(&mut self) -> io::Result<()> {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes())?;
        match self.listener.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the capture's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // Nobody is left to hear of it.
            let _ = self.stop();
        }
    }
}

/// Counts until told to stop, and then what is still queued.
fn listen(socket: &Socket, stop: BorrowedFd<'_>, canaries: &[Vec<u8>], captured: &Mutex<Captured>) -> io::Result<()> {
    let finders: Vec<_> = canaries.iter().map(Finder::new).collect();
    let mut frame = vec![0; FRAME_LEN_MAX];
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&IDLE_TIMEOUT)))?;
        let stopping = ready == 0 || fds[1].revents().contains(PollFlags::IN);
        // At most what was queued when it was told to stop, however fast more comes.
        for _ in 0..FRAMES_A_TURN_MAX {
            let Ok((len, _)) = rustix::net::recv(socket, &mut frame[..], RecvFlags::DONTWAIT) else { break };
            lock(captured).count(&frame[..len.min(FRAME_LEN_MAX)], &finders);
        }
        if stopping {
            lock(captured).missed = missed(socket)?;
            return Ok(());
        }
    }
}

impl Captured {
    fn count(&mut self, frame: &[u8], finders: &[Finder<'_>]) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        for (count, finder) in self.canary_frames.iter_mut().zip(finders) {
            *count += u64::from(finder.find(frame).is_some());
        }
        if frame.len() > 200 && self.samples.len() < SAMPLE_COUNT_MAX {
            self.samples.push(frame[..frame.len().min(SAMPLE_LEN_MAX)].to_vec());
        }
    }
}

/// A packet socket (packet(7)) on `ifname` of the calling thread's namespace.
fn packet_socket(ifname: &str) -> io::Result<Socket> {
    let link = Netlink::open()?.link(ifname)?.ok_or(io::ErrorKind::NotFound)?;
    // Without a protocol it hears nothing before it is bound, so nothing of another interface gets in.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    // More than the usual limit takes root on the host; what is missed for want of it is counted.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: link.index as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole `sockaddr_ll` of the length given, and outlives the call.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// How many frames found the socket's buffer full.
fn missed(socket: &Socket) -> io::Result<u64> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `stats`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(stats.tp_drops.into()) }
}

/// A count is right after every step, so what a panicked thread left is good too.
fn lock(captured: &Mutex<Captured>) -> std::sync::MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}
