//! Work that blocks (disks, hashes) on threads of its own.
//!
//! Not the runtime's pool: that one is waited for when the runtime ends, and a thread that hangs
//! in a sync to a dead file server must never keep the pilot in its slot.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Says whether anybody still waits for the result of the work that asks.
pub(super) type Wanted<'a> = &'a (dyn Fn() -> bool + Sync);

/// Runs `work` on a new thread and waits for its result. The caller may stop waiting; the work
/// then goes on to its own end.
///
/// # Errors
/// There is no thread to be had, or it panicked.
pub(super) async fn offload<T, F>(name: &str, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    begin(name, move |_| work()).await
}

/// As [`offload`], but the thread begins at once, and the work can ask whether the future that waits
/// for it is still there.
pub(super) fn begin<T, F>(name: &str, work: F) -> impl Future<Output = io::Result<T>> + use<T, F>
where
    T: Send + 'static,
    F: FnOnce(Wanted<'_>) -> T + Send + 'static,
{
    let (send, receive) = oneshot::channel();
    let begun = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let made = work(&|| !send.is_closed());
        // Nobody waits any more: the result is dropped, and undoes itself where it must.
        drop(send.send(made));
    });
    let died = format!("the thread `{name}` died");
    async move {
        begun?;
        receive.await.map_err(|_| io::Error::other(died))
    }
}
