//! The plots with axes: lines, bands and bars.

use std::fmt::Write as _;

use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Plot;
use super::axes::{Bytes, Powers, Slots, Times, axes, bytes, legend, line, percent};
use super::canvas::{INK, MARK, MUTED, SERIES, draw, text};
use super::maps::time;
use crate::tune::{Candidate, CurveErrors, CurvePoint, Curves, Profile, Report, show_years, sizes};
use crate::units::{show_bytes, show_us};

/// Disk reads by SSD size, for up to four RAM sizes, the recommended one among them, with their error bands.
pub(super) fn disk_reads(report: &Report) -> Plot {
    let rows = rows(report);
    let taken = report.recommendation.or(report.fastest).map_or(0, |one| one.cell.ram_bytes);
    let at = rows.iter().position(|row| row[0].cell.ram_bytes == taken).unwrap_or(0);
    let shown: Vec<&[Candidate]> = spread(rows.len(), at).into_iter().map(|index| rows[index]).collect();
    let with_ssd = |row: &[Candidate]| {
        row.iter().filter(|one| one.cell.ssd_bytes > 0).copied().collect::<Vec<Candidate>>()
    };
    let x = || Powers::around(report.surface.iter().map(|one| one.cell.ssd_bytes));
    let svg = draw(|area| {
        let mut chart = axes(
            area,
            x(),
            RangedCoordf64::from(0.0..1.0),
            ["SSD", "reads that wait for the disk"],
            [&bytes, &percent],
        )?;
        for (row, &color) in shown.iter().zip(&SERIES) {
            let points = with_ssd(row);
            let at = |one: &Candidate, sign: f64| {
                let share = one.cell.disk_share + sign * one.cell.disk_share_error;
                (one.cell.ssd_bytes as f64, share.clamp(0.0, 1.0))
            };
            let band: Vec<(f64, f64)> = points
                .iter()
                .map(|one| at(one, 1.0))
                .chain(points.iter().rev().map(|one| at(one, -1.0)))
                .collect();
            chart.draw_series(std::iter::once(Polygon::new(band, color.mix(0.16))))?;
            let name = format!("RAM {}", show_bytes(row[0].cell.ram_bytes));
            line(&mut chart, points.iter().map(|one| at(one, 0.0)).collect(), color, &name)?;
            let dots = points.iter().map(|one| Circle::new(at(one, 0.0), 3, color.filled()));
            chart.draw_series(dots)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    });
    let marks = shown.iter().map(|row| with_ssd(row).len()).sum::<usize>() + shown.len();
    let caption = if report.method == "exact" {
        "Simulated exactly: there is no error to show.".into()
    } else {
        format!("Bands: 95 % intervals over {} samples.", report.samples)
    };
    Plot { name: "ssd", title: "What more SSD brings".into(), caption, svg, marks }
}

/// Up to four of `count` indices, evenly apart, but that the one nearest to `at` is `at`.
fn spread(count: usize, at: usize) -> Vec<usize> {
    let wanted = count.min(4);
    let mut spread: Vec<usize> = (0..wanted).map(|one| one * (count - 1) / (wanted - 1).max(1)).collect();
    if let Some(nearest) = spread.iter_mut().min_by_key(|one| one.abs_diff(at)) {
        *nearest = at;
    }
    spread
}

/// The surface, a RAM size each.
fn rows(report: &Report) -> Vec<&[Candidate]> {
    report.surface.chunk_by(|one, other| one.cell.ram_bytes == other.cell.ram_bytes).collect()
}

/// RAM alone: LRU's whole curve and the cache's own policy, with the knee, and with their error bands if they have errors.
pub(super) fn curves(curves: &Curves, errors: Option<&CurveErrors>) -> Plot {
    let points = |points: &[CurvePoint]| -> Vec<(f64, f64)> {
        points.iter().map(|point| (point.bytes as f64, point.miss_ratio)).collect()
    };
    let band = |points: &[CurvePoint], errors: &[f64]| -> Vec<(f64, f64)> {
        let at = |(point, error): (&CurvePoint, &f64), sign: f64| {
            (point.bytes as f64, (point.miss_ratio + sign * error).clamp(0.0, 1.0))
        };
        let above = points.iter().zip(errors).map(|pair| at(pair, 1.0));
        above.chain(points.iter().zip(errors).rev().map(|pair| at(pair, -1.0))).collect()
    };
    let bands: Vec<_> = errors.map_or(Vec::new(), |errors| {
        vec![(band(&curves.lru, &errors.lru), SERIES[1]), (band(&curves.arc, &errors.arc), SERIES[0])]
    });
    let said = match errors {
        None => "Both curves are exact for what was read.",
        Some(_) => "The trace was too long to be kept: means of its samples, and 95 % intervals over them.",
    };
    let x = Powers::around(curves.lru.iter().map(|point| point.bytes));
    let knee = (curves.knee.bytes as f64, curves.knee.miss_ratio);
    let ends = x.range();
    let svg = draw(|area| {
        let mut chart = axes(
            area,
            x,
            RangedCoordf64::from(0.0..1.0),
            ["RAM", "references that miss"],
            [&bytes, &percent],
        )?;
        let floor = [(ends.start, curves.compulsory_ratio), (ends.end, curves.compulsory_ratio)];
        for (band, color) in &bands {
            chart.draw_series(std::iter::once(Polygon::new(band.clone(), color.mix(0.16))))?;
        }
        line(&mut chart, floor.to_vec(), MUTED, "first references")?;
        line(&mut chart, points(&curves.lru), SERIES[1], "LRU")?;
        line(&mut chart, points(&curves.arc), SERIES[0], "adaptive (the cache's)")?;
        let dots = points(&curves.arc).into_iter().map(|at| Circle::new(at, 3, SERIES[0].filled()));
        chart.draw_series(dots)?;
        chart.draw_series([Circle::new(knee, 7, MARK.stroke_width(2))])?;
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    });
    Plot {
        name: "curves",
        title: "RAM alone".into(),
        caption: format!(
            "Ring: the knee, at {}, where {:.1} % miss. More RAM than that gives less for its price than up to there. {}",
            show_bytes(curves.knee.bytes),
            curves.knee.miss_ratio * 100.0,
            said
        ),
        svg,
        marks: curves.arc.len() + 3 + bands.len(),
    }
}

/// Bars side by side, each with words above it.
struct Bars<'a> {
    names: Vec<String>,
    /// Stacked from below; the same parts in each bar.
    parts: Vec<Vec<f64>>,
    above: Vec<String>,
    part_names: Vec<&'a str>,
    colors: &'a [RGBColor],
    axes: [&'a str; 2],
    label: &'a dyn Fn(&f64) -> String,
}

impl Bars<'_> {
    /// The drawing, and how many marks it has.
    fn draw(&self) -> (String, usize) {
        self.draw_on(|most| RangedCoordf64::from(0.0..most))
    }

    /// The same where heights are bytes.
    fn draw_bytes(&self) -> (String, usize) {
        self.draw_on(|most| Bytes { most })
    }

    fn draw_on<Y>(&self, y: impl Fn(f64) -> Y) -> (String, usize)
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64> + 'static,
    {
        let most = self.parts.iter().map(|parts| parts.iter().sum::<f64>()).fold(0.0, f64::max).max(1e-9);
        let mut marks = 0;
        // Words stand above the bars, and a legend above those.
        let room = if self.part_names.is_empty() { 1.12 } else { 1.36 };
        let name = |at: &f64| self.names.get(*at as usize).cloned().unwrap_or_default();
        let svg = draw(|area| {
            let x = Slots(self.names.len().max(1));
            let mut chart = axes(area, x, y(most * room), self.axes, [&name, self.label])?;
            for (at, parts) in self.parts.iter().enumerate() {
                let mut bottom = 0.0;
                for (&height, &color) in parts.iter().zip(self.colors) {
                    let corners = [(at as f64 + 0.16, bottom), (at as f64 + 0.84, bottom + height)];
                    chart.draw_series([Rectangle::new(corners, color.filled())])?;
                    bottom += height;
                    marks += 1;
                }
                let style = text(12, &INK).pos(Pos::new(HPos::Center, VPos::Bottom));
                let place = (at as f64 + 0.5, bottom + most * 0.015);
                chart.draw_series([Text::new(
                    self.above.get(at).cloned().unwrap_or_default(),
                    place,
                    style,
                )])?;
            }
            for (name, &color) in self.part_names.iter().zip(self.colors) {
                let nothing: [Rectangle<(f64, f64)>; 0] = [];
                chart
                    .draw_series(nothing)?
                    .label(*name)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
            }
            legend(&mut chart, SeriesLabelPosition::UpperRight)
        });
        (svg, marks)
    }
}

