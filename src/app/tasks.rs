//! The task set: every driver of every room, by name. The one place that spawns.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// Named tasks. Dropping the set aborts them.
#[derive(Debug, Default)]
pub struct TaskSet {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// A task that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub name: &'static str,
    pub has_panicked: bool,
}

impl TaskSet {
    pub fn spawn(&mut self, name: &'static str, driver: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(driver);
        self.names.insert(handle.id(), name);
    }

    /// Waits for the next task to end; `None` when none is left. Cancel safe.
    pub async fn next_ended(&mut self) -> Option<Ended> {
        let ended = self.tasks.join_next_with_id().await?;
        let (id, has_panicked) = match &ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        Some(Ended {
            name: self.names.remove(&id).unwrap_or("unnamed"),
            has_panicked,
        })
    }

    /// Waits until the tasks called `names` have all ended.
    pub async fn until_ended(&mut self, names: &[&str]) {
        while self.names.values().any(|name| names.contains(name)) {
            if self.next_ended().await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_driver_is_named() {
        let mut tasks = TaskSet::default();
        tasks.spawn("steady", std::future::pending());
        tasks.spawn("brittle", async { panic!("on purpose") });
        let ended = tasks.next_ended().await;
        assert_eq!(
            ended,
            Some(Ended {
                name: "brittle",
                has_panicked: true
            })
        );
    }

    #[tokio::test]
    async fn waiting_for_some_leaves_the_others() {
        let mut tasks = TaskSet::default();
        tasks.spawn("listener", async {});
        tasks.spawn("recorder", std::future::pending());
        tasks.until_ended(&["listener"]).await;
        assert_eq!(tasks.names.len(), 1);
    }
}
