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
    // Powers of two on a linear axis: plotters labels powers of ten alone on a logarithmic one.
    let cost = |sweep: &Sweep| -> Vec<(f64, f64)> {
        let point = |value: usize, cost: f64| ((value as f64).log2(), cost.log2());
        sweep.points.iter().map(|p| point(p.value, 1e6 * p.pass / p.tokens as f64)).collect()
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
        .build_cartesian_2d(left - 0.1..right + 0.1, low.floor()..high.ceil() + 1.0)?;
    let number = |power: &f64| format!("{:.0}", power.exp2());
    let whole = |low: f64, high: f64| (high.floor() - low.ceil()) as usize + 1;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(whole(left, right))
        .y_labels(whole(low.floor(), high.ceil() + 1.0))
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    for sweep in sweeps {
        let colour = if sweep.kind == FfnKind::Flat { RGBColor(213, 94, 0) } else { RGBColor(0, 114, 178) };
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(cost(sweep), style))?
            .label(format!("{}: pass ~ {}^{:.2}", sweep.kind, size.name(), sweep.exponent()))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], style));
    }
    let falls = sweeps.iter().any(|sweep| sweep.exponent() < 0.0) || size == Size::Tokens;
    chart
        .configure_series_labels()
        .position(if falls { SeriesLabelPosition::UpperRight } else { SeriesLabelPosition::UpperLeft })
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 12))
        .draw()?;
    Ok(())
}
