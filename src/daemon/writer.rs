//! The thread that writes state to disk: in the order in which it was asked to, each set before it is confirmed.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::mpsc;

use super::engine::Event;
use crate::gossip::{HeadMark, PersistToken, Write};
use crate::sys::beside::Beside;
use crate::sys::store::{StateDir, StoreError};

/// Sets of files that may wait; the machine has few under way, since operations wait for theirs.
const QUEUE_LEN_MAX: usize = 1024;

struct Job {
    token: PersistToken,
    writes: Vec<Write>,
    mark: HeadMark,
    confirm: mpsc::Sender<Event>,
}

/// The marks of the disk, kept beside the control socket: a killed daemon finds there which state was its last.
pub struct HeadFile {
    file: Beside,
    /// Of what is surely on disk, and of what may be.
    marks: Vec<HeadMark>,
}

impl HeadFile {
    /// What an earlier run kept since the host was started.
    pub fn of_socket(socket: &Path) -> Self {
        let file = Beside::of_socket(socket, "head");
        let marks = file.read().iter().filter_map(|line| line.parse().ok()).collect();
        Self { file, marks }
    }

    pub fn marks(&self) -> Vec<HeadMark> {
        self.marks.clone()
    }

    /// What this mark names is about to be written.
    fn expect(&mut self, mark: HeadMark) {
        self.marks.truncate(1);
        self.marks.push(mark);
        self.write();
    }

    /// It is on disk.
    fn settle(&mut self, mark: HeadMark) {
        self.marks = vec![mark];
        self.write();
    }

    fn write(&self) {
        if let Err(error) = self.file.write(self.marks.iter().map(ToString::to_string)) {
            tracing::debug!(%error, "the head is not kept: the next start asks the others");
        }
    }
}

/// Hands sets of files to the writing thread.
pub struct Writer(SyncSender<Job>);

impl Writer {
    /// Starts the thread. It ends when the writer is dropped and what waits is written.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(state: Arc<StateDir>, mut head: HeadFile) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE_LEN_MAX);
        std::thread::Builder::new().name("peerd-store".into()).spawn(move || {
            let mut failing = false;
            for job in queue {
                head.expect(job.mark);
                let result = carry_out(&state, &job.writes);
                let written = result.is_ok();
                if written {
                    head.settle(job.mark);
                }
                // The machine tries again every second: once is enough to be told.
                match result {
                    Err((name, error)) if !failing => tracing::error!(file = name, %error, "state is not written"),
                    Ok(()) if failing => tracing::info!("state is written again"),
                    _ => {}
                }
                failing = !written;
                if job.confirm.blocking_send(Event::Persisted(job.token, written)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self(jobs))
    }

    /// Has the files written, then confirms the set with [`Event::Persisted`]; `false` if it will not be written at all.
    pub fn write(&self, token: PersistToken, writes: Vec<Write>, mark: HeadMark, confirm: mpsc::Sender<Event>) -> bool {
        let sent = self.0.try_send(Job { token, writes, mark, confirm });
        if let Err(error) = &sent {
            tracing::error!(%error, "the disk does not keep up: state is not written");
        }
        sent.is_ok()
    }
}

fn carry_out<'a>(state: &StateDir, writes: &'a [Write]) -> Result<(), (&'a str, StoreError)> {
    for write in writes {
        let result = match &write.content {
            Some(content) => state.write(&write.name, content),
            None => state.remove(&write.name),
        };
        result.map_err(|error| (write.name.as_str(), error))?;
    }
    Ok(())
}
