//! The sweeps as one picture: a panel for each size, both axes logarithmic.

use plotters::prelude::*;

use super::{FfnKind, Size, Sweep};

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (360, 260);
const FONT: &str = "sans-serif";

/// Two rows of two panels.
pub fn svg(sweeps: &[Sweep]) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (2 * PANEL.0, 2 * PANEL.1)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| e.to_string())?;
        for (panel, size) in area.split_evenly((2, 2)).iter().zip(Size::ALL) {
            let of_size: Vec<&Sweep> = sweeps.iter().filter(|s| s.size == size).collect();
            draw(panel, size, &of_size).map_err(|e| e.to_string())?;
        }
        area.present().map_err(|e| e.to_string())?;
    }
    Ok(text)
}

fn draw(
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    size: Size,
    sweeps: &[&Sweep],
) -> Result<(), Box<dyn std::error::Error>> {
    let cost = |sweep: &Sweep| -> Vec<(f64, f64)> {
        sweep.points.iter().map(|p| (p.value as f64, 1e6 * p.pass / p.tokens as f64)).collect()
    };
    let all: Vec<(f64, f64)> = sweeps.iter().flat_map(|sweep| cost(sweep)).collect();
    let ends = |of: fn(&(f64, f64)) -> f64| {
        all.iter().map(of).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((left, right), (low, high)) = (ends(|p| p.0), ends(|p| p.1));
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("us a token by {}", size.name()), (FONT, 15))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d((0.9 * left..1.1 * right).log_scale(), (0.6 * low..1.5 * high).log_scale())?;
    let number = |v: &f64| if *v < 10.0 { format!("{v:.1}") } else { format!("{v:.0}") };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    for sweep in sweeps {
        let colour = if sweep.kind == FfnKind::Flat { RGBColor(213, 94, 0) } else { RGBColor(0, 114, 178) };
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(cost(sweep), style))?
            .label(format!("{}: ^{:.2}", sweep.kind, sweep.exponent()))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 12))
        .draw()?;
    Ok(())
}
