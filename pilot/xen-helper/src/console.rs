//! The guest's console, from Xen's daemon to our standard error.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::thread::{self, JoinHandle};

use nix::fcntl::OFlag;

use crate::xen;

fn is_terminal(path: &str) -> bool {
    path.strip_prefix("/dev/pts/")
        .is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
}

/// Copies the console of a domain on a thread of its own, until the domain is gone.
pub fn follow(domain: u32) -> Result<JoinHandle<()>, String> {
    let tty = xen::read(domain, "console/tty")
        .filter(|tty| is_terminal(tty))
        .ok_or("the guest has no console; does xenconsoled run?")?;
    let mut tty = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(&tty)
        .map_err(|e| format!("can't open the guest's console {tty}: {e}"))?;
    let copy = move || {
        let mut buffer = [0; 4096];
        // The daemon closes its end when the domain is gone: an error then.
        while let Ok(n) = tty.read(&mut buffer) {
            // A full disk loses the console, and no guest.
            if n == 0 {
                return;
            }
            let _ = std::io::stderr().write_all(&buffer[..n]);
        }
    };
    thread::Builder::new()
        .name("console".to_owned())
        .spawn(copy)
        .map_err(|e| e.to_string())
}
