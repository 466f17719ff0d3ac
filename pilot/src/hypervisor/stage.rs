//! Staging, the same for all drivers: artefacts and state are verified, disks are laid out.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_store::{
    BasePin, Digest, DiskEntry, FileEntry, ImageError, Manifest, Placed, Platform, Staged,
    StateError, Store, UnreadMemory, VerifiedState, free_bytes, link_or_copy, qcow2,
};
use protocol::lease::StateRef;
use protocol::workspace::{Artefact, Disk, DiskFormat};

use super::errors::StageError;
use super::fetch::Fetcher;
use super::memory::GuestMemory;
use super::offload::offload;
use super::raw;
use super::types::StageRequest;

/// Name of the memory's file in a state.
pub(super) const MEMORY: &str = "memory";

/// Longer chains of layers are merged into one when they are staged.
const LONGEST_CHAIN: usize = 8;

/// A local base without a digest is read in the background for its pin up to this size.
pub(super) const PIN_UP_TO: u64 = 1 << 30;

/// A guest all of whose files are in place and verified.
#[derive(Debug)]
pub(super) struct Parts {
    pub request: StageRequest,
    /// Kernel and initial ramdisk; none in a resume, whose memory has them.
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub disks: Vec<StagedDisk>,
    /// Its devices: those of its state, if it has one.
    pub devices: Vec<String>,
    /// The state to resume from.
    pub state: Option<VerifiedState>,
    /// The guest's memory, all zero; none for a driver that has it elsewhere.
    pub memory: Option<Arc<GuestMemory>>,
    /// What it is to be filled with before the guest runs, and not verified yet.
    pub image: Option<UnreadMemory>,
}

/// What a guest's disk is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskKind {
    /// Of qcow2 layers, for a hypervisor that reads those.
    Layers,
    /// Of one raw file, which has all of it.
    Raw,
}

/// One disk: `base <- frozen layers <- top`.
#[derive(Clone, Debug)]
pub(super) struct StagedDisk {
    pub kind: DiskKind,
    pub size_bytes: u64,
    pub base: Option<Base>,
    pub frozen: Vec<Frozen>,
    /// The layer that this guest writes to.
    pub top: PathBuf,
}

/// A base in place.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub path: PathBuf,
    pub pin: BasePin,
}

/// A layer of an earlier state, never written to again.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    pub path: PathBuf,
    /// What it was when it was verified; none when it was merged here.
    pub known: Option<FileEntry>,
}

/// Where artefacts come from.
struct Source<'a> {
    store: &'a Store,
    fetcher: &'a Fetcher,
    /// The slot's name.
    owner: &'a str,
}

/// What a driver gives a guest of a request.
pub(super) struct Outfit {
    pub platform: Platform,
    pub devices: Vec<String>,
    /// Lists of devices that earlier versions gave such a guest; a state with one is resumed so.
    pub earlier_devices: Vec<Vec<String>>,
    /// The driver fills it from the state, if there is one. None: the state's memory is a file as any
    /// other.
    pub memory: Option<Arc<GuestMemory>>,
    pub disks: DiskKind,
}

