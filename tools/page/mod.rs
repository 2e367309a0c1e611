//! The page of `terrace tune --report`: one file with everything in it, no network, light and dark, fit to be printed.
//!
//! Plots are drawn by the library `plotters` as SVG: of those that draw without a browser it has been kept longest and
//! brings the least along. It knows colours by value only; [`canvas`] names each by its role, and on the page roles become
//! CSS variables, so that one drawing serves both themes. Files of `--svg` keep the light colours.
//!
//! The script only shows what the pointer is on; without it the page says the same.

pub(crate) mod axes;
pub(crate) mod canvas;
mod maps;
mod plots;

use std::fmt::Write as _;
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::tune::{Candidate, MEASURED_HEAD, Measured, Report, changes, measured_row, show_years, sizes};
use crate::units::{show_bytes, show_count, show_us};

/// The colours of both themes, by role.
pub(crate) const THEME: &str = include_str!("theme.css");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// A drawing, and the words that go with it.
struct Plot {
    /// Of its file and its figure.
    name: &'static str,
    title: String,
    caption: String,
    svg: String,
    /// Data marks that must be in it.
    marks: usize,
}

fn plots(report: &Report) -> Vec<Plot> {
    // A cache that runs tells no more of its traffic than what other sizes would make of it.
    let of_trace = report.profile.as_ref();
    let has_ssd = report.surface.iter().any(|one| one.cell.ssd_bytes > 0);
    let plots = [
        Some(maps::surface(report)),
        has_ssd.then(|| plots::disk_reads(report)),
        report.curves.as_ref().map(|curves| plots::curves(curves, report.curve_errors.as_ref())),
        has_ssd.then(|| plots::wear(report)),
        Some(plots::latency(report)),
        of_trace.map(plots::request_sizes),
        of_trace.map(|profile| maps::reuse_distances(profile, report.block_bytes)),
        of_trace.map(plots::working_set),
    ];
    // Axes alone show nothing: in a short trace no block may be used twice.
    plots.into_iter().flatten().filter(|plot| plot.marks > 0).collect()
}

/// Whether there is a place for a page at `path`: to be told so before minutes of work, and not behind them.
///
/// # Errors
/// When it has no directory, or is one.
pub(crate) fn check_place(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|directory| *directory != Path::new("")).unwrap_or(Path::new("."));
    let found = std::fs::metadata(directory).map_err(|error| cannot_write(path, error))?;
    let error = match (found.is_dir(), path.is_dir()) {
        (false, _) => std::io::ErrorKind::NotADirectory,
        (true, true) => std::io::ErrorKind::IsADirectory,
        (true, false) => return Ok(()),
    };
    Err(cannot_write(path, error.into()))
}

/// As [`check_place`], of a directory that is made when it is missing.
///
/// # Errors
/// When something else is there, or on the way to it.
pub(crate) fn check_directory(path: &Path) -> Result<()> {
    match path.ancestors().find_map(|path| std::fs::metadata(path).ok()) {
        Some(found) if !found.is_dir() => Err(cannot_write(path, std::io::ErrorKind::NotADirectory.into())),
        _ => Ok(()),
    }
}

/// Writes the page to `path`.
pub(crate) fn write(report: &Report, path: &Path) -> Result<()> {
    save(path, &page(report))
}

/// Writes every plot to a file of its own in `directory`.
pub(crate) fn write_plots(report: &Report, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|error| cannot_write(directory, error))?;
    plots(report).iter().try_for_each(|plot| save(&directory.join(format!("{}.svg", plot.name)), &plot.svg))
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| cannot_write(path, error))
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::caused(format!("cannot write {}", path.display()), error)
        .remedy("name a place that you may write to")
}

/// The whole page.
fn page(report: &Report) -> String {
    // `<` cannot end the script element early; JSON has no other place for it than strings.
    let json = serde_json::to_string(report).expect("plain data always serialises").replace('<', "\\u003c");
    let figures: String = plots(report).iter().map(figure).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>Terrace: sizes for {trace}</title>\n<style>\n{THEME}{STYLE}</style>\n</head>\n<body>\n<main>\n{head}\
         <div class=\"figures\">\n{figures}</div>\n{measured}{table}{method}</main>\n<div id=\"tip\" role=\"status\" hidden></div>\n\
         <script type=\"application/json\" id=\"data\">{json}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        trace = escape(&report.trace),
        head = head(report),
        measured = measured(report),
        table = table(report),
        method = method(report),
    )
}

fn figure(plot: &Plot) -> String {
    format!(
        "<figure id=\"{}\" data-marks=\"{}\">\n<h2>{}</h2>\n<div class=\"plot\">{}</div>\n<figcaption>{}</figcaption>\n\
         </figure>\n",
        plot.name,
        plot.marks,
        escape(&plot.title),
        canvas::themed(&plot.svg),
        escape(&plot.caption),
    )
}

