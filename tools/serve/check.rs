//! Everything that can be known before the first client is let in: a plan held against the machine.
//!
//! Refusals come in this order: what the plan says of itself, the files of TLS, addresses that anybody could reach, backing
//! stores, sockets. Until here nothing on disk was changed, but that an abandoned socket was removed. The cache is opened
//! after that: it is the first to write, and checks its own file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use terrace::tiers::backing::file::FileBacking;
use terrace::tiers::file_device::FileOptions;
use terrace::tiers::ssd::SsdPolicy;
use terrace::{Config, Device, RamSize, SsdConfig, SsdSize};
use terrace_nbd::{Listener, Tls};

use super::control::ControlListener;
use super::doors::{Entrance, open_to_all};
use super::http::HttpListener;
use super::plan::{Address, CachePlan, ExportPlan, HttpAddress, Plan};
use crate::failure::{Failure, Result};
use crate::mode::Mode;

/// A name that fits a string of the protocol, and a cache file's table of volumes.
const NAME_BYTES_MAX: usize = 255;

/// A plan that works on this machine, with what was opened to find that out.
pub(super) struct Checked {
    pub(super) plan: Plan,
    pub(super) config: Config,
    pub(super) backings: Vec<Arc<FileBacking>>,
    pub(super) tls: Option<Tls>,
    pub(super) entrances: Vec<Entrance>,
    pub(super) control: Option<ControlListener>,
    pub(super) http: Option<HttpListener>,
}

pub(super) fn check(mut plan: Plan) -> Result<Checked> {
    plan.place_control();
    let config = check_plan(&plan)?;
    let tls = load_tls(&plan)?;
    check_reach(&plan, tls.is_some())?;
    check_files(&plan)?;
    let backings = plan.exports.iter().map(open_backing).collect::<Result<_>>()?;
    let entrances = open_entrances(&plan, tls.is_some())?;
    let control = plan.control.as_deref().map(ControlListener::open).transpose()?;
    let http = open_http(&plan)?;
    Ok(Checked { plan, config, backings, tls, entrances, control, http })
}

/// What a plan says of itself, and how the cache is opened by it.
pub(super) fn check_plan(plan: &Plan) -> Result<Config> {
    check_names(plan)?;
    let config = cache_config(&plan.cache)?;
    check_limits(plan)?;
    Ok(config)
}

/// What must hold between exports, and between them and the cache.
fn check_names(plan: &Plan) -> Result<()> {
    if plan.exports.is_empty() {
        return Err(
            Failure::input("there is nothing to serve").remedy("add an [[export]] with its backing store")
        );
    }
    let mut names = BTreeSet::new();
    for export in &plan.exports {
        let name = &export.name;
        if name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return Err(Failure::input(format!("`{}` is no name of an export", name.escape_debug()))
                .remedy(format!("use at most {NAME_BYTES_MAX} bytes, and none that is zero")));
        }
        if !names.insert(name) {
            return Err(
                Failure::input(format!("two exports are named {name}")).remedy("give each its own name")
            );
        }
        if export.write == Mode::BackSsd && plan.cache.ssd_file.is_none() {
            return Err(Failure::input(format!(
                "export {name} is to write back to an SSD and there is none"
            ))
            .remedy("add an SSD file with its size, or choose another mode"));
        }
        if export.exclusive && export.generation.is_some() {
            return Err(Failure::input(format!(
                "export {name} has a generation, which says whether it changed, and is exclusive, which says that it did not"
            ))
            .remedy("leave out one of them"));
        }
    }
    Ok(())
}

fn check_limits(plan: &Plan) -> Result<()> {
    let limits = &plan.limits;
    if limits.connections == 0
        || limits.requests == 0
        || limits.memory == 0
        || limits.handshake_time.is_zero()
    {
        return Err(Failure::input("a limit of nothing lets no client in").remedy("make each at least 1"));
    }
    if plan.stop_timeout.is_zero() {
        return Err(Failure::input("a service that may take no time to stop leaves nothing durable")
            .remedy("give --stop-timeout a second or more"));
    }
    Ok(())
}

