//! Where a replay keeps its files: paths that were named stay, temporary ones go, and a run that fails for its input
//! leaves nothing behind that was not there before.

use std::path::{Path, PathBuf};

use super::args::ReplayArgs;
use super::backing::{self, Found};
use crate::failure::{Failure, Result};

pub(crate) struct Places {
    pub(crate) ssd: PathBuf,
    pub(crate) backing: Vec<PathBuf>,
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
    pub(crate) fn choose(args: &ReplayArgs, volume_bytes: &[u64], trace: Option<&Path>) -> Result<Self> {
        let mut new = Vec::new();
        let mut starts_as_zeros = true;
        let mut named = Vec::new();
        if let Some(path) = &args.ssd_file {
            if check_cache_file(path)? {
                new.push(path.clone());
            }
            named.push(("--ssd-file", path.clone()));
        }
        let mut backing_paths = Vec::new();
        for (volume, &bytes) in volume_bytes.iter().enumerate() {
            let Some(first) = &args.backing else { continue };
            let path = if volume == 0 { first.clone() } else { numbered(first, volume) };
            match backing::look_at(&path, args.overwrite)? {
                Found::Nothing => {
                    check_parent(&path, "--backing")?;
                    new.push(path.clone());
                }
                Found::File => {}
                Found::BlockDevice { bytes: there } if there < bytes => {
                    let shown = path.display();
                    return Err(Failure::input(format!(
                        "the trace needs {bytes} bytes, {shown} has {there}"
                    ))
                    .remedy("name a larger device, or a file"));
                }
                Found::BlockDevice { .. } => starts_as_zeros = false,
            }
            named.push(("--backing", path.clone()));
            backing_paths.push(path);
        }
        check_all_differ(&named, trace)?;
        let needs_temporary = args.ssd_file.is_none() || args.backing.is_none();
        let temporary = needs_temporary.then(temporary_directory).transpose()?;
        let inside = |name: &str| {
            temporary.as_ref().map_or_else(|| name.into(), |directory| directory.path().join(name))
        };
        if args.backing.is_none() {
            backing_paths =
                (0..volume_bytes.len()).map(|volume| inside(&format!("backing-{volume}"))).collect();
        }
        let ssd = args.ssd_file.clone().unwrap_or_else(|| inside("cache"));
        Ok(Self {
            ssd,
            backing: backing_paths,
            starts_as_zeros,
            new,
            keeps_new: false,
            _temporary: temporary,
        })
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

fn check_parent(path: &Path, flag: &str) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if parent.is_dir() {
        return Ok(());
    }
    let (path, parent) = (path.display(), parent.display());
    Err(Failure::input(format!("{flag} {path} cannot be made: {parent} is no directory"))
        .remedy("make it first"))
}

fn check_all_differ(named: &[(&str, PathBuf)], trace: Option<&Path>) -> Result<()> {
    // A path with nothing there has no canonical form, but its directory has.
    let canonical = |path: &Path| match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(path), _, _) => path,
        (Err(_), Some(parent), Some(name)) => {
            parent.canonicalize().map_or(path.into(), |parent| parent.join(name))
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