fn head(report: &Report) -> String {
    let data = report.recommendation.map_or(String::new(), |taken| {
        format!(" data-ram=\"{}\" data-ssd=\"{}\"", taken.cell.ram_bytes, taken.cell.ssd_bytes)
    });
    let mut text = format!(
        "<header>\n<p class=\"eyebrow\">What to buy for {}</p>\n<h1 id=\"recommendation\"{data}>{}</h1>\n",
        escape(&report.trace),
        escape(&report.sentence()),
    );
    if let Some(taken) = &report.recommendation {
        text.push_str(&tiles(taken));
    }
    let mut notes = Vec::new();
    if let Some(other) = &report.runner_up {
        notes.push(format!(
            "Runner-up: {}, {} a read, price {:.2}.",
            sizes(other.cell.ram_bytes, other.cell.ssd_bytes),
            show_us(other.read_mean_us),
            other.price
        ));
    }
    notes.extend(changes(report));
    list(&mut text, "notes", &notes);
    list(&mut text, "warnings", &report.warnings);
    text.push_str("</header>\n");
    text
}

fn list(text: &mut String, class: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    write!(text, "<ul class=\"{class}\">").expect("a string takes everything");
    for line in lines {
        write!(text, "<li>{}</li>", with_flags_whole(&escape(line))).expect("a string takes everything");
    }
    text.push_str("</ul>\n");
}

/// The same text, in which no line ends inside a flag.
fn with_flags_whole(text: &str) -> String {
    let whole = |word: &str| match word.starts_with("--") {
        true => format!("<code>{word}</code>"),
        false => word.to_string(),
    };
    text.split(' ').map(whole).collect::<Vec<_>>().join(" ")
}