/// How the cache is opened.
fn cache_config(plan: &CachePlan) -> Result<Config> {
    let mut config = Config::new(RamSize::Bytes(plan.ram_size));
    config.block_size = plan.block_size;
    config.ordered_destage = plan.ordered;
    config.ssd = ssd_config(plan)?;
    if plan.record.is_none() && plan.record_size.is_some() {
        return Err(Failure::input("a recording has a size and no place")
            .remedy("add record, or leave record-size out"));
    }
    config.ram_blocks().map_err(|error| Failure::input(error.to_string()))?;
    Ok(config)
}

fn ssd_config(plan: &CachePlan) -> Result<Option<SsdConfig>> {
    match (&plan.ssd_file, plan.ssd_size) {
        (None, None) => Ok(None),
        (Some(path), Some(bytes)) => {
            let mut config = SsdConfig::new(path, SsdSize::Bytes(bytes));
            config.policy =
                SsdPolicy { write_budget_bytes_per_day: plan.ssd_write_budget, ..SsdPolicy::default() };
            Ok(Some(config))
        }
        (Some(_), None) => Err(Failure::input("the SSD file has no size").remedy("add ssd-size")),
        (None, Some(_)) => Err(Failure::input("the SSD has a size and no file").remedy("add ssd-file")),
    }
}

pub(super) fn load_tls(plan: &Plan) -> Result<Option<Tls>> {
    let Some(files) = &plan.tls else { return Ok(None) };
    let tls = Tls::from_files(&files.cert, &files.key, files.ca.as_deref()).map_err(|error| {
        Failure::caused("TLS cannot be offered", error)
            .remedy("name a certificate and its own key, both in PEM, that this user may read")
    })?;
    Ok(Some(tls))
}

/// No address that others than this machine can reach without TLS, unless that is wanted.
pub(super) fn check_reach(plan: &Plan, has_tls: bool) -> Result<()> {
    for address in &plan.listen {
        let Address::Tcp(address) = address else { continue };
        if !is_local(address)? && !has_tls && !plan.insecure {
            return Err(open_to_all(address));
        }
    }
    if let Some(HttpAddress(address)) = &plan.http
        && !is_local(address)?
        && !plan.insecure
    {
        return Err(Failure::input(format!("whoever reaches {address} could see what the service does"))
            .remedy("have --http on 127.0.0.1, or accept that by --insecure"));
    }
    Ok(())
}

fn is_local(address: &str) -> Result<bool> {
    Ok(resolve(address)?.iter().all(|found| found.ip().is_loopback()))
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>> {
    let found = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let failed = |error| Failure::caused(format!("cannot listen on {address}"), error);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            Err(failed(io::Error::other("the name has no address")).remedy("name an address of this machine"))
        }
        Err(error) => Err(failed(error).remedy("name an address of this machine")),
    }
}

/// No file is two things at once.
pub(super) fn check_files(plan: &Plan) -> Result<()> {
    let mut files = BTreeMap::new();
    if let Some(found) = plan.cache.ssd_file.as_deref().and_then(file_at) {
        files.insert(found, "the cache file".to_string());
    }
    for export in &plan.exports {
        if let Some(found) = file_at(&export.backing)
            && let Some(other) = files.insert(found, format!("export {}", export.name))
        {
            return Err(Failure::input(format!(
                "{} is the backing store of export {} and {other} too",
                export.backing.display(),
                export.name
            ))
            .remedy("give each its own file"));
        }
    }
    let mut marks = BTreeMap::new();
    for export in &plan.exports {
        let Some(mark) = &export.mark else { continue };
        if let Some(other) = file_at(mark).and_then(|found| files.get(&found)) {
            return Err(Failure::input(format!(
                "{} is the mark of export {}, and {other} too",
                mark.display(),
                export.name
            ))
            .remedy("name a small file of its own, which is made when it is missing"));
        }
        if let Some(other) = marks.insert(place_of(mark), &export.name) {
            return Err(Failure::input(format!(
                "{} is the mark of export {} and of export {other}",
                mark.display(),
                export.name
            ))
            .remedy("give each its own file"));
        }
    }
    Ok(())
}