/// Stages a guest for a driver.
pub(super) async fn stage(
    request: StageRequest,
    store: &Store,
    fetcher: &Fetcher,
    outfit: Outfit,
) -> Result<Parts, StageError> {
    let marker = request.marker.as_str();
    let owner = marker.rsplit_once('.').map_or(marker, |(slot, _)| slot);
    let source = Source {
        store,
        fetcher,
        owner,
    };
    let dir = request.dir.clone();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|e| node("make the directory", &dir, &e))?;

    let (state, image) = match request.state.clone() {
        None => (None, None),
        Some(from) => {
            let (state, image) = open_state(store, from, &request, &outfit).await?;
            (Some(state), image)
        }
    };
    let (mut kernel, mut initrd) = (None, None);
    if state.is_none() {
        let image = &request.spec.image;
        kernel = path_of(artefact(&source, image.kernel.as_ref()).await?);
        initrd = path_of(artefact(&source, image.initrd.as_ref()).await?);
    }
    let mut disks = Vec::new();
    for (n, disk) in request.spec.image.disks.iter().enumerate() {
        let entry = state.as_ref().map(|s| s.manifest().disks[n].clone());
        let base = match &disk.base {
            None => None,
            Some(a) => Some(stage_base(&source, a, disk.format, entry.as_ref()).await?),
        };
        let (disk, state, dir) = (disk.clone(), state.clone(), dir.clone());
        let kind = outfit.disks;
        let laid = offload("stage-disk", move || {
            lay_out(&disk, n, base, entry, state, &dir, kind)
        });
        disks.push(laid.await.map_err(|e| StageError::Node(e.to_string()))??);
    }
    Ok(Parts {
        request,
        kernel,
        initrd,
        disks,
        devices: state
            .as_ref()
            .map_or(outfit.devices, |s| s.manifest().devices.clone()),
        state,
        memory: outfit.memory,
        image,
    })
}

fn path_of(staged: Option<Staged>) -> Option<PathBuf> {
    staged.map(|s| s.path)
}

async fn open_state(
    store: &Store,
    from: StateRef,
    request: &StageRequest,
    outfit: &Outfit,
) -> Result<(VerifiedState, Option<UnreadMemory>), StageError> {
    let found = {
        let store = store.clone();
        let found = offload("find-state", move || {
            store.find_state(&from.id, &from.manifest)
        });
        found.await.map_err(|e| StageError::Node(e.to_string()))??
    };
    if let Some(text) = misfit(found.manifest(), request, outfit) {
        let id = &found.manifest().state;
        return Err(StageError::StateIncompatible(format!(
            "the state {id} can't be resumed here: {text}"
        )));
    }
    let is_loaded = outfit.memory.is_some();
    let verified = offload("verify-state", move || {
        if is_loaded {
            let (state, image) = found.verify_but(MEMORY)?;
            Ok((state, Some(image)))
        } else {
            Ok((found.verify()?, None))
        }
    });
    let verified: Result<_, StateError> =
        (verified.await).map_err(|e| StageError::Node(e.to_string()))?;
    Ok(verified?)
}

/// The first reason why a state can't be resumed for this request on this node. The hypervisors
/// themselves accept too much (a smaller disk, a poorer processor) and then corrupt the guest.
fn misfit(m: &Manifest, request: &StageRequest, outfit: &Outfit) -> Option<String> {
    let spec = &request.spec;
    let devices = &outfit.devices;
    if m.workspace != request.guest.workspace {
        return Some(format!("it is that of the workspace {}", m.workspace));
    }
    if let Some(text) = m.platform.mismatch(&outfit.platform) {
        return Some(text);
    }
    if m.cores != spec.resources.cores || m.memory_mib != spec.resources.memory_mib {
        return Some(format!(
            "it has {} cores and {} MiB of memory, the request has {} cores and {} MiB",
            m.cores, m.memory_mib, spec.resources.cores, spec.resources.memory_mib
        ));
    }
    if m.devices != *devices && !outfit.earlier_devices.contains(&m.devices) {
        return Some(format!(
            "it has the devices {}, the request has {}",
            m.devices.join(", "),
            devices.join(", ")
        ));
    }
    let urls = |base: Option<&str>| base.map(str::to_owned);
    let ours = spec
        .image
        .disks
        .iter()
        .map(|d| urls(d.base.as_ref().map(|b| b.url.as_str())));
    let theirs = m
        .disks
        .iter()
        .map(|d| urls(d.base.as_ref().map(|b| b.url.as_str())));
    (!ours.eq(theirs)).then(|| "its disks have other bases than the request".to_owned())
}