/// The figures of the recommendation.
fn tiles(taken: &Candidate) -> String {
    let unknown = || "not known".to_string();
    let tile = |name: &str, value: String| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    let tiles = [
        tile("mean read", show_us(taken.read_mean_us)),
        tile("99th percentile", show_us(taken.read_p99_us)),
        tile("from RAM", percent(taken.cell.ram_share)),
        tile("from the SSD", percent(taken.cell.ssd_share)),
        tile("from the disk", percent(taken.cell.disk_share)),
        tile("RAM, index included", show_bytes(taken.ram_bytes_total)),
        tile(
            "SSD lasts",
            if taken.cell.ssd_bytes == 0 {
                "no SSD".into()
            } else {
                taken.life_years.map_or_else(unknown, show_years)
            },
        ),
        tile("price", format!("{:.2}", taken.price)),
    ];
    format!("<dl class=\"tiles\">{}</dl>\n", tiles.concat())
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// What replays measured, beside what was predicted of them.
fn measured(report: &Report) -> String {
    if report.measured.is_empty() {
        return String::new();
    }
    let cell = |cell: String| format!("<td>{}</td>", escape(&cell));
    let row = |one: &Measured| format!("<tr>{}</tr>\n", measured_row(one).map(cell).concat());
    let rows: String = report.measured.iter().map(row).collect();
    let head = MEASURED_HEAD.map(|name| format!("<th>{name}</th>")).concat();
    format!(
        "<section>\n<h2>Predicted and measured</h2>\n<p>Replays with real reads and writes: shares of reads as they were \
         predicted, as they were measured, and the difference in percentage points.</p>\n<div class=\"scroll\">\
         <table id=\"measured\"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n</section>\n"
    )
}

/// All candidates, the cheapest first.
fn table(report: &Report) -> String {
    let mut candidates: Vec<&Candidate> = report.surface.iter().collect();
    candidates.sort_by(|one, other| one.price.total_cmp(&other.price));
    let mut rows = String::new();
    for one in candidates {
        let class = if report.recommendation.is_some_and(|taken| taken == *one) {
            " class=\"taken\""
        } else if !report.constraints.keeps(one) {
            " class=\"refused\""
        } else {
            ""
        };
        let cells = cells(one).map(|cell| format!("<td>{}</td>", escape(&cell))).concat();
        writeln!(rows, "<tr{class}>{cells}</tr>").expect("a string takes everything");
    }
    let head = [
        "RAM",
        "index",
        "SSD",
        "from RAM",
        "from SSD",
        "from disk",
        "mean",
        "p99",
        "written a day",
        "amplification",
        "life",
        "price",
    ];
    let head = head.map(|name| format!("<th>{name}</th>")).concat();
    format!(
        "<section>\n<h2>Every pair of sizes</h2>\n<p>The cheapest first; in italics what breaks a constraint.</p>\n<div class=\"scroll\"><table id=\"candidates\"><thead><tr>{head}</tr>\
         </thead><tbody>\n{rows}</tbody></table></div>\n</section>\n"
    )
}

fn cells(one: &Candidate) -> [String; 12] {
    let unknown = || "–".to_string();
    let share = |share: f64, error: f64| {
        if error > 0.0 { format!("{:.1} ± {:.1} %", share * 100.0, error * 100.0) } else { percent(share) }
    };
    [
        show_bytes(one.cell.ram_bytes),
        show_bytes(one.cell.index_bytes),
        if one.cell.ssd_bytes == 0 { unknown() } else { show_bytes(one.cell.ssd_bytes) },
        share(one.cell.ram_share, one.cell.ram_share_error),
        percent(one.cell.ssd_share),
        share(one.cell.disk_share, one.cell.disk_share_error),
        show_us(one.read_mean_us),
        show_us(one.read_p99_us),
        one.ssd_bytes_a_day
            .filter(|_| one.cell.ssd_bytes > 0)
            .map_or_else(unknown, |bytes| show_bytes(bytes as u64)),
        one.cell.write_amplification.map_or_else(unknown, |factor| format!("{factor:.2}")),
        one.life_years.map_or_else(unknown, show_years),
        format!("{:.2}", one.price),
    ]
}

/// How it was computed.
fn method(report: &Report) -> String {
    let world = &report.world;
    let latency = |latency: crate::tune::Latency| {
        format!(
            "{} on average and {} at the 99th percentile",
            show_us(latency.mean_us),
            show_us(latency.p99_us)
        )
    };
    let how = match report.method {
        "exact" => {
            "Every request of the trace was simulated with the cache's own policies, for each RAM size over each SSD size."
                .to_string()
        }
        "live" => format!(
            "The cache ran its own policies over ids of {:.2} % of the blocks it was asked for, in {} samples and with all \
             sizes scaled alike; errors are half of a 95 % interval over the samples, and half a point for the scaling.",
            report.sample_rate * 100.0,
            report.samples
        ),
        _ => format!(
            "The cache's own policies were simulated on {} samples of {:.2} % of the blocks, with all sizes scaled alike; \
             errors are half of a 95 % interval over the samples, and half a point for the scaling itself.",
            report.samples,
            report.sample_rate * 100.0
        ),
    };
    let recorded = report.units.as_ref().zip(report.volumes).zip(report.format);
    let traffic = match recorded {
        Some(((units, volumes), format)) => format!(
            "{} The trace is {}: {}.",
            crate::tune::traffic(report),
            format.name(),
            crate::tune::recorded(units, report.trace_seconds, volumes)
        ),
        None => crate::tune::traffic(report),
    };
    let lines = [
        traffic,
        how,
        format!(
            "Of the pairs that keep every constraint, the cheapest is taken whose mean read latency is at most {} % above \
             that of the best. The runner-up is what the same rule takes without it.",
            report.constraints.within_percent
        ),
        format!(
            "A hit in RAM takes {}, a read of the SSD {}, a read of the disk {}.",
            latency(world.ram_latency),
            latency(world.ssd_latency),
            latency(world.disk_latency)
        ),
        "Each device's latency is taken as lognormal; the percentile is that of the mixture.".to_string(),
        format!(
            "A GiB of RAM costs {:.2}, of SSD {:.2}. The SSD's index takes 20 bytes of RAM a block, which count as RAM. The \
             SSD may be written {:.0} times over and writes {:.1} bytes inside for each it is given.",
            world.ram_price, world.ssd_price, world.ssd_endurance, world.ssd_inner_amplification
        ),
    ];
    let mut text = String::from("<section>\n<h2>How it was computed</h2>\n");
    list(&mut text, "method", &lines);
    text.push_str(&variants(report));
    text.push_str("</section>\n");
    text
}

fn variants(report: &Report) -> String {
    let row = |variant: &crate::tune::Variant| {
        let cells = [
            show_bytes(variant.block_bytes),
            show_bytes(variant.shift_bytes),
            show_count(variant.references),
            format!("{:.0}", variant.disk_reads_per_1000_requests),
            show_bytes(variant.disk_bytes_read as u64),
            show_bytes(variant.ssd_bytes_written as u64),
            show_bytes(variant.index_bytes),
        ];
        format!("<tr>{}</tr>\n", cells.map(|cell| format!("<td>{cell}</td>")).concat())
    };
    if report.variants.is_empty() {
        return String::new();
    }
    let rows: String = report.variants.iter().map(row).collect();
    format!(
        "<h3>Other blocks at the recommended sizes</h3>\n<div class=\"scroll\"><table id=\"variants\"><thead><tr>\
         <th>block</th><th>shift</th><th>references</th><th>disk reads for 1000 requests</th><th>read from the disk</th>\
         <th>written to the SSD</th><th>index</th></tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

/// Text as it stands in HTML, in an attribute too.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
