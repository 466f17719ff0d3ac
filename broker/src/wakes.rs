//! Who waits for news: held syncs by pilot job, followers by workspace.
//!
//! A waiter takes its [`Waiting`] *before* it looks, so that news between the look and the wait
//! is not missed. There is an entry only while somebody waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::{SubmitKey, WorkspaceId};
use tokio::sync::watch;

/// All who wait.
#[derive(Debug, Default)]
pub struct Wakes {
    /// Held syncs.
    pub pilots: Topics<SubmitKey>,
    /// Followers of events and consoles.
    pub workspaces: Topics<WorkspaceId>,
}

type Map<K> = Arc<Mutex<BTreeMap<K, watch::Sender<()>>>>;

/// Waiters by topic.
#[derive(Debug)]
pub struct Topics<K: Ord> {
    map: Map<K>,
}

impl<K: Ord> Default for Topics<K> {
    fn default() -> Self {
        Self {
            map: Arc::default(),
        }
    }
}

fn lock<K: Ord>(map: &Map<K>) -> MutexGuard<'_, BTreeMap<K, watch::Sender<()>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Ord + Clone> Topics<K> {
    /// Takes a place among the waiters of a topic: any wake from now on is seen.
    pub fn enter(&self, key: &K) -> Waiting<K> {
        let news = lock(&self.map).entry(key.clone()).or_default().subscribe();
        Waiting {
            key: key.clone(),
            news,
            map: Arc::clone(&self.map),
        }
    }

    /// Wakes all who wait for this topic.
    pub fn wake(&self, key: &K) {
        if let Some(topic) = lock(&self.map).get(key) {
            topic.send_replace(());
        }
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        lock(&self.map)
            .values()
            .for_each(|topic| topic.send_replace(()));
    }

    /// Topics that somebody waits for.
    pub fn len(&self) -> usize {
        lock(&self.map).len()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A place among the waiters of a topic.
#[must_use]
#[derive(Debug)]
pub struct Waiting<K: Ord> {
    key: K,
    news: watch::Receiver<()>,
    map: Map<K>,
}

impl<K: Ord> Waiting<K> {
    /// Waits for the next wake that has not been waited for.
    pub async fn woken(&mut self) {
        // The sender is in the map for as long as we are.
        let _ = self.news.changed().await;
    }

    /// Wakes those who wait for the same topic, if there are others.
    pub fn wake_others(&self) {
        let map = lock(&self.map);
        if let Some(topic) = map
            .get(&self.key)
            .filter(|topic| topic.receiver_count() > 1)
        {
            topic.send_replace(());
        }
    }
}

impl<K: Ord> Drop for Waiting<K> {
    fn drop(&mut self) {
        let mut map = lock(&self.map);
        if map
            .get(&self.key)
            .is_some_and(|topic| topic.receiver_count() <= 1)
        {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_wake_between_look_and_wait_is_not_missed_and_nothing_is_left() {
        let topics = Topics::<u32>::default();
        let (mut a, mut b) = (topics.enter(&1), topics.enter(&1));
        let mut other = topics.enter(&2);
        topics.wake(&1);
        assert!(a.woken().now_or_never().is_some());
        assert!(a.woken().now_or_never().is_none(), "one wake is seen once");
        assert!(b.woken().now_or_never().is_some(), "everybody sees it");
        assert!(
            other.woken().now_or_never().is_none(),
            "but only of its own topic"
        );
        drop(a);
        topics.wake_all();
        assert!(b.woken().now_or_never().is_some() && other.woken().now_or_never().is_some());
        drop((b, other));
        assert!(topics.is_empty(), "{topics:?}");
    }
}
