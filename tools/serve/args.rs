//! The arguments of `terrace serve`, and the plan that they come to.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use terrace::BlockSize;

use super::plan::{
    Address, CachePlan, ExportPlan, HttpAddress, LimitsPlan, LogLevel, Plan, SOCKET_MODE, StaleSsd, TlsPlan,
    name_of, parse_permissions,
};
use crate::failure::{Failure, Result};
use crate::man::VERBATIM;
use crate::mode::Mode;
use crate::units::{parse_block_size, parse_duration_ns, parse_size};

const EXAMPLES: &str = "Examples:
  terrace serve --backing disk.img --ram-size 1GiB --ssd-file /ssd/blocks --ssd-size 100GiB --listen unix:/run/t.sock
  nbdinfo nbd+unix:///?socket=/run/t.sock
  terrace ctl --socket /run/t.sock.control stats

SIGTERM and SIGINT let clients finish what they began, make everything durable and end. A second one cuts clients off; a
third ends at once, and what was not flushed may be lost. SIGHUP reads the file of --config again: limits, certificates,
addresses, sizes, modes and exports change in use. Exit codes: 0, all is durable; 1, not all is; 2, nothing was served.

A whole file for --config:

";

/// Behind the flags. The file is set off as it is, also in the manual.
fn examples() -> String {
    let line = |line: &str| if line.is_empty() { "\n".into() } else { format!("{VERBATIM}{line}\n") };
    EXAMPLES.to_owned() + &include_str!("terrace.toml").lines().map(line).collect::<String>()
}

/// Serve disks behind the tiers as network block devices (NBD)
///
/// One disk by flags, or several over one cache by a file. Sizes are bytes or carry a unit, a power of 1024 however it
/// is spelled: 4096, 16k, 64MiB, 1GiB.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = examples())]
pub(crate) struct ServeArgs {
    /// A file of TOML with all that follows, and any number of exports; SIGHUP has it read again
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_ONE)]
    pub(super) config: Option<PathBuf>,

    /// The slow disk: a file or block device that is there, and that nobody else writes to
    #[arg(long, value_name = "PATH", required_unless_present = "config", help_heading = "Export")]
    pub(super) backing: Option<PathBuf>,

    /// What clients ask for, and under what the cache file remembers the disk [default: the backing file's name]
    #[arg(long, value_name = "NAME", help_heading = "Export")]
    pub(super) export: Option<String>,

    /// When a write is acknowledged. A flush makes it durable, whatever the mode
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Mode::Through, help_heading = "Export")]
    pub(super) write: Mode,

    /// Let nobody write
    #[arg(long, help_heading = "Export")]
    pub(super) read_only: bool,

    /// Nobody else writes to the disk, also while it is not served: copies on the SSD then outlive a crash, and those of a
    /// block device a restart
    #[arg(long, requires = "ssd_file", help_heading = "Export")]
    pub(super) exclusive: bool,

    /// File that says which SSD has newer blocks of the disk [default: beside a backing file, with .terrace behind its name;
    /// none for a block device]
    #[arg(long, value_name = "PATH", help_heading = "Export")]
    pub(super) mark: Option<PathBuf>,

    /// Your own number for what the disk holds, in place of its time of change: copies on the SSD outlive a restart if it is
    /// the same. Give another one after the disk was changed without the service; for block devices, which have no such
    /// time [default: a file's time of change, size and inode]
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "ssd_file",
        conflicts_with = "exclusive",
        help_heading = "Export"
    )]
    pub(super) generation: Option<u64>,

    /// RAM for blocks, their directory included; the SSD index comes on top, 20 bytes a block [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Tiers")]
    pub(super) ram_size: Option<u64>,

    /// Cache file or block device on the SSD; a file is made when it is missing. Without it there is no second tier
    #[arg(long, value_name = "PATH", requires = "ssd_size", help_heading = "Tiers")]
    pub(super) ssd_file: Option<PathBuf>,

    /// Size of the cache file; one that is there is made larger or smaller
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "ssd_file", help_heading = "Tiers")]
    pub(super) ssd_size: Option<u64>,

    /// Bytes a day that may be written to the SSD for clean blocks: its rated endurance over the days it is to last
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "ssd_file", help_heading = "Tiers")]
    pub(super) ssd_write_budget: Option<u64>,

    /// What --write back-ssd left on the SSD goes on to the disk flush by flush, so that the disk alone is at any moment what
    /// some flush left and a part of what came next: for a disk that must be of use when the SSD dies. It costs more
    /// writes there, one of a block for each flush that it was written before
    #[arg(long, requires = "ssd_file", help_heading = "Tiers")]
    pub(super) ordered: bool,

    /// Unit of caching: a power of two from 4KiB to 1MiB. Larger blocks cost less index and more bytes a miss. A cache
    /// file keeps the one that it was made with
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = parse_block_size, help_heading = "Tiers")]
    pub(super) block_size: BlockSize,

    /// What to do about a disk whose newest blocks are on an SSD that is not the one given, or that the disk was written
    /// without since. Only for this start
    #[arg(long, value_name = "CHOICE", value_enum, default_value_t = StaleSsd::Refuse, help_heading = "Tiers")]
    pub(super) stale_ssd: StaleSsd,

    /// unix:PATH or HOST:PORT; may be repeated. Needed unless sockets are passed by systemd
    #[arg(long, value_name = "ADDRESS", help_heading = "Clients")]
    pub(super) listen: Vec<Address>,

    /// Permissions of the Unix sockets of --listen, in octal: who may write to one may read and write the disk, and 0660 lets the
    /// group do that [default: 0600]
    #[arg(long, value_name = "MODE", value_parser = parse_permissions, help_heading = "Clients")]
    pub(super) socket_mode: Option<u32>,

    /// Socket of `terrace ctl`, for the owner alone [default: beside the first Unix socket, with .control behind its
    /// name]
    #[arg(long, value_name = "PATH", help_heading = "Clients")]
    pub(super) control: Option<PathBuf>,

    /// HOST:PORT of a page that shows what the service does, of metrics for Prometheus at /metrics, and of /healthz. All of
    /// it is only read, by whoever reaches the address [default: none]
    #[arg(long, value_name = "ADDRESS", help_heading = "Service")]
    pub(super) http: Option<HttpAddress>,

    /// Clients at a time
    #[arg(long, value_name = "COUNT", default_value_t = LimitsPlan::default().connections, help_heading = "Clients")]
    pub(super) connections: usize,

    /// Certificate of the server, in PEM; TLS is then offered on Unix sockets and demanded over TCP. Pre-shared keys are not taken
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Clients")]
    pub(super) tls_cert: Option<PathBuf>,

    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Clients")]
    pub(super) tls_key: Option<PathBuf>,

    /// Authorities that sign the certificates of clients, in PEM: who has none is turned away
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Clients")]
    pub(super) tls_ca: Option<PathBuf>,

    /// Let --listen without TLS, and --http, be on addresses that others can reach: whoever reaches the one reads and
    /// writes the disk, whoever reaches the other sees what the service does
    #[arg(long, help_heading = "Clients")]
    pub(super) insecure: bool,

    /// Record what clients ask for, without the bytes, in files PATH.1, PATH.2 and so on, from the start on: `terrace trace`,
    /// `tune` and `replay` take PATH as one trace. `terrace ctl record` does it in use
    #[arg(long, value_name = "PATH", help_heading = "Service")]
    pub(super) record: Option<PathBuf>,

    /// The most that all files of --record take together; the oldest go [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "record", help_heading = "Service")]
    pub(super) record_size: Option<u64>,

    /// How long ending may take, after which what is not durable is said and left
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration, help_heading = "Service")]
    pub(super) stop_timeout: Duration,

    /// What is logged, on standard error [default: warn, or what the file says]
    #[arg(long, value_name = "LEVEL", value_enum, help_heading = "Service")]
    pub(super) log: Option<LogLevel>,
}

