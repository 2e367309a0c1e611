//! Drawing: colours by role, sizes, and the few things that all plots share.

use plotters::prelude::*;

/// Of every drawing, in its own units.
pub(super) const WIDTH: u32 = 600;
pub(super) const HEIGHT: u32 = 340;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// What a colour is for; in the light theme it is this one.
pub(crate) const INK: RGBColor = RGBColor(31, 35, 40);
pub(crate) const MUTED: RGBColor = RGBColor(101, 109, 118);
pub(crate) const GRID: RGBColor = RGBColor(216, 222, 228);
pub(crate) const SERIES: [RGBColor; 4] =
    [RGBColor(9, 105, 218), RGBColor(201, 98, 8), RGBColor(26, 127, 55), RGBColor(130, 80, 223)];
pub(crate) const MARK: RGBColor = RGBColor(207, 34, 46);
/// From little to much.
pub(super) const HEAT: [RGBColor; 9] = [
    RGBColor(238, 246, 252),
    RGBColor(214, 232, 246),
    RGBColor(183, 213, 236),
    RGBColor(145, 190, 222),
    RGBColor(105, 163, 205),
    RGBColor(69, 134, 184),
    RGBColor(39, 104, 158),
    RGBColor(21, 75, 126),
    RGBColor(11, 48, 90),
];
/// Of text on the lower and on the upper half of it.
pub(super) const ON_LITTLE: RGBColor = RGBColor(32, 36, 41);
pub(super) const ON_MUCH: RGBColor = RGBColor(254, 254, 254);

/// The CSS variable of each role.
fn roles() -> Vec<(RGBColor, String)> {
    let named = [
        (INK, "ink"),
        (MUTED, "muted"),
        (GRID, "grid"),
        (MARK, "mark"),
        (ON_LITTLE, "on-little"),
        (ON_MUCH, "on-much"),
    ];
    let mut roles: Vec<(RGBColor, String)> = named.map(|(color, name)| (color, name.to_string())).into();
    roles.extend(SERIES.iter().enumerate().map(|(index, &color)| (color, format!("series-{index}"))));
    roles.extend(HEAT.iter().enumerate().map(|(index, &color)| (color, format!("heat-{index}"))));
    roles
}

/// A drawing for the page: colours by variable, and as wide as there is room.
pub(crate) fn themed(svg: &str) -> String {
    let mut text = svg.to_string();
    for (RGBColor(red, green, blue), role) in roles() {
        text = text.replace(&format!("\"#{red:02X}{green:02X}{blue:02X}\""), &format!("\"var(--{role})\""));
    }
    let (head, rest) = text.split_once("viewBox").expect("a drawing says what it shows");
    let (head, _size) = head.split_once("width=").expect("and how large it is");
    format!("{head}viewBox{rest}")
}

/// The SVG that `draw` makes.
pub(super) fn draw(draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>) -> String {
    draw_sized((WIDTH, HEIGHT), draw)
}

/// The same of another size.
pub(crate) fn draw_sized(
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area).expect("a string takes every drawing");
        area.present().expect("a string takes every drawing");
    }
    svg
}

/// Text of the axes and labels.
pub(crate) fn text(size: i32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// The step of the heat scale for `share`, from 0 to 1.
pub(crate) fn heat(share: f64) -> usize {
    ((share * HEAT.len() as f64) as usize).min(HEAT.len() - 1)
}

/// The colour of text on that step.
pub(super) fn ink_on(step: usize) -> RGBColor {
    if step * 2 > HEAT.len() { ON_MUCH } else { ON_LITTLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_colour_of_its_own_and_a_drawing_for_the_page_has_no_other() {
        let roles = roles();
        let colors: std::collections::BTreeSet<_> =
            roles.iter().map(|(color, _)| (color.0, color.1, color.2)).collect();
        assert_eq!(colors.len(), roles.len());
        let svg = draw(|area| {
            for (row, (color, _)) in roles.iter().enumerate() {
                area.draw(&Rectangle::new([(0, row as i32), (9, row as i32 + 1)], color.filled()))?;
            }
            Ok(())
        });
        let themed = themed(&svg);
        assert!(svg.contains("\"#") && !themed.contains("\"#"), "{themed}");
        assert_eq!(themed.matches("var(--").count(), roles.len());
        assert!(!themed.contains(&format!("width=\"{WIDTH}\"")), "it is as wide as there is room: {themed}");
    }
}
