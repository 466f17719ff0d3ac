//! Work that blocks (disks, hashes) on threads of its own.
//!
//! Not the runtime's pool: that one is waited for when the runtime ends, and a thread that hangs
//! in a sync to a dead file server must never keep the pilot in its slot.

use std::io;
use std::thread;

use tokio::sync::oneshot;

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
    let (send, receive) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody waits any more: the result is dropped, and undoes itself where it must.
            drop(send.send(work()));
        })?;
    receive
        .await
        .map_err(|_| io::Error::other(format!("the thread `{name}` died")))
}
