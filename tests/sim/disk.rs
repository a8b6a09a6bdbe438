//! A node's disk: files are replaced one after the other, each whole or not at all, and a crash comes between any two steps.
//!
//! The shell writes a file to a temporary name, syncs it, renames it and syncs the folder, before it touches the next one.
//! So what a crash leaves is: the files before, perhaps the one under way, and none of those after.

use std::collections::VecDeque;

use peerd::gossip::{HeadMark, PersistToken, Stored, Write};

/// How many old states are kept for rolling back.
const SNAPSHOT_COUNT_MAX: usize = 4;

#[derive(Default)]
pub struct Disk {
    /// What survives a crash.
    pub files: Stored,
    /// What the machine has asked for and was not told to be there.
    queue: VecDeque<Write>,
    token: Option<PersistToken>,
    /// Whether it refuses whatever is written.
    pub refuses: bool,
    snapshots: Vec<Stored>,
    /// What is kept beside it: the marks of what is there, and of what is being written.
    pub kept: Vec<HeadMark>,
    writing: Option<HeadMark>,
}

/// What a step of the disk did.
pub enum Step {
    Wrote(Write),
    /// All of the set is there, or, if `false`, the disk refused.
    Finished(PersistToken, bool),
    Idle,
}

impl Disk {
    /// A disk with these files.
    pub fn with(files: Stored) -> Self {
        Self { files, ..Self::default() }
    }

    pub fn start(&mut self, token: PersistToken, writes: Vec<Write>, mark: HeadMark) {
        self.kept.truncate(1);
        self.kept.push(mark);
        self.writing = Some(mark);
        assert!(self.token.is_none(), "a second set of files before the first is confirmed");
        for write in &writes {
            let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            assert!(write.name.len() <= 160 && write.name.chars().all(sound), "{}", write.name);
        }
        self.queue = writes.into();
        self.token = Some(token);
    }

    /// Writes the next file.
    pub fn step(&mut self) -> Step {
        let Some(token) = self.token else { return Step::Idle };
        if self.refuses {
            self.queue.clear();
            self.token = None;
            return Step::Finished(token, false);
        }
        match self.queue.pop_front() {
            Some(write) => {
                self.files.apply(&write);
                Step::Wrote(write)
            }
            None => {
                self.token = None;
                self.kept = self.writing.take().into_iter().collect();
                Step::Finished(token, true)
            }
        }
    }

    /// The process is killed, or, with its `host`, the power goes: then nothing is kept beside the disk. Whether the file
    /// under way got its name is for the coin to say.
    pub fn crash(&mut self, renamed: bool, host: bool) {
        if host {
            self.kept.clear();
        }
        if let Some(write) = self.queue.pop_front().filter(|_| renamed && !self.refuses) {
            self.files.apply(&write);
        }
        self.queue.clear();
        self.token = None;
    }

    /// Keeps the state as it is, for a later [`Disk::roll_back`].
    pub fn snapshot(&mut self) {
        if self.snapshots.len() < SNAPSHOT_COUNT_MAX {
            self.snapshots.push(self.files.clone());
        }
    }

    pub fn has_snapshot(&self) -> bool {
        !self.snapshots.is_empty()
    }

    /// What [`Disk::roll_back`] would restore.
    pub fn oldest(&self) -> Option<&Stored> {
        self.snapshots.first()
    }

    /// Restores the oldest state that was kept, if any was.
    pub fn roll_back(&mut self) {
        if self.has_snapshot() {
            self.files = self.snapshots.remove(0);
            self.snapshots.clear();
        }
    }
}