/// What each SSD size writes, and how long it lasts.
pub(super) fn wear(report: &Report) -> Plot {
    let rows = rows(report);
    let taken = report.recommendation.or(report.fastest).map_or(0, |one| one.cell.ram_bytes);
    let row = rows.iter().find(|row| row[0].cell.ram_bytes == taken).or(rows.first());
    let shown: Vec<Candidate> =
        row.map_or(Vec::new(), |row| row.iter().filter(|one| one.cell.ssd_bytes > 0).copied().collect());
    let written = |one: &Candidate| one.ssd_bytes_a_day.unwrap_or(one.cell.ssd_bytes_written);
    let is_daily = report.world.trace_days.is_some();
    let bars = Bars {
        names: shown.iter().map(|one| show_bytes(one.cell.ssd_bytes)).collect(),
        parts: shown.iter().map(|one| vec![written(one)]).collect(),
        above: shown.iter().map(|one| one.life_years.map_or_else(String::new, show_years)).collect(),
        part_names: vec![],
        colors: &SERIES,
        axes: ["SSD", if is_daily { "written a day" } else { "written during the trace" }],
        label: &bytes,
    };
    let (svg, marks) = bars.draw_bytes();
    let ram = show_bytes(row.map_or(0, |row| row[0].cell.ram_bytes));
    let caption = if is_daily {
        format!("With {ram} of RAM. Above each bar: how long an SSD of that size lasts.")
    } else {
        format!("With {ram} of RAM. The trace has no times, so it is not known how long an SSD lasts.")
    };
    Plot { name: "wear", title: "What the SSD is written".into(), caption, svg, marks }
}

