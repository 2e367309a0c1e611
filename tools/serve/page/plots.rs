//! The plots of the page: lines and bands over the time up to now.
//!
//! Small ones, so that they can be read on a phone: names of lines and what they are at now stand below, as text.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::Figure;
use crate::page::axes::{Bytes, Drawn, bytes};
use crate::page::canvas::{Area, GRID, INK, MARK, MUTED, SERIES, draw_sized, text, themed};
use crate::page::escape;
use crate::serve::history::{POINTS_MAX, Point};
use crate::units::show_us;

const SIZE: (u32, u32) = (440, 220);

/// Where a read was answered, as everywhere on this page and in the report of `tune`.
pub(super) const RAM: RGBColor = SERIES[2];
pub(super) const SSD: RGBColor = SERIES[0];
pub(super) const DISK: RGBColor = SERIES[1];
pub(super) const WRITE: RGBColor = SERIES[3];

/// One line of a plot: how it is drawn and what it is at.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) color: RGBColor,
    pub(super) value: fn(&Point) -> Option<f64>,
}

/// What the heights of a plot are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Count,
    Bytes,
    /// Microseconds, by powers of ten.
    Latency,
}

impl Scale {
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Count if value < 10.0 && value.fract() != 0.0 => format!("{value:.1}"),
            Self::Count => crate::units::show_count(value.round() as u64),
            Self::Bytes => bytes(&value.round()),
            Self::Latency => show_us(value),
        }
    }
}

/// Seconds before now: as long as there is something to show, up to all that is kept.
#[derive(Clone, Copy)]
struct Past {
    seconds: f64,
    /// Between two labels.
    step: f64,
}

impl Past {
    const ALL: [Self; 4] = [
        Self { seconds: 60.0, step: 15.0 },
        Self { seconds: 120.0, step: 30.0 },
        Self { seconds: 300.0, step: 60.0 },
        Self { seconds: POINTS_MAX as f64, step: 120.0 },
    ];

    fn of(points: &[Point]) -> Self {
        let seen = points.last().zip(points.first()).map_or(0.0, |(last, first)| last.at - first.at);
        Self::ALL.into_iter().find(|past| past.seconds >= seen).unwrap_or(Self::ALL[3])
    }
}

impl Ranged for Past {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value.max(-self.seconds) + self.seconds) / self.seconds;
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let count = (self.seconds / self.step) as i32;
        (0..=count).map(|step| f64::from(step) * self.step - self.seconds).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        -self.seconds..0.0
    }
}

impl Past {
    fn show(self, seconds: f64) -> String {
        match seconds {
            0.0 => "now".into(),
            _ if self.step < 60.0 => format!("\u{2212}{:.0} s", -seconds),
            _ => format!("\u{2212}{:.0} min", -seconds / 60.0),
        }
    }
}

/// From nothing to a round number.
struct Counts {
    most: f64,
    step: f64,
}

impl Counts {
    fn up_to(most: f64) -> Self {
        // At least whole ones.
        let most = most.max(4.0);
        let power = 10f64.powf((most / 4.0).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| step * 4.0 >= most);
        let step = step.unwrap_or(10.0 * power);
        Self { most: (most / step).ceil() * step, step }
    }
}

impl Ranged for Counts {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (value / self.most * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        (0..=4).map(|times| f64::from(times) * self.step).take_while(|&value| value <= self.most).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.most
    }
}

/// Powers of ten, from one to another.
struct Decades {
    from: i32,
    to: i32,
}

impl Decades {
    /// Around these times.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let logs: Vec<f64> = values.filter(|&value| value > 0.0).map(f64::log10).collect();
        let from = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let to = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if logs.is_empty() {
            return Self { from: 0, to: 5 };
        }
        let (from, to) = (from.floor() as i32, to.ceil() as i32);
        Self { from, to: to.max(from + 2) }
    }
}

impl Ranged for Decades {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value.max(1e-9).log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        limit.0 + (share.clamp(0.0, 1.0) * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        (self.from..=self.to).map(|power| 10f64.powi(power)).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        10f64.powi(self.from)..10f64.powi(self.to)
    }
}

/// Draws what `figure` says; the points end at now.
pub(super) fn plot(figure: &Figure<'_>) -> String {
    let limit = figure.limit.map(|(limit, _)| limit);
    let (points, series, is_stacked) = (figure.points, figure.series, figure.is_stacked);
    let now = points.last().map_or(0.0, |point| point.at);
    let drawing = Drawing { points, series, now, is_stacked, limit };
    let most = drawing.most();
    let svg = draw_sized(SIZE, |area| match figure.scale {
        Scale::Count => drawing.draw(area, Counts::up_to(most), figure.scale),
        Scale::Bytes => drawing.draw(area, Bytes { most: most.max(4096.0) * 1.05 }, figure.scale),
        Scale::Latency => drawing.draw(area, Decades::around(drawing.values()), figure.scale),
    });
    let label = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(figure.title));
    themed(&svg).replacen("<svg ", &label, 1)
}

