//! Where a replay keeps its files: paths that were named stay, temporary ones go, and a run that fails for its input
//! leaves nothing behind that was not there before.

use std::path::{Path, PathBuf};

use super::args::ReplayArgs;
use super::backing::{self, Found};
use crate::failure::{Failure, Result};

pub(crate) struct Places {
    pub(crate) ssd: PathBuf,
    /// By the number of the volume; none for those that need no room.
    pub(crate) backing: Vec<Option<PathBuf>>,
    /// No backing file is a device whose content is unknown.
    pub(crate) starts_as_zeros: bool,
    /// Named paths with nothing there before.
    new: Vec<PathBuf>,
    keeps_new: bool,
    /// Dropped last, with all in it.
    _temporary: Option<tempfile::TempDir>,
}

impl Places {
    /// Chooses and checks the paths for volumes of so many bytes; makes nothing but the temporary directory.
    pub(crate) fn choose(
        args: &ReplayArgs,
        volume_bytes: &[Option<u64>],
        trace: Option<&Path>,
    ) -> Result<Self> {
        let mut new = Vec::new();
        let mut named = Vec::new();
        if let Some(path) = &args.ssd_file {
            if check_cache_file(path)? {
                new.push(path.clone());
            }
            named.push(("--ssd-file", path.clone()));
        }
        let mut starts_as_zeros = true;
        let mut backing = name_backing(args, volume_bytes);
        for ((flag, path), bytes) in
            backing.iter().zip(volume_bytes).filter_map(|(named, bytes)| named.as_ref().zip(*bytes))
        {
            match check_backing(flag, path, bytes, args.overwrite)? {
                Found::Nothing => new.push(path.clone()),
                Found::File => {}
                Found::BlockDevice { .. } => starts_as_zeros = false,
            }
            named.push((flag, path.clone()));
        }
        check_all_differ(&named, trace)?;
        let is_unnamed = |(named, bytes): (&Option<_>, &Option<u64>)| named.is_none() && bytes.is_some();
        let needs_temporary = args.ssd_file.is_none() || backing.iter().zip(volume_bytes).any(is_unnamed);
        let temporary = needs_temporary.then(temporary_directory).transpose()?;
        let inside = |name: &str| {
            temporary.as_ref().map_or_else(|| name.into(), |directory| directory.path().join(name))
        };
        let chosen = |(volume, bytes): (usize, &Option<u64>)| {
            let path = backing[volume].take().map(|(_, path)| path);
            bytes.map(|_| path.unwrap_or_else(|| inside(&format!("backing-{volume}"))))
        };
        let backing = volume_bytes.iter().enumerate().map(chosen).collect();
        let ssd = args.ssd_file.clone().unwrap_or_else(|| inside("cache"));
        Ok(Self { ssd, backing, starts_as_zeros, new, keeps_new: false, _temporary: temporary })
    }

    /// Named files that were made stay from now on.
    pub(crate) fn keep(&mut self) {
        self.keeps_new = true;
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if !self.keeps_new {
            for path in &self.new {
                // It may not have come to be; and there is no one left to tell.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// The paths that `args` name for volumes, with the flag that does; none for those that get a temporary one, or nothing.
fn name_backing(args: &ReplayArgs, volume_bytes: &[Option<u64>]) -> Vec<Option<(&'static str, PathBuf)>> {
    let mut is_first = true;
    let name = |(volume, bytes): (usize, &Option<u64>)| {
        (*bytes)?;
        if let Some((_, path)) = args.maps.iter().find(|(number, _)| *number as usize == volume) {
            return Some(("--map", path.clone()));
        }
        let first = args.backing.as_ref()?;
        let path = if std::mem::take(&mut is_first) { first.clone() } else { numbered(first, volume) };
        Some(("--backing", path))
    };
    volume_bytes.iter().enumerate().map(name).collect()
}

/// What is at the path that `flag` names for a volume of `bytes` bytes, if it can be used.
fn check_backing(flag: &str, path: &Path, bytes: u64, overwrite: bool) -> Result<Found> {
    let found = backing::look_at(path, flag, overwrite)?;
    match found {
        Found::Nothing => check_parent(path, flag)?,
        Found::BlockDevice { bytes: there } if there < bytes => {
            let shown = path.display();
            return Err(Failure::input(format!("the trace needs {bytes} bytes, {shown} has {there}"))
                .remedy("name a larger device, or a file"));
        }
        Found::File | Found::BlockDevice { .. } => {}
    }
    Ok(found)
}

fn numbered(path: &Path, volume: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{volume}"));
    name.into()
}

pub(super) fn temporary_directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("terrace-replay-").tempdir().map_err(|error| {
        Failure::caused("cannot make a temporary directory", error)
            .remedy("set TMPDIR to a directory with room, or name --ssd-file and --backing")
    })
}

/// Whether there is nothing at `path` yet; what is there is for the cache to recognise.
fn check_cache_file(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let shown = path.display();
            Err(Failure::input(format!("--ssd-file {shown} is a directory")).remedy("name a file in it"))
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            check_parent(path, "--ssd-file").map(|()| true)
        }
        Err(error) => Err(Failure::caused(format!("cannot look at --ssd-file {}", path.display()), error)
            .remedy("name a path that you may write")),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn check_parent(path: &Path, flag: &str) -> Result<()> {
    let parent = parent_of(path);
    if parent.is_dir() {
        return Ok(());
    }
    let (path, parent) = (path.display(), parent.display());
    Err(Failure::input(format!("{flag} {path} cannot be made: {parent} is no directory"))
        .remedy("make it first"))
}

fn check_all_differ(named: &[(&str, PathBuf)], trace: Option<&Path>) -> Result<()> {
    // A path with nothing there has no canonical form, but its directory has.
    let canonical = |path: &Path| match (path.canonicalize(), path.file_name()) {
        (Ok(path), _) => path,
        (Err(_), Some(name)) => {
            parent_of(path).canonicalize().map_or(path.into(), |parent| parent.join(name))
        }
        _ => path.to_owned(),
    };
    let mut seen: Vec<(&str, PathBuf)> =
        trace.map(|path| ("the trace", canonical(path))).into_iter().collect();
    for (flag, path) in named {
        let path = canonical(path);
        if let Some((other, _)) = seen.iter().find(|(_, there)| *there == path) {
            let shown = path.display();
            return Err(Failure::input(format!("{flag} and {other} are the same file, {shown}"))
                .remedy("name different files"));
        }
        seen.push((flag, path));
    }
    Ok(())
}
