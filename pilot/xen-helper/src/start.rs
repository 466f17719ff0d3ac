//! Making a domain: booted or restored, running at the end, or nothing of it left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use xen_helper::{Order, Why};

use crate::caller::Caller;
use crate::config::{self, Files, Rules};
use crate::registry::{self, Entry};
use crate::tool::{self, Ended, LONG};
use crate::words::Words;
use crate::{console, context, loops, reclaim, xen};

/// Where a guest finds what it is told, below its node.
pub const LEASE: &str = "data/workspace-lease";
/// A state that comes slower than this many bytes a second is given up: whoever starts a guest next
/// waits for it.
const SLOWEST: u64 = 10 << 20;

/// Why there is no guest.
pub type Failure = (Why, String);

/// A guest that runs.
#[derive(Debug)]
pub struct Started {
    pub entry: Entry,
    pub domain: u32,
    pub console: JoinHandle<()>,
    /// Held as long as this helper lives.
    pub _lock: File,
}

fn refused(text: String) -> Failure {
    (Why::Refused, text)
}

fn toolstack(text: String) -> Failure {
    (Why::Toolstack, text)
}

/// Carries out an order; `input` goes on with the stream of a state.
pub fn start(
    caller: Caller,
    order: &Order,
    input: &mut BufReader<File>,
) -> Result<Started, Failure> {
    let rules = Rules::read().map_err(refused)?;
    config::check(order, &rules).map_err(refused)?;
    let open = |path: &PathBuf, write| caller.open(path, write).map_err(refused);
    let kernel = order.kernel.as_ref().map(|p| open(p, false)).transpose()?;
    let initrd = order.initrd.as_ref().map(|p| open(p, false)).transpose()?;
    let disks: Vec<File> = (order.disks.iter().map(|p| open(p, true))).collect::<Result<_, _>>()?;

    let uuid = uuid::Uuid::new_v4().to_string();
    let known = disks.iter().map(loops::known_as);
    let entry = Entry {
        name: config::domain_name(&order.workspace, &uuid),
        uid: caller.uid,
        marker: order.marker.clone(),
        disks: known.collect::<Result<_, _>>().map_err(refused)?,
        restored: order.state_bytes.is_some(),
        uuid,
    };
    let lock = entry.register().map_err(toolstack)?;
    // `xl` holds the lock too while it makes the domain: should this helper be killed, nobody takes
    // the domain for gone that is not there yet.
    let made = share(&lock, true)
        .and_then(|()| {
            make(
                order,
                &rules,
                &entry,
                kernel.as_ref(),
                initrd.as_ref(),
                &disks,
                input,
            )
        })
        .and_then(|made| share(&lock, false).map(|()| made));
    match made {
        Ok((domain, console)) => Ok(Started {
            entry,
            domain,
            console,
            _lock: lock,
        }),
        Err((why, text)) => match remove(&entry) {
            Ok(()) => Err((why, text)),
            Err(left) => Err((why, format!("{text}; and {left}"))),
        },
    }
}