struct Drawing<'a> {
    points: &'a [Point],
    series: &'a [Series],
    now: f64,
    is_stacked: bool,
    limit: Option<f64>,
}

impl Drawing<'_> {
    fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.points.iter().flat_map(|point| self.series.iter().filter_map(|series| (series.value)(point)))
    }

    fn most(&self) -> f64 {
        let sum = |point: &Point| self.series.iter().filter_map(|series| (series.value)(point)).sum::<f64>();
        let most = if self.is_stacked {
            self.points.iter().map(sum).fold(0.0, f64::max)
        } else {
            self.values().fold(0.0, f64::max)
        };
        most.max(self.limit.unwrap_or(0.0))
    }

    fn draw<Y>(&self, area: &Area<'_>, y: Y, scale: Scale) -> Drawn
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64> + 'static,
    {
        let mut builder = ChartBuilder::on(area);
        builder.margin_top(10).margin_right(14).x_label_area_size(28).y_label_area_size(64);
        let past = Past::of(self.points);
        let mut chart = builder.build_cartesian_2d(past, y)?;
        chart
            .configure_mesh()
            .x_labels(6)
            .y_labels(5)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(1))
            .axis_style(GRID.stroke_width(1))
            .x_label_style(text(13, &MUTED))
            .y_label_style(text(13, &INK))
            .x_label_formatter(&|seconds| past.show(*seconds))
            .y_label_formatter(&|value| scale.show(*value))
            .draw()?;
        let mut below = vec![0.0; self.points.len()];
        for series in self.series {
            for run in self.runs(series) {
                let at = |&(index, value): &(usize, f64)| {
                    let bottom = if self.is_stacked { below[index] } else { 0.0 };
                    (self.points[index].at - self.now, bottom + value)
                };
                let line: Vec<(f64, f64)> = run.iter().map(at).collect();
                if self.is_stacked {
                    let floor =
                        run.iter().rev().map(|&(index, _)| (self.points[index].at - self.now, below[index]));
                    let band: Vec<(f64, f64)> = line.iter().copied().chain(floor).collect();
                    chart.draw_series([Polygon::new(band, series.color.mix(0.3))])?;
                }
                if let [one] = line[..] {
                    chart.draw_series([Circle::new(one, 2, series.color.filled())])?;
                }
                chart.draw_series(LineSeries::new(line, series.color.stroke_width(2)))?;
            }
            for (below, point) in below.iter_mut().zip(self.points) {
                *below += (series.value)(point).unwrap_or(0.0);
            }
        }
        if let Some(limit) = self.limit {
            let across = [(-past.seconds, limit), (0.0, limit)];
            chart.draw_series(LineSeries::new(across, MARK.stroke_width(1)))?;
        }
        Ok(())
    }

    /// The points of a line without those where it has no value, which part it.
    fn runs(&self, series: &Series) -> Vec<Vec<(usize, f64)>> {
        let values: Vec<(usize, Option<f64>)> = self.points.iter().map(series.value).enumerate().collect();
        let known = |(index, value): &(usize, Option<f64>)| value.map(|value| (*index, value));
        let runs = values.chunk_by(|one, other| one.1.is_some() == other.1.is_some());
        runs.filter(|run| run[0].1.is_some()).map(|run| run.iter().filter_map(known).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_axis_is_as_long_as_there_is_something_to_show() {
        for (seen, seconds) in [(0, 60.0), (59, 60.0), (61, 120.0), (299, 300.0), (599, 600.0)] {
            let at = |at: i32| Point { at: f64::from(at), ..Point::default() };
            assert_eq!(Past::of(&[at(1000), at(1000 + seen)]).seconds, seconds, "{seen} s");
        }
        assert_eq!(Past::of(&[]).seconds, 60.0);
        assert_eq!([0.0, -45.0].map(|at| Past::ALL[0].show(at)), ["now", "\u{2212}45 s"]);
        assert_eq!(Past::ALL[3].show(-600.0), "\u{2212}10 min");
    }

    #[test]
    fn an_axis_of_counts_ends_at_a_round_number_above_all_values() {
        for (most, end, step) in
            [(0.0, 4.0, 1.0), (4.0, 4.0, 1.0), (7.0, 8.0, 2.0), (41.0, 60.0, 20.0), (1e6, 1e6, 5e5)]
        {
            let axis = Counts::up_to(most);
            assert!(
                (axis.most - end).abs() < 1e-9 && (axis.step - step).abs() < 1e-9,
                "{most}: {} {}",
                axis.most,
                axis.step
            );
        }
    }
}
