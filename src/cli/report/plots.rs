//! Plots as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Error, Result};

/// Size of a plot in pixels.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;
const FONT: &str = "sans-serif";

/// A line: its name and points.
pub(super) struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What stands at an axis, and how its values are written.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub name: &'static str,
    pub show: fn(f64) -> String,
}

/// Colours that stay apart for most readers (Okabe and Ito), then the same darker.
pub(super) fn colour(i: usize) -> RGBColor {
    const BASE: [(u8, u8, u8); 7] = [
        (0, 114, 178),
        (213, 94, 0),
        (0, 158, 115),
        (204, 121, 167),
        (230, 159, 0),
        (86, 180, 233),
        (90, 90, 90),
    ];
    let (r, g, b) = BASE[i % BASE.len()];
    let darker = |c: u8| if (i / BASE.len()) % 2 == 1 { c / 2 } else { c };
    RGBColor(darker(r), darker(g), darker(b))
}

/// Lines over a common axis; `None` if no line has two points.
pub(super) fn lines(title: &str, x: Axis, y: Axis, lines: &[Line]) -> Result<Option<String>> {
    let all = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = all().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let room = if high > low { 0.03 * (high - low) } else { 1.0 };
        low - room..high + room
    };
    if all().count() < 2 {
        return Ok(None);
    }
    drawn((WIDTH, HEIGHT), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 17))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(range(|p| p.0), range(|p| p.1))
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(x.name)
            .y_desc(y.name)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|v| (x.show)(*v))
            .y_label_formatter(&|v| (y.show)(*v))
            .draw()
            .map_err(failed)?;
        for (i, line) in lines.iter().enumerate() {
            let style = colour(i).stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))
                .map_err(failed)?
                .label(line.name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.25))
            .label_font((FONT, 12))
            .draw()
            .map_err(failed)
    })
    .map(Some)
}

/// A matrix of cells, `rows` of equal length from top to bottom.
pub(super) struct Cells<'a> {
    pub title: &'a str,
    pub x: &'static str,
    pub y: &'static str,
    /// What stands at a column.
    pub column: &'a dyn Fn(usize) -> String,
    pub rows: Vec<Vec<RGBColor>>,
    /// Pixels of a cell's side, at least; wide ones are for few columns.
    pub size: (u32, u32),
}

impl Cells<'_> {
    /// The plot; `None` without cells. Neighbours of one colour in a row are one rectangle.
    pub fn draw(&self) -> Result<Option<String>> {
        let (rows, columns) = (self.rows.len(), self.rows.first().map_or(0, Vec::len));
        if rows == 0 || columns == 0 {
            return Ok(None);
        }
        let (width, height) = (columns as u32 * self.size.0 + 84, rows as u32 * self.size.1 + 90);
        drawn((width.max(380), height), |area| {
            let mut chart = ChartBuilder::on(area)
                .caption(self.title, (FONT, 15))
                .margin(10)
                .x_label_area_size(36)
                .y_label_area_size(44)
                .build_cartesian_2d(0f64..columns as f64, rows as f64..0f64)
                .map_err(failed)?;
            chart
                .configure_mesh()
                .disable_mesh()
                .x_desc(self.x)
                .y_desc(self.y)
                .x_labels(5)
                .y_labels(5)
                .x_label_formatter(&|v| (self.column)(*v as usize))
                .y_label_formatter(&|v| format!("{v:.0}"))
                .draw()
                .map_err(failed)?;
            let cells = self.rows.iter().enumerate().flat_map(|(r, row)| {
                stretches(row).map(move |(from, to, colour)| {
                    Rectangle::new([(from as f64, r as f64), (to as f64, r as f64 + 1.0)], colour.filled())
                })
            });
            chart.draw_series(cells).map_err(failed).map(|_| ())
        })
        .map(Some)
    }
}

/// Where the colour of a row changes: from, to, colour.
fn stretches(row: &[RGBColor]) -> impl Iterator<Item = (usize, usize, RGBColor)> {
    let mut start = 0;
    row.chunk_by(|a, b| a == b).map(move |chunk| {
        let from = start;
        start += chunk.len();
        (from, start, chunk[0])
    })
}

/// White to dark blue for 0 to 1, in 24 steps; what is outside takes the nearest.
pub(super) fn shade(value: f64) -> RGBColor {
    const DARK: [f64; 3] = [8.0, 48.0, 107.0];
    let t = (value.clamp(0.0, 1.0) * 24.0).round() / 24.0;
    let [r, g, b] = DARK.map(|dark| (255.0 + t * (dark - 255.0)).round() as u8);
    RGBColor(r, g, b)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn drawn(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Host { what: "a plot", why: error.to_string() }
}

#[test]
fn neighbours_of_one_colour_are_one_stretch() {
    let row = [shade(0.0), shade(0.0), shade(1.0), shade(0.0)];
    let found: Vec<_> = stretches(&row).map(|(from, to, _)| (from, to)).collect();
    assert_eq!(found, [(0, 2), (2, 3), (3, 4)]);
    assert_eq!((shade(-1.0), shade(2.0)), (RGBColor(255, 255, 255), RGBColor(8, 48, 107)));
}
