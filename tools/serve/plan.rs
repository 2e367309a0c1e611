//! What is to be served: the same for flags and for a file of TOML, of which `terrace.toml` beside this is a whole one.
//!
//! Nothing here looks at the machine; [`super::check`] does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};
use terrace::{BlockSize, WriteMode};
use tracing::level_filters::LevelFilter;

use crate::failure::{Failure, Result};
use crate::mode::Mode;
use crate::units::{parse_duration_ns, parse_size};

/// 1 GiB: what a machine that serves disks can spare, and a thousand times what a disk's own cache has.
pub(super) const RAM_BYTES: u64 = 1 << 30;
/// Longer than the destage of what RAM may have dirty by default takes on a disk of 150 MB/s.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever may connect may read and write the disk.
pub(super) const SOCKET_MODE: u32 = 0o600;

/// Everything that the service is told.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Plan {
    #[serde(default)]
    pub(super) listen: Vec<Address>,
    /// Permissions of the Unix sockets of `listen`.
    #[serde(default = "socket_mode", deserialize_with = "permissions")]
    pub(super) socket_mode: u32,
    pub(super) control: Option<PathBuf>,
    /// Metrics and the page are here.
    pub(super) http: Option<HttpAddress>,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default = "stop_timeout", deserialize_with = "duration")]
    pub(super) stop_timeout: Duration,
    #[serde(default)]
    pub(super) log: LogLevel,
    #[serde(default)]
    pub(super) cache: CachePlan,
    #[serde(default)]
    pub(super) limits: LimitsPlan,
    pub(super) tls: Option<TlsPlan>,
    #[serde(rename = "export", default)]
    pub(super) exports: Vec<ExportPlan>,
    /// Of one start, so a file cannot say it.
    #[serde(skip)]
    pub(super) stale_ssd: StaleSsd,
}

/// The tiers that all exports share.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct CachePlan {
    #[serde(deserialize_with = "size")]
    pub(super) ram_size: u64,
    pub(super) ssd_file: Option<PathBuf>,
    #[serde(deserialize_with = "some_size")]
    pub(super) ssd_size: Option<u64>,
    /// Bytes a day.
    #[serde(deserialize_with = "some_size")]
    pub(super) ssd_write_budget: Option<u64>,
    /// See [`terrace::Config::ordered_destage`].
    pub(super) ordered: bool,
    #[serde(deserialize_with = "block_size")]
    pub(super) block_size: BlockSize,
    /// What clients ask for is recorded here, from the start on.
    pub(super) record: Option<PathBuf>,
    /// The most that all its files take.
    #[serde(deserialize_with = "some_size")]
    pub(super) record_size: Option<u64>,
}

impl Default for CachePlan {
    fn default() -> Self {
        Self {
            ram_size: RAM_BYTES,
            ssd_file: None,
            ssd_size: None,
            ssd_write_budget: None,
            ordered: false,
            block_size: BlockSize::DEFAULT,
            record: None,
            record_size: None,
        }
    }
}

/// What clients may take of the server; see [`terrace_nbd::Limits`].
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct LimitsPlan {
    pub(super) connections: usize,
    pub(super) requests: usize,
    #[serde(deserialize_with = "size")]
    pub(super) memory: u64,
    #[serde(deserialize_with = "duration")]
    pub(super) handshake_time: Duration,
}

impl Default for LimitsPlan {
    fn default() -> Self {
        let limits = terrace_nbd::Limits::default();
        Self {
            connections: limits.connections_max,
            requests: limits.requests_max,
            memory: limits.bytes_max,
            handshake_time: limits.handshake_time,
        }
    }
}

