//! The two heat maps: disk reads by RAM and SSD, and reuse distances over time.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Plot;
use super::axes::Drawn;
use super::canvas::{Area, HEAT, HEIGHT, INK, MARK, MUTED, WIDTH, draw, heat, ink_on, text};
use crate::tune::{Profile, Report};
use crate::units::{show_bytes, show_count};

/// Where a map lies, in the drawing's units, and its cells.
#[derive(Clone, Copy)]
struct Grid {
    columns: usize,
    rows: usize,
}

const LEFT: i32 = 84;
const TOP: i32 = 12;
const RIGHT: i32 = WIDTH as i32 - 12;
const BOTTOM: i32 = HEIGHT as i32 - 56;

impl Grid {
    /// Row 0 is the lowest.
    fn cell(&self, column: usize, row: usize) -> [(i32, i32); 2] {
        let x = |column: usize| LEFT + ((RIGHT - LEFT) as f64 * column as f64 / self.columns as f64) as i32;
        let y = |row: usize| BOTTOM - ((BOTTOM - TOP) as f64 * row as f64 / self.rows as f64) as i32;
        [(x(column), y(row + 1)), (x(column + 1), y(row))]
    }

    /// Names that can be read side by side.
    fn columns_named(&self) -> usize {
        if self.columns > 12 { 7 } else { 12 }
    }

    fn middle(&self, column: usize, row: usize) -> (i32, i32) {
        let [(left, top), (right, bottom)] = self.cell(column, row);
        ((left + right) / 2, (top + bottom) / 2)
    }

    fn fill(&self, area: &Area<'_>, column: usize, row: usize, step: usize, gap: i32) -> Drawn {
        let [(left, top), (right, bottom)] = self.cell(column, row);
        area.draw(&Rectangle::new([(left + gap, top + gap), (right, bottom)], HEAT[step].filled()))?;
        Ok(())
    }

    /// Names below the columns and beside the rows, as many as there is room for, and what the axes are.
    fn label(&self, area: &Area<'_>, columns: &[String], rows: &[String], axes: [&str; 2]) -> Drawn {
        let below = text(12, &MUTED).pos(Pos::new(HPos::Center, VPos::Top));
        let beside = text(12, &MUTED).pos(Pos::new(HPos::Right, VPos::Center));
        for column in (0..self.columns).step_by(self.columns.div_ceil(self.columns_named())) {
            area.draw(&Text::new(
                columns[column].clone(),
                (self.middle(column, 0).0, BOTTOM + 8),
                below.clone(),
            ))?;
        }
        for row in (0..self.rows).step_by(self.rows.div_ceil(12)) {
            area.draw(&Text::new(rows[row].clone(), (LEFT - 8, self.middle(0, row).1), beside.clone()))?;
        }
        let title = text(13, &INK);
        let below = title.clone().pos(Pos::new(HPos::Center, VPos::Bottom));
        area.draw(&Text::new(axes[0].to_string(), ((LEFT + RIGHT) / 2, HEIGHT as i32 - 8), below))?;
        let turned = title.transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(axes[1].to_string(), (4, (TOP + BOTTOM) / 2), turned))?;
        Ok(())
    }
}

/// Tells the script where the map is.
fn placed(svg: &str, grid: Grid) -> String {
    let place = format!(
        "<svg data-place=\"{LEFT} {TOP} {RIGHT} {BOTTOM}\" data-cells=\"{} {}\" ",
        grid.columns, grid.rows
    );
    svg.replacen("<svg ", &place, 1)
}