async fn artefact(
    source: &Source<'_>,
    artefact: Option<&Artefact>,
) -> Result<Option<Staged>, StageError> {
    let Some(a) = artefact else { return Ok(None) };
    let digest = parse_digest(&a.url, a.digest.as_deref())?;
    bring(source, &a.url, digest).await.map(Some)
}

fn parse_digest(url: &str, digest: Option<&str>) -> Result<Option<Digest>, StageError> {
    digest
        .map(str::parse::<Digest>)
        .transpose()
        .map_err(|text| {
            StageError::ImageCorrupt(format!("the digest of {url} is malformed: {text}"))
        })
}

async fn bring(
    source: &Source<'_>,
    url: &str,
    digest: Option<Digest>,
) -> Result<Staged, StageError> {
    if let Some(staged) = digest.as_ref().and_then(|d| source.store.blob(d)) {
        return Ok(staged);
    }
    if !url.starts_with('/') {
        let Source {
            store,
            fetcher,
            owner,
        } = source;
        return fetcher.fetch(store, owner, url, digest).await;
    }
    let (store, path) = (source.store.clone(), PathBuf::from(url));
    let staged = offload("verify-image", move || {
        store.stage_file(&path, digest.as_ref())
    })
    .await
    .map_err(|e| StageError::Node(e.to_string()))?;
    Ok(staged?)
}

/// Brings a disk's base: the one that the request names, and in a resume exactly the one that
/// the state was made on.
async fn stage_base(
    source: &Source<'_>,
    a: &Artefact,
    format: DiskFormat,
    entry: Option<&DiskEntry>,
) -> Result<Base, StageError> {
    let pinned = entry.and_then(|e| e.base.as_ref());
    let digest = match pinned.and_then(|p| p.digest.as_deref()) {
        Some(pin) => Some(pin),
        None => a.digest.as_deref(),
    };
    let staged = match bring(source, &a.url, parse_digest(&a.url, digest)?).await {
        Err(StageError::ImageCorrupt(text)) if pinned.is_some() => {
            return Err(StageError::StateCorrupt(format!(
                "the state's base has changed: {text}"
            )));
        }
        other => other?,
    };
    let changed = fs::metadata(&staged.path).map_err(|e| node("read", &staged.path, &e))?;
    let changed_ms = changed.mtime() * 1000 + changed.mtime_nsec() / 1_000_000;
    if let Some(p) = pinned
        && (p.bytes != staged.bytes
            || p.digest.is_none() && p.changed_ms.is_some_and(|at| at != changed_ms))
    {
        let text = format!(
            "the base {} is not the one that the state was made on",
            a.url
        );
        return Err(StageError::StateCorrupt(text));
    }
    let pin = BasePin {
        url: a.url.clone(),
        format,
        bytes: staged.bytes,
        digest: staged.digest.map(|d| d.to_string()),
        changed_ms: Some(changed_ms),
    };
    Ok(Base {
        path: staged.path,
        pin,
    })
}