/// What tells one file from another that may not be there yet: its folder, and its name there.
fn place_of(path: &Path) -> (Option<(u64, u64)>, Option<&OsStr>) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (file_at(folder), path.file_name())
}

/// What tells one file from another, whatever it is called.
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let found = std::fs::metadata(path).ok()?;
    // A block device is what its number says, whichever node names it.
    let is_device = found.file_type().is_block_device();
    Some(if is_device { (u64::MAX, found.rdev()) } else { (found.dev(), found.ino()) })
}

/// The backing store of an export, locked against other servers.
pub(super) fn open_backing(export: &ExportPlan) -> Result<Arc<FileBacking>> {
    let options =
        FileOptions { read_only: export.read_only, lock: true, ..FileOptions::new(export.backing.clone()) };
    let opened = FileBacking::with_options(&options);
    let backing = opened
        .map_err(|error| Failure::caused(format!("export {} has no backing store", export.name), error))?;
    if backing.len_bytes() == 0 {
        return Err(Failure::input(format!("{} is empty", export.backing.display()))
            .remedy("give it the size that the disk is to have, by truncate -s SIZE"));
    }
    if export.exclusive && export.mark.is_none() && backing.mark_path().is_none() {
        return Err(Failure::input(format!(
            "export {} cannot be exclusive: a mark cannot be kept beside {}",
            export.name,
            export.backing.display()
        ))
        .remedy("name a file for it, by --mark PATH or the key mark"));
    }
    Ok(Arc::new(backing))
}

fn open_entrances(plan: &Plan, has_tls: bool) -> Result<Vec<Entrance>> {
    let passed = Listener::activated().map_err(|error| {
        Failure::caused("the sockets that were passed cannot be used", error)
            .remedy("pass listening Unix or TCP sockets alone")
    })?;
    let mut entrances = Vec::new();
    for listener in passed {
        if !listener.is_local() && !has_tls && !plan.insecure {
            return Err(open_to_all(&listener.name()));
        }
        entrances.push(Entrance { address: None, listener });
    }
    for address in &plan.listen {
        entrances.push(open_entrance(address, plan.socket_mode)?);
    }
    if entrances.is_empty() {
        return Err(no_address());
    }
    Ok(entrances)
}

fn open_http(plan: &Plan) -> Result<Option<HttpListener>> {
    let Some(HttpAddress(address)) = &plan.http else { return Ok(None) };
    let opened = HttpListener::open(&resolve(address)?);
    opened.map(Some).map_err(|error| cannot_listen(&Address::Tcp(address.clone()), error))
}

pub(super) fn no_address() -> Failure {
    Failure::input("there is no address to listen on").remedy("add --listen unix:PATH")
}

pub(super) fn open_entrance(address: &Address, socket_mode: u32) -> Result<Entrance> {
    let listener = match address {
        Address::Unix(path) => Listener::unix(path, socket_mode),
        Address::Tcp(address) => Listener::tcp(&resolve(address)?[..]),
    };
    let listener = listener.map_err(|error| cannot_listen(address, error))?;
    Ok(Entrance { address: Some(address.clone()), listener })
}

fn cannot_listen(address: &Address, error: io::Error) -> Failure {
    let remedy = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            "a server is there, or a file of another kind; name another path"
        }
        (io::ErrorKind::AddrInUse, Address::Tcp(_)) => "stop who listens there, or name another port",
        (io::ErrorKind::NotFound, _) => "make its folder first",
        _ => "name an address that this user may use",
    };
    Failure::caused(format!("cannot listen on {address}"), error).remedy(remedy)
}