/// Reads that wait for the disk, SSD to the right, RAM upwards.
pub(super) fn surface(report: &Report) -> Plot {
    let ssds: Vec<u64> = report
        .surface
        .iter()
        .map(|one| one.cell.ssd_bytes)
        .take_while({
            let mut last = None;
            move |&bytes| last.replace(bytes).is_none_or(|last| bytes > last)
        })
        .collect();
    let grid = Grid { columns: ssds.len(), rows: report.surface.len() / ssds.len() };
    let name = |&bytes: &u64| if bytes == 0 { "no SSD".to_string() } else { show_bytes(bytes) };
    let columns: Vec<String> = ssds.iter().map(name).collect();
    let rows: Vec<String> =
        report.surface.chunks(ssds.len()).map(|row| show_bytes(row[0].cell.ram_bytes)).collect();
    let svg = draw(|area| {
        for (index, one) in report.surface.iter().enumerate() {
            let (column, row) = (index % grid.columns, index / grid.columns);
            let step = heat(one.cell.disk_share);
            grid.fill(area, column, row, step, 1)?;
            let middle = text(12, &ink_on(step)).pos(Pos::new(HPos::Center, VPos::Center));
            let said = format!("{:.1}", one.cell.disk_share * 100.0);
            area.draw(&Text::new(said, grid.middle(column, row), middle))?;
            if report.recommendation.is_some_and(|taken| taken == *one) {
                let [(left, top), (right, bottom)] = grid.cell(column, row);
                let (left, top, right, bottom) = (left + 2, top + 2, right - 1, bottom - 1);
                // A rectangle's line has a width of 1 in the library's SVG, whatever it is told.
                let corners =
                    [(left, top), (right, top), (right, bottom), (left, bottom), (left, top), (right, top)];
                area.draw(&PathElement::new(corners.to_vec(), MARK.stroke_width(3)))?;
            }
        }
        grid.label(area, &columns, &rows, ["SSD", "RAM"])
    });
    Plot {
        name: "surface",
        title: "Reads that wait for the disk, in percent".into(),
        caption: "Framed: the recommendation. Point at a pair of sizes for what it costs and wears.".into(),
        svg: placed(&svg, grid),
        marks: report.surface.len(),
    }
}

/// How far apart two uses of a block lie, over the trace's time.
pub(super) fn reuse_distances(profile: &Profile, block_bytes: u64) -> Plot {
    let windows = &profile.windows;
    let classes = windows.iter().map(|window| window.reuse_distances.len()).max().unwrap_or(0).max(1);
    let grid = Grid { columns: windows.len(), rows: classes };
    let most = windows.iter().flat_map(|window| &window.reuse_distances).max().copied().unwrap_or(0).max(1);
    let share = |count: u64| (count as f64 + 1.0).ln() / (most as f64 + 1.0).ln();
    let whole = windows.last().map_or(0.0, |window| window.end);
    let end = |window: &crate::tune::Window| time(window.end, whole, profile.windows_by_time);
    let columns: Vec<String> = windows.iter().map(end).collect();
    let rows: Vec<String> = (0..classes).map(|class| show_bytes(block_bytes << class)).collect();
    let mut marks = 0;
    let svg = draw(|area| {
        for (column, window) in windows.iter().enumerate() {
            for (row, &count) in window.reuse_distances.iter().enumerate().filter(|(_, count)| **count > 0) {
                grid.fill(area, column, row, heat(share(count)).max(1), 0)?;
                marks += 1;
            }
        }
        grid.label(area, &columns, &rows, ["time", "used since, at most"])
    });
    Plot {
        name: "reuse",
        title: "How much is used between two uses of a block".into(),
        caption: "The more a field stands out, the more uses, on a logarithmic scale. What lies below a cache's size is \
                  what LRU of that size would answer."
            .into(),
        svg,
        marks,
    }
}

/// A moment of the trace, in a unit for all moments of one that takes `whole`.
pub(super) fn time(at: f64, whole: f64, is_seconds: bool) -> String {
    match whole {
        _ if !is_seconds => show_count(at as u64),
        whole if whole < 10e-6 => format!("{:.1} us", at * 1e6),
        whole if whole < 1e-3 => format!("{:.0} us", at * 1e6),
        whole if whole < 10e-3 => format!("{:.1} ms", at * 1e3),
        whole if whole < 1.0 => format!("{:.0} ms", at * 1e3),
        whole if whole < 10.0 => format!("{at:.1} s"),
        whole if whole < 600.0 => format!("{at:.0} s"),
        whole if whole < 8.0 * 3600.0 => format!("{:.0} min", at / 60.0),
        whole if whole < 3.0 * 86_400.0 => format!("{:.0} h", at / 3600.0),
        _ => format!("{:.1} d", at / 86_400.0),
    }
}