/// Makes the top layer of a disk above what it has.
fn lay_out(
    disk: &Disk,
    n: usize,
    base: Option<Base>,
    entry: Option<DiskEntry>,
    state: Option<VerifiedState>,
    dir: &Path,
    kind: DiskKind,
) -> Result<StagedDisk, StageError> {
    let base_size = match &base {
        None => 0,
        Some(b) => qcow2::virtual_size(&b.path, disk.format).map_err(|e| {
            StageError::ImageCorrupt(format!("the disk image {} is no use: {e}", b.pin.url))
        })?,
    };
    let asked = disk.size_mib.unwrap_or(0).saturating_mul(1 << 20);
    let size_bytes = entry
        .as_ref()
        .map_or(base_size.max(asked), |e| e.size_bytes);
    if size_bytes == 0 {
        let text = format!("disk {n} has neither a base nor a size");
        return Err(StageError::ImageMissing(text));
    }
    if kind == DiskKind::Raw {
        let top = dir.join(format!("disk-{n}.top.raw"));
        remove_old(&top)?;
        let saved = entry.as_ref().and_then(|e| e.layers.first());
        let from = match (saved, &state) {
            (Some(name), Some(state)) => Some((state.path(name), DiskFormat::Raw)),
            _ => base.as_ref().map(|b| (b.path.clone(), b.pin.format)),
        };
        raw::lay_out(from, &top, size_bytes).map_err(|e| node("make", &top, &e))?;
        return Ok(StagedDisk {
            kind,
            size_bytes,
            base,
            frozen: Vec::new(),
            top,
        });
    }
    let mut frozen = Vec::new();
    if let (Some(entry), Some(state)) = (entry, state) {
        for (layer, name) in entry.layers.iter().enumerate() {
            let path = near(
                &state.path(name),
                &dir.join(format!("disk-{n}.{layer}.qcow2")),
            )?;
            frozen.push(Frozen {
                path,
                known: state.manifest().file(name).cloned(),
            });
        }
    }
    if frozen.len() >= LONGEST_CHAIN {
        let merged = dir.join(format!("disk-{n}.merged.qcow2"));
        let layers: Vec<&Path> = frozen.iter().map(|f| f.path.as_path()).collect();
        remove_old(&merged)?;
        qcow2::merge(&layers, &merged).map_err(|e| node("merge layers into", &merged, &e))?;
        frozen = vec![Frozen {
            path: merged,
            known: None,
        }];
    }
    let top = dir.join(format!("disk-{n}.top.qcow2"));
    remove_old(&top)?;
    qcow2::create_layer(&top, size_bytes).map_err(|e| node("make", &top, &e))?;
    Ok(StagedDisk {
        kind,
        size_bytes,
        base,
        frozen,
        top,
    })
}

/// Gives a layer of a state a second name in the guest's directory, so that it is there for the
/// next suspend whatever becomes of the state. On another file system it is used where it is.
fn near(layer: &Path, here: &Path) -> Result<PathBuf, StageError> {
    let same = fs::metadata(layer)
        .and_then(|a| Ok(a.dev() == fs::metadata(here.parent().unwrap_or(here))?.dev()))
        .map_err(|e| node("read", layer, &e))?;
    if !same {
        return Ok(layer.to_owned());
    }
    remove_old(here)?;
    match link_or_copy(layer, here) {
        Ok(Placed::Linked | Placed::Copied(_)) => Ok(here.to_owned()),
        Err(e) => Err(node("link", here, &e)),
    }
}

fn remove_old(path: &Path) -> Result<(), StageError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(node("remove", path, &e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn node(operation: &str, path: &Path, e: &io::Error) -> StageError {
    let text = format!("can't {operation} {}: {e}", path.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = free_bytes(path.parent().unwrap_or(path)).unwrap_or(0);
            StageError::DiskFull(format!("{text} ({} MiB free)", free >> 20))
        }
        _ => StageError::Node(text),
    }
}

impl From<ImageError> for StageError {
    fn from(e: ImageError) -> Self {
        let text = e.to_string();
        match e {
            ImageError::Missing { source, .. } => match source.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::Other => Self::ImageMissing(text),
                _ => Self::Unreachable(text),
            },
            ImageError::Corrupt { .. } | ImageError::BadDigest { .. } => Self::ImageCorrupt(text),
            ImageError::NoSpace { .. } => Self::DiskFull(text),
            ImageError::Io { .. } => Self::Node(text),
        }
    }
}

impl From<StateError> for StageError {
    fn from(e: StateError) -> Self {
        let text = e.to_string();
        match e {
            StateError::Missing { .. } | StateError::Corrupt { .. } => Self::StateCorrupt(text),
            StateError::UnknownVersion { .. } => Self::StateIncompatible(text),
            StateError::NoSpace { .. } => Self::DiskFull(text),
            StateError::Exists { .. } | StateError::CalledOff { .. } | StateError::Io { .. } => {
                Self::Node(text)
            }
        }
    }
}
