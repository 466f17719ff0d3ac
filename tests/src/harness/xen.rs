//! A site whose node is a real Xen host's dom0 (`scripts/lab/xen`): the LRM's daemon, the pilots and
//! their guests are there, the broker is here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, geteuid, getuid, seteuid};
use tempfile::TempDir;

use super::binaries::Binaries;
use super::setup::{Guests, Node, Setup};
use super::wait::{PATIENCE, until};

/// Number of dom0's user `pilot`, where this process is root.
const USER: u32 = 4001;
/// Directories of dom0's own disk: its user's.
const SCRATCH: &str = "/var/tmp/scratch";
const LRM: &str = "/var/tmp/lrm";
const STORE: &str = "/var/tmp/store";
/// Where the programs and the test guest are there.
const PROGRAMS: &str = "/usr/local/lib/workspace-pilot";
const GUEST: &str = "/usr/local/lib/guest";

/// All that a slot could have changed on the node, one thing a line.
const LOOK: &str = r#"
# Few are looked at closely: under emulation each process that this starts takes 30 ms.
{
  grep -lasF -e "$1" /proc/[0-9]*/cmdline /proc/[0-9]*/environ
  ls -l /proc/[0-9]*/cwd | sed -n "s|^.* \(/proc/[0-9]*/cwd\) -> $1|\1/|p"
} 2>/dev/null | cut -d / -f 3 | sort -u | while read -r process; do
  command=$(tr '\0' ' ' <"/proc/$process/cmdline") || continue
  case "$command $(tr '\0' ' ' <"/proc/$process/environ")" in
    *lab-look*) ;; # this look itself
    *) echo "process $process: $command" ;;
  esac
done 2>/dev/null
find "$1" -mindepth 1 2>/dev/null | sed 's/^/path /'
find "$2" -name '.*' 2>/dev/null | sed 's/^/unfinished state /'
ls /sys/class/net | sed 's/^/network interface /'
cut -d ' ' -f 2 /proc/self/mounts | sed 's/^/mount /'
xl list -v | awk 'NR > 1 { print "domain " $1 " " $2 }'
losetup -a | sed 's/^/loop device /'
xenstore-ls -f /local/domain/0/backend 2>/dev/null | awk -F ' = ' '$1 ~ /\/state$/ { print "backend " $1 }'
find /run/workspace-pilot -type f ! -name '.*' 2>/dev/null | sed 's/^/registry /'
ps -eo args | awk '/^xl |^[^ ]*xen-helper|^sudo / { print "process " $0 }'
"#;

/// A running dom0. Dropped, all of it has ended.
#[derive(Debug)]
pub struct XenHost {
    dir: PathBuf,
    holder: Child,
}