impl LimitsPlan {
    pub(super) fn limits(&self) -> terrace_nbd::Limits {
        terrace_nbd::Limits {
            connections_max: self.connections,
            requests_max: self.requests,
            bytes_max: self.memory,
            handshake_time: self.handshake_time,
            ..terrace_nbd::Limits::default()
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TlsPlan {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: Option<PathBuf>,
}

/// One disk.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ExportPlan {
    /// What clients ask for, and under what the cache file remembers it.
    #[serde(default)]
    pub(super) name: String,
    pub(super) backing: PathBuf,
    #[serde(default)]
    pub(super) write: Mode,
    #[serde(default)]
    pub(super) read_only: bool,
    /// See [`terrace::AttachOptions::exclusive`].
    #[serde(default)]
    pub(super) exclusive: bool,
    /// See [`terrace::AttachOptions::mark`].
    pub(super) mark: Option<PathBuf>,
    /// See [`terrace::AttachOptions::generation`].
    pub(super) generation: Option<u64>,
    #[serde(default)]
    pub(super) description: String,
}

impl ExportPlan {
    /// The mode of its volume: nothing that is only read is ever on its way.
    pub(super) fn mode(&self) -> WriteMode {
        if self.read_only { WriteMode::Through } else { self.write.into() }
    }
}

/// The name of an export that was given none.
pub(super) fn name_of(backing: &Path) -> String {
    backing.file_name().map_or_else(|| "disk".into(), |name| name.to_string_lossy().into_owned())
}

/// What is done with an SSD that has newer blocks of a disk and is away, or was
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum StaleSsd {
    /// Serve nothing
    #[default]
    Refuse,
    /// Give up, for good, what only the SSD has
    Forget,
    /// Take what the SSD has for newer than the disk, though that was written since
    Believe,
}

impl From<StaleSsd> for terrace::StaleSsd {
    fn from(choice: StaleSsd) -> Self {
        match choice {
            StaleSsd::Refuse => Self::Refuse,
            StaleSsd::Forget => Self::Forget,
            StaleSsd::Believe => Self::Believe,
        }
    }
}

/// How much is logged
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogLevel {
    /// Nothing but what ends the service
    Off,
    /// What went wrong for good
    Error,
    /// What may need someone's attention
    #[default]
    Warn,
    /// Changes of what is served, and clients that break the protocol
    Info,
    /// Clients coming and going
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Where clients come in: `unix:PATH` or `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected unix:PATH or HOST:PORT, such as unix:/run/terrace.sock or 127.0.0.1:10809";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(expected.into()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(expected)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(expected.into());
        }
        Ok(Self::Tcp(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where metrics and the page are: `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HttpAddress(pub(super) String);

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(Address::Tcp(address)) => Ok(Self(address)),
            _ => Err("expected HOST:PORT, such as 127.0.0.1:10808".into()),
        }
    }
}

impl<'de> Deserialize<'de> for HttpAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text or a number, which is taken for the same text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(u64),
    Text(String),
}

fn quantity<'de, D: Deserializer<'de>>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<u64, String>,
) -> Result<u64, D::Error> {
    let expected = || serde::de::Error::custom("expected a text such as \"1GiB\", \"30s\" or a whole number");
    let text = match Quantity::deserialize(deserializer).map_err(|_| expected())? {
        Quantity::Number(number) => number.to_string(),
        Quantity::Text(text) => text,
    };
    parse(&text).map_err(serde::de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    quantity(deserializer, parse_size)
}

fn some_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    quantity(deserializer, parse_duration_ns).map(Duration::from_nanos)
}

fn block_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BlockSize, D::Error> {
    BlockSize::new(size(deserializer)?).map_err(serde::de::Error::custom)
}

/// Permissions as `chmod` takes them, in octal.
pub(super) fn parse_permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777);
    mode.ok_or_else(|| "expected permissions in octal, such as 0660".into())
}

