//! The tasks that are the node: none of them ends while it runs.
//!
//! A node of which one part has ended would go on as half a node: it might forward by a membership that is never renewed, and
//! no supervisor would start it again. So the first end is the end of all.

use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

#[derive(Default)]
pub struct Tasks {
    running: JoinSet<()>,
    named: Vec<(&'static str, AbortHandle)>,
}

impl Tasks {
    /// Starts a task. `name` is what has failed should it end.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.running.spawn(task);
        self.named.push((name, handle));
    }

    /// Waits until one ends, by itself or in a panic, and says which.
    pub async fn failed(&mut self) -> &'static str {
        let id = match self.running.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
        };
        let named = self.named.iter().find(|(_, handle)| handle.id() == id);
        named.map(|(name, _)| *name).expect("each task has a name")
    }

    /// Ends all but `last`, which is about to end by itself; whether it does in time.
    pub async fn stop(mut self, last: &'static str, timeout: Duration) -> bool {
        for (_, handle) in self.named.iter().filter(|(name, _)| *name != last) {
            handle.abort();
        }
        tokio::time::timeout(timeout, async { while self.running.join_next().await.is_some() {} }).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_that_ends_or_panics_is_named_and_the_others_run_on() {
        let mut tasks = Tasks::default();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("the one", std::future::pending());
        tasks.spawn("the other", async { drop(ended.await) });
        let early = tokio::time::timeout(Duration::from_millis(20), tasks.failed()).await;
        assert!(early.is_err(), "{early:?} has not ended");
        drop(end);
        assert_eq!(tasks.failed().await, "the other");
        tasks.spawn("a third", async { panic!("as it should") });
        assert_eq!(tasks.failed().await, "a third");
    }

    #[tokio::test]
    async fn all_end_but_the_last_which_is_waited_for_and_no_longer_than_that() {
        let mut tasks = Tasks::default();
        let (last_words, heard) = tokio::sync::oneshot::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("endless", std::future::pending());
        tasks.spawn("last", async {
            let _ = stopped.await;
            let _ = last_words.send("goodbye");
        });
        drop(stop);
        assert!(tasks.stop("last", Duration::from_secs(30)).await);
        assert_eq!(heard.await, Ok("goodbye"));

        let mut tasks = Tasks::default();
        tasks.spawn("last", std::future::pending());
        assert!(!tasks.stop("last", Duration::from_millis(1)).await);
    }
}