fn share(lock: &File, with_children: bool) -> Result<(), Failure> {
    let flags = if with_children {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    let set = fcntl(lock, FcntlArg::F_SETFD(flags));
    set.map(drop).map_err(|e| toolstack(e.to_string()))
}

/// Takes away all that there is of a domain.
pub fn remove(entry: &Entry) -> Result<(), String> {
    xen::destroy(&entry.uuid, &entry.name)?;
    let left = reclaim::free_devices(entry);
    if left.is_empty() {
        entry.forget();
        Ok(())
    } else {
        Err(format!("{} is still in use", left.join(" ")))
    }
}

fn make(
    order: &Order,
    rules: &Rules,
    entry: &Entry,
    kernel: Option<&File>,
    initrd: Option<&File>,
    disks: &[File],
    input: &mut BufReader<File>,
) -> Result<(u32, JoinHandle<()>), Failure> {
    let (uuid, name) = (&entry.uuid, &entry.name);
    let devices = disks.iter().map(loops::attach);
    let devices: Vec<String> = devices.collect::<Result<_, _>>().map_err(toolstack)?;
    let files = Files {
        // A restored guest has its kernel in its memory, but `xl` wants one to be named.
        kernel: kernel.map_or_else(|| "/dev/null".to_owned(), tool::path_of_open),
        initrd: initrd.map(tool::path_of_open),
        disks: devices.clone(),
    };
    let text = config::render(order, name, uuid, &files, rules.bridge.as_deref());
    let config = write_config(uuid, &text).map_err(toolstack)?;
    let path = config.display().to_string();
    let admission = registry::admission().map_err(toolstack)?;
    let created = admit(order).and_then(|()| match order.state_bytes {
        None => {
            let ended = tool::run("xl", &["create", "-q", "-p", "-e", &path], LONG);
            ended
                .is_ok()
                .then_some(())
                .ok_or_else(|| toolstack(format!("`xl create` failed: {}", ended.trouble())))
        }
        Some(bytes) => restore(&path, bytes, input),
    });
    drop(admission);
    let _ = fs::remove_file(&config);
    created?;
    // From now on they go with the domain.
    devices.iter().for_each(|d| loops::detach(d));

    let domain = xen::find(uuid, name).map_err(toolstack)?;
    let domain = domain.ok_or_else(|| toolstack("the domain was made and is gone".to_owned()))?;
    context::tell(order, domain.id).map_err(toolstack)?;
    let nothing = Words::new(uuid).value();
    xen::write(domain.id, &[(LEASE, &nothing)]).map_err(toolstack)?;
    let console = console::follow(domain.id).map_err(toolstack)?;
    if tool::closed_within(io::stdout(), Duration::ZERO) {
        return Err(toolstack("nobody wants the guest any more".to_owned()));
    }
    let domain = xen::unpause(uuid, name).map_err(toolstack)?;
    Ok((domain.id, console))
}

/// Memory that no domain has, and none of dom0's.
fn admit(order: &Order) -> Result<(), Failure> {
    let info = xen::info(tool::SHORT).map_err(toolstack)?;
    // Page tables and shadow memory: what Xen takes for itself.
    let want = order.memory_mib + order.memory_mib / 100 + 4;
    if info.free_mib >= want {
        return Ok(());
    }
    let fixed = if info.dom0_fixed {
        ""
    } else {
        "; dom0's memory is not fixed by `dom0_mem=` on Xen's command line, and none is taken from it"
    };
    let (asked, free) = (order.memory_mib, info.free_mib);
    Err((
        Why::Memory,
        format!("a guest of {asked} MiB needs {want} MiB, Xen has {free} MiB free{fixed}"),
    ))
}

/// Root's alone: nobody else can say what is in it.
fn write_config(uuid: &str, text: &str) -> Result<PathBuf, String> {
    let path = registry::place()?.join(format!("{uuid}.cfg"));
    let at = |e: io::Error| format!("can't write {}: {e}", path.display());
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(at)?;
    file.write_all(text.as_bytes()).map_err(at)?;
    Ok(path)
}

/// Restores from our input; the configuration inside of the stream is not used.
fn restore(config: &str, bytes: u64, input: &mut BufReader<File>) -> Result<(), Failure> {
    let mut run = || -> io::Result<(io::Result<u64>, Ended)> {
        let err = tool::scrap()?;
        let mut child = tool::program("xl")
            .args(["restore", "-p", "-e", config, "/dev/stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(err.try_clone()?)
            .spawn()?;
        let copied = match child.stdin.take() {
            Some(pipe) => pass_on(input, bytes, &File::from(OwnedFd::from(pipe))),
            None => Ok(0),
        };
        if matches!(&copied, Err(e) if e.kind() == io::ErrorKind::TimedOut) {
            let _ = child.kill();
        }
        let status = tool::wait(&mut child, LONG);
        let (out, err) = (String::new(), tool::text_of(&err));
        Ok((copied, Ended { status, out, err }))
    };
    match run() {
        Err(e) => Err(toolstack(format!("can't run `xl restore`: {e}"))),
        Ok((Ok(copied), _)) if copied < bytes => Err((
            Why::State,
            format!("the stream ended after {copied} of {bytes} bytes"),
        )),
        Ok((Err(e), _)) if e.kind() == io::ErrorKind::TimedOut => {
            Err((Why::State, "the stream comes too slowly".to_owned()))
        }
        Ok((_, ended)) if !ended.is_ok() => Err((
            Why::State,
            format!("`xl restore` failed: {}", ended.trouble()),
        )),
        Ok((Err(e), _)) => Err((
            Why::State,
            format!("the stream could not be passed on: {e}"),
        )),
        Ok((Ok(_), _)) => Ok(()),
    }
}

/// Passes on so many bytes, or what there is; says how many. Bounded in time.
fn pass_on(input: &mut BufReader<File>, bytes: u64, mut pipe: &File) -> io::Result<u64> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let limit = LONG + Duration::from_secs(bytes / SLOWEST);
    #[expect(
        clippy::disallowed_methods,
        reason = "measures its own limit, and decides nothing by it"
    )]
    let begun = Instant::now();
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let mut done = 0;
    while done < bytes {
        let left = limit.saturating_sub(begun.elapsed());
        if input.buffer().is_empty() && !tool::readable_within(input.get_ref(), left) {
            return Err(late());
        }
        let block = input.fill_buf()?;
        if block.is_empty() {
            break;
        }
        let wanted = usize::try_from(bytes - done).unwrap_or(usize::MAX);
        match pipe.write(&block[..block.len().min(wanted)]) {
            Ok(n) => {
                input.consume(n);
                done += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if left.is_zero() || !tool::writable_within(pipe, left) {
                    return Err(late());
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_stream_is_passed_on_to_its_length_and_no_further() {
        let (from, mut to) = io::pipe().unwrap();
        let (mut end, pipe) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || to.write_all(&[7; 300_000]));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            end.read_to_end(&mut all).map(|_| all)
        });
        let mut input = BufReader::new(File::from(OwnedFd::from(from)));
        let pipe = File::from(OwnedFd::from(pipe));
        assert_eq!(pass_on(&mut input, 200_000, &pipe).unwrap(), 200_000);
        assert_eq!(pass_on(&mut input, 200_000, &pipe).unwrap(), 100_000);
        drop(pipe);
        assert_eq!(reader.join().unwrap().unwrap(), vec![7; 300_000]);
        writer.join().unwrap().unwrap();
    }
}