impl XenHost {
    /// Boots one below the directory `place`, which sees `share` under the same path.
    ///
    /// # Errors
    /// It does not boot; the error has its log.
    pub fn start(place: &Path, share: &Path, helper: Option<&Path>) -> Result<Self> {
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab/xen");
        let log = place.with_extension("log");
        let mut command = Command::new(lab);
        command.arg("hold").arg(place).arg("--share").arg(share);
        if let Some(helper) = helper {
            command.arg("--helper").arg(helper);
        }
        let mut holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).context("failed to make a log")?)
            .process_group(0)
            .spawn()
            .context("failed to start scripts/lab/xen")?;
        let mut said = String::new();
        if let Some(stdout) = holder.stdout.take() {
            io::BufReader::new(stdout).read_line(&mut said)?;
        }
        let dir = place.to_owned();
        let host = Self { dir, holder };
        if said.trim() != "ready" {
            let log = fs::read_to_string(&log).unwrap_or_default();
            bail!("the Xen host does not run:\n{log}");
        }
        host.administer(&[
            "install", "-d", "-o", "pilot", "-g", "pilot", SCRATCH, LRM, STORE,
        ])?;
        Ok(host)
    }

    /// Goes before a command that is to run there as the user `pilot`.
    pub fn prefix(&self) -> Vec<String> {
        vec![self.dir.join("run").display().to_string()]
    }

    /// Runs a command there as the user `pilot`, to its end.
    ///
    /// # Errors
    /// It fails; the error has what it said.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.run(Command::new(self.dir.join("run")).args(args))
    }

    /// Runs a command there as the administrator, to its end.
    ///
    /// # Errors
    /// It fails; the error has what it said.
    pub fn administer(&self, args: &[&str]) -> Result<String> {
        self.run(Command::new(self.dir.join("run")).arg("--root").args(args))
    }

    /// What is there that a slot could have made.
    ///
    /// # Errors
    /// It does not answer.
    pub fn look(&self) -> Result<BTreeSet<String>> {
        let said = self.administer(&["sh", "-c", LOOK, "lab-look", SCRATCH, STORE])?;
        Ok(said.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Names of the domains that are there, dom0 apart.
    ///
    /// # Errors
    /// It does not answer.
    pub fn domains(&self) -> Result<Vec<String>> {
        let list = self.administer(&["xl", "list"])?;
        let names = list.lines().skip(1);
        let names = names.filter_map(|line| line.split_whitespace().next());
        Ok(names
            .filter(|n| *n != "Domain-0")
            .map(str::to_owned)
            .collect())
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let output: Output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

impl Drop for XenHost {
    fn drop(&mut self) {
        if !geteuid().is_root() && getuid().is_root() {
            // It was root before it acted as the user.
            let _ = seteuid(Uid::from_raw(0));
        }
        // The end of its input is what it waits for.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// One or more hosts that share a directory, and what they need of ours there. From its start a
/// process that is root acts as the hosts' user.
#[derive(Debug)]
pub struct XenSite {
    // Dropped in this order: the hosts before their directory.
    /// The hosts.
    pub hosts: Vec<XenHost>,
    /// The programs, where the hosts see them.
    pub binaries: Binaries,
    /// The test guest there; none if none was wanted.
    pub guest: Option<PathBuf>,
    before: Vec<BTreeSet<String>>,
    share: PathBuf,
    _place: TempDir,
}

impl XenSite {
    /// Boots so many hosts that see these programs and this guest.
    ///
    /// # Errors
    /// One does not boot; or the files cannot be copied.
    pub fn start(binaries: &Binaries, guest: Option<&Path>, hosts: usize) -> Result<Self> {
        let place = tempfile::Builder::new()
            .prefix("wp-xen-")
            .tempdir()
            .context("failed to make a directory")?;
        fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
        let share = place.path().join("share");
        let programs = share.join("bin");
        let mut copies = binaries.clone();
        for program in [&mut copies.pilot, &mut copies.lrm] {
            *program = copy(program, &programs)?;
            strip(program)?;
        }
        let mut helper = binaries.pilot.with_file_name("pilot-xen-helper");
        let has_helper = helper.is_file();
        if has_helper {
            helper = copy(&helper, &programs)?;
            strip(&helper)?;
        }
        let helper = has_helper.then_some(helper);
        let mut own = vec![(programs, PROGRAMS)];
        if let Some(from) = guest {
            let to = share.join("guest");
            for name in ["vmlinux", "initrd.cpio", "disk.raw"] {
                copy(&from.join(name), &to)?;
            }
            own.push((to, GUEST));
            let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/guest");
            copy(&scripts.join("add-xenstore"), &share)?;
        }
        let root = getuid().is_root();
        if root {
            chown(&share, Some(USER), Some(USER)).context("failed to give the share away")?;
        }
        let mut started = Vec::new();
        for number in 1..=hosts {
            let dir = place.path().join(format!("host{number}"));
            let host = XenHost::start(&dir, &share, helper.as_deref())?;
            // Over the share once, not at each start: `xl` maps a kernel, page by page.
            for (from, to) in &own {
                // With their times: by those a state knows the base of its disk again on another host.
                let from = from.display().to_string();
                host.administer(&["cp", "-r", "--preserve=timestamps", &from, to])?;
            }
            if guest.is_some() {
                let (script, initrd) = (share.join("add-xenstore"), format!("{GUEST}/initrd.cpio"));
                host.administer(&["sh", &script.display().to_string(), &initrd])?;
            }
            started.push(host);
        }
        for program in [&mut copies.pilot, &mut copies.lrm] {
            *program = Path::new(PROGRAMS).join(program.file_name().unwrap_or_default());
        }
        let before = started.iter().map(XenHost::look).collect::<Result<_>>()?;
        if root {
            seteuid(Uid::from_raw(USER)).context("failed to act as the hosts' user")?;
        }
        Ok(Self {
            hosts: started,
            binaries: copies,
            guest: guest.map(|_| GUEST.into()),
            before,
            share,
            _place: place,
        })
    }

    /// An installation whose node is this host; the store is on its own disk, or where there are
    /// several on what they share, which is slow.
    pub fn setup(&self, guests: Guests, host: usize) -> Setup {
        let prefix = self.hosts[host].prefix();
        let mut reach = prefix.clone();
        reach.push("--port".to_owned());
        Setup {
            node: Some(Node {
                prefix,
                place: self.share.clone(),
                lrm: LRM.into(),
                scratch: SCRATCH.into(),
                store: (self.hosts.len() == 1).then(|| STORE.into()),
                reach,
            }),
            ..Setup::new(guests)
        }
    }

    /// The same with time for all that takes long there. The broker learns what a suspend costs, and
    /// submits no pilot where twice that does not fit into the notice: on a busy machine half a
    /// minute for 96 MiB.
    pub fn patient(&self, guests: Guests) -> Setup {
        Setup {
            // Far away: what ends a slot is told to.
            walltime: "30m",
            notice: "5m",
            idle_limit: "4s",
            lease_ttl: "30s",
            ..self.setup(guests, 0)
        }
    }

    /// The directory that all hosts see, under its path here.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// What is on the hosts that was not there at their start.
    ///
    /// # Errors
    /// One does not answer.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (host, before) in self.hosts.iter().zip(&self.before) {
            found.extend(host.look()?.difference(before).cloned());
        }
        Ok(found)
    }

    /// Waits until the hosts are as they were at their start: no domain, no file, no device, no
    /// process.
    ///
    /// # Errors
    /// Something stays; the message says what.
    pub async fn is_clean(&self) -> Result<()> {
        let clean = until("the hosts to be as they were", PATIENCE, async || {
            Ok(self.leftovers()?.is_empty().then_some(()))
        });
        clean
            .await
            .with_context(|| format!("left on the hosts: {:#?}", self.leftovers()))
    }
}

fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::create_dir_all(to).context("failed to make a directory")?;
    let to = to.join(from.file_name().context("a file without a name")?);
    fs::copy(from, &to)
        .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
    Ok(to)
}

/// Takes out what only a debugger reads: it goes over a slow share.
fn strip(program: &Path) -> Result<()> {
    let status = Command::new("strip").arg(program).status();
    let status = status.context("failed to run strip")?;
    anyhow::ensure!(status.success(), "strip {}: {status}", program.display());
    Ok(())
}