/// Where a read's mean time is spent.
pub(super) fn latency(report: &Report) -> Plot {
    let world = &report.world;
    let of = |one: &Candidate| {
        vec![
            one.cell.ram_share * world.ram_latency.mean_us,
            one.cell.ssd_share * world.ssd_latency.mean_us,
            one.cell.disk_share * world.disk_latency.mean_us,
        ]
    };
    let (mut names, mut parts, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for (name, one) in
        [("recommended", report.recommendation), ("runner-up", report.runner_up), ("fastest", report.fastest)]
    {
        if let Some(one) = one {
            names.push(name.into());
            parts.push(of(&one));
            said.push(show_us(one.read_mean_us));
        }
    }
    if names.is_empty() {
        names.push("no cache".to_string());
        parts.push(vec![0.0, 0.0, report.uncached_mean_us]);
    }
    let bars = Bars {
        names,
        parts,
        above: said,
        part_names: vec!["RAM", "SSD", "disk"],
        colors: &[SERIES[2], SERIES[0], SERIES[1]],
        axes: ["", "mean time of a read"],
        label: &|us| show_us(*us),
    };
    let (svg, marks) = bars.draw();
    let mut caption = format!("Without a cache a read takes {}.", show_us(report.uncached_mean_us));
    if let Some(one) = report.runner_up {
        write!(caption, " The runner-up has {}.", sizes(one.cell.ram_bytes, one.cell.ssd_bytes))
            .expect("a string takes everything");
    }
    Plot { name: "latency", title: "Where a read's time goes".into(), caption, svg, marks }
}

pub(super) fn request_sizes(profile: &Profile) -> Plot {
    let classes = &profile.request_sizes;
    let all: u64 = classes.iter().map(|class| class.reads + class.writes).sum();
    let share = |count: u64| count as f64 / all.max(1) as f64;
    let bars = Bars {
        names: classes.iter().map(|class| show_bytes(class.bytes_max)).collect(),
        parts: classes.iter().map(|class| vec![share(class.reads), share(class.writes)]).collect(),
        above: Vec::new(),
        part_names: vec!["reads", "writes"],
        colors: &SERIES,
        axes: ["bytes, at most", "requests"],
        label: &percent,
    };
    let (svg, marks) = bars.draw();
    let caption = "Powers of two; a request counts where it fits.".into();
    Plot { name: "requests", title: "Sizes of requests".into(), caption, svg, marks }
}

/// What is in use over the trace's time, and what was ever used.
pub(super) fn working_set(profile: &Profile) -> Plot {
    let windows = &profile.windows;
    let most = windows.iter().map(|window| window.footprint_bytes).max().unwrap_or(1).max(1) as f64;
    let end = windows.last().map_or(1.0, |window| window.end).max(1e-9);
    let is_seconds = profile.windows_by_time;
    let svg = draw(|area| {
        // The legend stands above the lines.
        let label = |at: &f64| time(*at, end, is_seconds);
        let x = Times { end, is_seconds };
        let mut chart =
            axes(area, x, Bytes { most: most * 1.3 }, ["time", "different blocks"], [&label, &bytes])?;
        let points = |of: &dyn Fn(&crate::tune::Window) -> u64| -> Vec<(f64, f64)> {
            windows.iter().map(|window| (window.end, of(window) as f64)).collect()
        };
        let in_use = points(&|window| window.working_set_bytes);
        let color = SERIES[0];
        chart.draw_series(AreaSeries::new(in_use.clone(), 0.0, color.mix(0.16)))?;
        line(&mut chart, in_use, color, "used in a 48th of the trace")?;
        line(&mut chart, points(&|window| window.footprint_bytes), SERIES[1], "used so far")?;
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    });
    let caption =
        "A footprint that still rises at the end says that the recording saw only a part of what is used."
            .into();
    Plot { name: "working-set", title: "How much is in use".into(), caption, svg, marks: 3 }
}