fn permissions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    // A number would be taken for decimal.
    parse_permissions(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn socket_mode() -> u32 {
    SOCKET_MODE
}

fn stop_timeout() -> Duration {
    STOP_TIMEOUT
}

impl Plan {
    /// What the file at `path` says; paths in it are relative to its folder.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::caused(format!("cannot read {shown}"), error)
                .remedy("name a file of TOML that you may read")
        })?;
        let mut plan = Self::parse(&text).map_err(|what| {
            Failure::input(format!("{shown}: {what}")).remedy("`terrace serve --help` shows a whole file")
        })?;
        plan.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(plan)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut plan: Self = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count() + 1);
            let line = line.map_or_else(String::new, |line| format!("line {line}: "));
            line + &error.message().replace('\n', " ")
        })?;
        for export in &mut plan.exports {
            if export.name.is_empty() {
                export.name = name_of(&export.backing);
            }
        }
        Ok(plan)
    }

    fn resolve(&mut self, folder: &Path) {
        let join = |path: &mut PathBuf| *path = folder.join(&path);
        for address in &mut self.listen {
            if let Address::Unix(path) = address {
                join(path);
            }
        }
        self.control.as_mut().map(join);
        self.cache.ssd_file.as_mut().map(join);
        self.cache.record.as_mut().map(join);
        if let Some(tls) = &mut self.tls {
            join(&mut tls.cert);
            join(&mut tls.key);
            tls.ca.as_mut().map(join);
        }
        for export in &mut self.exports {
            join(&mut export.backing);
            export.mark.as_mut().map(join);
        }
    }

    /// Puts the control socket beside the first Unix socket, if it was told nowhere.
    pub(super) fn place_control(&mut self) {
        let beside = |address: &Address| match address {
            Address::Unix(path) => Some(super::control::beside(path)),
            Address::Tcp(_) => None,
        };
        self.control = self.control.take().or_else(|| self.listen.iter().find_map(beside));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_whole_plan_and_says_the_defaults_of_what_it_says_so() {
        let plan = Plan::parse(include_str!("terrace.toml")).expect("the example is right");
        assert_eq!(plan.listen.len(), 2);
        assert_eq!(plan.http, Some(HttpAddress("127.0.0.1:10808".into())));
        assert_eq!((plan.cache.ram_size, plan.cache.ssd_size), (4 << 30, Some(100 << 30)));
        assert_eq!(plan.limits, LimitsPlan::default());
        assert_eq!((plan.stop_timeout, plan.log), (STOP_TIMEOUT, LogLevel::default()));
        assert_eq!(plan.socket_mode, SOCKET_MODE);
        assert_eq!(plan.cache.block_size, BlockSize::DEFAULT);
        assert_eq!(plan.exports[0].write, Mode::BackSsd);
    }

    #[test]
    fn a_file_of_one_line_has_the_defaults_of_everything_else() {
        let plan = Plan::parse("[[export]]\nbacking = \"/srv/disk.img\"").expect("it is enough");
        assert_eq!(plan.cache, CachePlan::default());
        assert_eq!((plan.exports[0].name.as_str(), plan.exports[0].write), ("disk.img", Mode::Through));
        assert_eq!(plan.control, None);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_its_line() {
        for (text, said) in [
            ("\n\nlisten = 5", "line 3: "),
            ("[cache]\nram-size = \"lots\"", "line 2: "),
            ("[cache]\nblock-size = 12288", "line 2: block size 12288 is not a power of two"),
            ("[cache]\nram = 5", "line 2: unknown field `ram`"),
            ("listen = [\"nowhere\"]", "expected unix:PATH or HOST:PORT"),
            ("http = \"unix:/x\"", "line 1: expected HOST:PORT"),
            ("socket-mode = \"0999\"", "line 1: expected permissions in octal"),
            ("socket-mode = 660", "line 1: "),
            ("[[export]]\nname = \"x\"", "missing field `backing`"),
            ("[[export]]\nbacking = \"x\"\nwrite = \"later\"", "line 3: unknown variant `later`"),
        ] {
            let what = Plan::parse(text).expect_err(text);
            assert!(what.contains(said) && !what.contains('\n'), "{text}: {what}");
        }
    }

    #[test]
    fn paths_in_a_file_begin_at_its_folder() {
        let text = "listen = [\"unix:s\"]\n[cache]\nrecord = \"r\"\nrecord-size = \"64MiB\"\n[[export]]\n\
                    backing = \"disk\"\nmark = \"m\"";
        let mut plan = Plan::parse(text).expect("it is right");
        plan.resolve(Path::new("/srv"));
        assert_eq!(plan.listen, [Address::Unix("/srv/s".into())]);
        assert_eq!(plan.exports[0].backing, Path::new("/srv/disk"));
        assert_eq!(plan.exports[0].mark, Some("/srv/m".into()));
        assert_eq!(
            (plan.cache.record.clone(), plan.cache.record_size),
            (Some("/srv/r".into()), Some(64 << 20))
        );
        plan.place_control();
        assert_eq!(plan.control, Some("/srv/s.control".into()));
    }

    #[test]
    fn addresses_are_a_unix_path_or_a_host_with_a_port() {
        for text in ["unix:/x", "127.0.0.1:10809", "[::1]:0", "example.org:10809"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_string()));
        }
        for text in ["", "unix:", "/x", ":10809", "host", "host:", "host:70000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
