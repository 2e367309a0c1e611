//! Axes, lines and legends: what the plots are built of.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::canvas::{Area, GRID, INK, MUTED, text};
use crate::units::show_bytes;

pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;
pub(super) type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// Powers of two along an axis, from one to another: labels are whole ones.
pub(super) struct Powers {
    from: f64,
    to: f64,
}

impl Powers {
    /// Around these sizes, in bytes.
    pub(super) fn around(bytes: impl Iterator<Item = u64>) -> Self {
        let (mut from, mut to) = (f64::INFINITY, 0f64);
        for exponent in bytes.filter(|&bytes| bytes > 0).map(|bytes| (bytes as f64).log2()) {
            (from, to) = (from.min(exponent), to.max(exponent));
        }
        if from > to {
            (from, to) = (12.0, 13.0);
        }
        Self { from, to: if to - from < 1.0 { from + 1.0 } else { to } }
    }
}

impl Ranged for Powers {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value.max(1.0).log2() - self.from) / (self.to - self.from);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let (first, last) = (self.from.ceil() as i32, self.to.floor() as i32);
        let step = ((last - first) as usize / hint.max_num_points().max(1) + 1).max(1);
        (first..=last).step_by(step).map(|exponent| f64::from(exponent).exp2()).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from.exp2()..self.to.exp2()
    }
}

/// From nothing to so many bytes: labels are whole numbers of a unit.
pub(crate) struct Bytes {
    pub(crate) most: f64,
}

impl Ranged for Bytes {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (value / self.most * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        // A power of two that four to eight times goes into it.
        let step = (self.most / 4.0).log2().floor().exp2().max(1.0);
        (0..=8).map(|times| f64::from(times) * step).take_while(|&value| value <= self.most).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.most
    }
}

/// From the beginning of a trace to its end: labels are whole minutes, hours or days of it, or whole numbers of references.
pub(super) struct Times {
    pub(super) end: f64,
    pub(super) is_seconds: bool,
}

impl Times {
    /// Apart from label to label: so that there are at most eight.
    fn between_labels(&self) -> f64 {
        const SECONDS: [f64; 19] = [
            1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 10_800.0,
            21_600.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0,
        ];
        let least = self.end / 8.0;
        let of_seconds =
            SECONDS.into_iter().find(|&step| self.is_seconds && self.end >= 10.0 && step >= least);
        // 1, 2 or 5 times a power of ten.
        let power = 10f64.powf(least.max(1e-9).log10().floor());
        let of_tens =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|&step| step >= least);
        of_seconds.or(of_tens).unwrap_or(self.end)
    }
}

impl Ranged for Times {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (value / self.end * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let step = self.between_labels();
        (0..=8).map(|times| f64::from(times) * step).take_while(|&value| value <= self.end).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.end
    }
}

/// Places for bars, of width 1 from 0 on, each labelled in its middle.
pub(super) struct Slots(pub(super) usize);

impl Ranged for Slots {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (value / self.0 as f64 * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        // As many names as can be read side by side.
        (0..self.0).step_by(self.0.div_ceil(10)).map(|slot| slot as f64 + 0.5).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.0 as f64
    }
}

/// Axes in `area`, their labels, and what they are.
pub(super) fn axes<'a, 'b, X, Y>(
    area: &'a Area<'b>,
    x: X,
    y: Y,
    names: [&str; 2],
    labels: [&dyn Fn(&f64) -> String; 2],
) -> Result<Chart<'a, 'b, X, Y>, Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut builder = ChartBuilder::on(area);
    // On the right half of a label stands beside the axis.
    builder.margin(12).margin_right(26).x_label_area_size(44).y_label_area_size(76);
    let mut chart = builder.build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_labels(8)
        .y_labels(6)
        .x_desc(names[0])
        .y_desc(names[1])
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(1))
        .axis_style(GRID.stroke_width(1))
        .label_style(text(12, &MUTED))
        .axis_desc_style(text(13, &INK))
        .x_label_formatter(labels[0])
        .y_label_formatter(labels[1])
        .draw()?;
    Ok(chart)
}

pub(super) fn percent(share: &f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// With quarters of a unit, so that labels which are evenly apart say so.
pub(crate) fn bytes(bytes: &f64) -> String {
    let quarter = ["KiB", "MiB", "GiB", "TiB", "PiB"].into_iter().zip(1..).find_map(|(unit, power)| {
        let value = bytes / 1024f64.powi(power);
        let is_odd =
            (1.0..1024.0).contains(&value) && (value * 4.0).fract() == 0.0 && (value * 2.0).fract() != 0.0;
        is_odd.then(|| format!("{value:.2} {unit}"))
    });
    quarter.unwrap_or_else(|| show_bytes(*bytes as u64))
}

/// The names of the lines, in a corner.
pub(super) fn legend<'a, 'b: 'a, X: Ranged<ValueType = f64>, Y: Ranged<ValueType = f64>>(
    chart: &mut Chart<'a, 'b, X, Y>,
    position: SeriesLabelPosition,
) -> Drawn {
    chart.configure_series_labels().position(position).label_font(text(12, &INK)).margin(8).draw()?;
    Ok(())
}

/// A line with its name.
pub(super) fn line<X, Y>(
    chart: &mut Chart<'_, '_, X, Y>,
    points: Vec<(f64, f64)>,
    color: RGBColor,
    name: &str,
) -> Drawn
where
    X: Ranged<ValueType = f64> + 'static,
    Y: Ranged<ValueType = f64> + 'static,
{
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_bytes_that_are_evenly_apart_are_so_as_they_are_shown() {
        let most = 1.8 * f64::from(1 << 30);
        let labels: Vec<String> = Bytes { most }.key_points(6usize).iter().map(bytes).collect();
        let wanted = ["0 B", "256 MiB", "512 MiB", "768 MiB", "1 GiB", "1.25 GiB", "1.5 GiB", "1.75 GiB"];
        assert_eq!(labels, wanted);
    }

    #[test]
    fn no_two_labels_of_time_are_alike_however_short_or_long_a_trace_is() {
        let ends = (0..400).map(|step| 1e-6 * 1.1f64.powi(step)).take_while(|&end| end < 400.0 * 86_400.0);
        for end in ends {
            let points = Times { end, is_seconds: true }.key_points(10usize);
            let mut labels: Vec<String> =
                points.iter().map(|&at| super::super::maps::time(at, end, true)).collect();
            let count = labels.len();
            labels.dedup();
            assert_eq!(labels.len(), count, "{end} s: {labels:?}");
        }
    }

    #[test]
    fn labels_of_time_are_whole_units_of_it_and_at_most_nine() {
        for (end, is_seconds, wanted) in [
            (7200.0, true, 1200.0),
            (601.0, true, 120.0),
            (45.0, true, 10.0),
            (3.0 * 86_400.0, true, 43_200.0),
            (400.0 * 86_400.0, true, 5_000_000.0),
            (4.0, true, 0.5),
            (370_905.0, false, 50_000.0),
        ] {
            let times = Times { end, is_seconds };
            assert!(
                (times.between_labels() - wanted).abs() < 1e-6 * wanted,
                "{end}: {}",
                times.between_labels()
            );
            let points = times.key_points(10usize);
            assert!((4..=9).contains(&points.len()), "{end}: {points:?}");
        }
    }
}