/// What a file says in their place.
const OF_ONE: [&str; 25] = [
    "backing",
    "export",
    "write",
    "read_only",
    "exclusive",
    "mark",
    "generation",
    "ram_size",
    "ssd_file",
    "ssd_size",
    "ssd_write_budget",
    "ordered",
    "block_size",
    "listen",
    "socket_mode",
    "control",
    "http",
    "connections",
    "tls_cert",
    "tls_key",
    "tls_ca",
    "insecure",
    "record",
    "record_size",
    "stop_timeout",
];

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_ns(text).map(Duration::from_nanos)
}

impl ServeArgs {
    pub(super) fn plan(&self) -> Result<Plan> {
        let mut plan = match &self.config {
            Some(path) => Plan::load(path)?,
            None => self.plan_of_one()?,
        };
        plan.stale_ssd = self.stale_ssd;
        if let Some(log) = self.log {
            plan.log = log;
        }
        Ok(plan)
    }

    fn plan_of_one(&self) -> Result<Plan> {
        let backing = self.backing.clone().ok_or_else(|| {
            Failure::input("there is nothing to serve")
                .remedy("name a disk by --backing, or a file by --config")
        })?;
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Ok(Plan {
            listen: self.listen.clone(),
            socket_mode: self.socket_mode.unwrap_or(SOCKET_MODE),
            control: self.control.clone(),
            http: self.http.clone(),
            insecure: self.insecure,
            stop_timeout: self.stop_timeout,
            log: LogLevel::default(),
            cache: CachePlan {
                ram_size: self.ram_size.unwrap_or(super::plan::RAM_BYTES),
                ssd_file: self.ssd_file.clone(),
                ssd_size: self.ssd_size,
                ssd_write_budget: self.ssd_write_budget,
                ordered: self.ordered,
                block_size: self.block_size,
                record: self.record.clone(),
                record_size: self.record_size,
            },
            limits: LimitsPlan { connections: self.connections, ..LimitsPlan::default() },
            tls: tls.map(|(cert, key)| TlsPlan { cert, key, ca: self.tls_ca.clone() }),
            exports: vec![ExportPlan {
                name: self.export.clone().unwrap_or_else(|| name_of(&backing)),
                backing,
                write: self.write,
                read_only: self.read_only,
                exclusive: self.exclusive,
                mark: self.mark.clone(),
                generation: self.generation,
                description: String::new(),
            }],
            stale_ssd: self.stale_ssd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::plan::STOP_TIMEOUT;

    #[test]
    fn the_file_that_the_help_shows_is_one_on_a_terminal_of_eighty_columns() {
        let mut command = clap::Command::new("serve").term_width(80).after_long_help(examples());
        let help = command.render_long_help().to_string();
        let file = help.split("A whole file for --config:\n").nth(1).expect("there is one");
        let shown: Vec<&str> = file.trim().lines().map(str::trim).collect();
        let lines: Vec<&str> = include_str!("terrace.toml").trim().lines().map(str::trim).collect();
        assert_eq!(shown, lines);
    }

    #[test]
    fn the_default_time_to_stop_is_the_one_of_files() {
        assert_eq!(duration("60s"), Ok(STOP_TIMEOUT));
    }
}
