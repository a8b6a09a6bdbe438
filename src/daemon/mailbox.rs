//! What a thread with a poll of its own is told by everybody else: kept until it comes round to it, and it is woken for that.
//!
//! Nobody waits for the thread to tell it something, and it waits for nobody: whoever holds the lock changes one thing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Waker;
use tokio::sync::{Notify, oneshot};

/// What is told, as one value; `None` once the thread has stopped.
pub struct Mailbox<T> {
    told: Mutex<Option<T>>,
    waker: Waker,
    has_stopped: Notify,
}

impl<T: Default> Mailbox<T> {
    pub fn new(waker: Waker) -> Self {
        Self { told: Mutex::new(Some(T::default())), waker, has_stopped: Notify::new() }
    }

    /// Everything that was told since the last time.
    pub fn take(&self) -> T {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nothing more will be taken: whoever waits hears it, since the answer that was to come is dropped.
    pub fn stop(&self) {
        let told = self.lock().take();
        // Without the lock: a call that is dropped may have something to say itself.
        drop(told);
        self.has_stopped.notify_waiters();
    }

    /// Waits until the thread has stopped.
    pub async fn stopped(&self) {
        let stopped = self.has_stopped.notified();
        tokio::pin!(stopped);
        // It may stop between the look and the wait.
        stopped.as_mut().enable();
        if self.lock().is_some() {
            stopped.await;
        }
    }

    /// Changes what the thread is to hear, and wakes it; nothing happens once it has stopped.
    pub fn tell(&self, change: impl FnOnce(&mut T)) {
        {
            let mut told = self.lock();
            let Some(told) = told.as_mut() else { return };
            change(told);
        }
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "a thread cannot be woken");
        }
    }

    /// Tells the thread something that it answers; `None` once it has stopped.
    pub async fn ask<R>(&self, ask: impl FnOnce(&mut T, oneshot::Sender<R>)) -> Option<R> {
        let (answer, wait) = oneshot::channel();
        self.tell(|told| ask(told, answer));
        wait.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        // Nobody panics while holding it, and each field stands for itself.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread has stopped, however it did, and in the log what it means if it panicked.
pub struct StopOnDrop<T: Default> {
    pub mailbox: Arc<Mailbox<T>>,
    pub failure: &'static str,
}

impl<T: Default> Drop for StopOnDrop<T> {
    fn drop(&mut self) {
        self.mailbox.stop();
        if std::thread::panicking() {
            tracing::error!("{}", self.failure);
        }
    }
}
