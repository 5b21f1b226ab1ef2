//! The page around tables and plots.

use std::fmt::Write;

use crate::cli::summary::Grid;

/// A page under construction.
pub(super) struct Page {
    body: String,
}

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fafafa; max-width: 1360px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .2rem; }
p { margin: .2rem 0 .8rem; color: #444; max-width: 60rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { background: #f0f0f0; } th:first-child, td:first-child { text-align: left; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.plots svg { background: #fff; border: 1px solid #ddd; max-width: 100%; height: auto; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
";

impl Page {
    pub fn new(facts: &[String]) -> Self {
        let mut body = String::from("<h1>trimoe: a comparison</h1>\n");
        for fact in facts {
            add(&mut body, format_args!("<p>{}</p>\n", escaped(fact)));
        }
        Page { body }
    }

    pub fn section(&mut self, title: &str, note: &str) {
        add(&mut self.body, format_args!("<h2>{}</h2>\n<p>{}</p>\n", escaped(title), escaped(note)));
    }

    pub fn table(&mut self, grid: &Grid<'_>) {
        let cell = |text: &str, tag: &str| format!("<{tag}>{}</{tag}>", escaped(text));
        let row = |cells: &Vec<String>| cells.iter().map(|text| cell(text, "td")).collect::<String>();
        let rows: String = grid.rows.iter().map(|cells| format!("<tr>{}</tr>\n", row(cells))).collect();
        let header: String = grid.header.iter().map(|text| cell(text, "th")).collect();
        add(
            &mut self.body,
            format_args!("<div class=\"scroll\"><table>\n<tr>{header}</tr>\n{rows}</table></div>\n"),
        );
    }

    pub fn plots(&mut self, plots: impl IntoIterator<Item = Option<String>>) {
        let plots: String = plots.into_iter().flatten().collect();
        add(&mut self.body, format_args!("<div class=\"plots\">{plots}</div>\n"));
    }

    /// Plots that unfold under a name.
    pub fn details(&mut self, name: &str, plots: Vec<String>) {
        let (name, plots) = (escaped(name), plots.concat());
        add(
            &mut self.body,
            format_args!(
                "<details open><summary>{name}</summary><div class=\"plots\">{plots}</div></details>\n"
            ),
        );
    }

    pub fn html(self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>trimoe: a comparison</title>\
             <style>{STYLE}</style></head>\n<body>\n{}</body></html>\n",
            self.body
        )
    }
}

fn add(body: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = body.write_fmt(text);
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[test]
fn text_stays_text() {
    let mut page = Page::new(&["a < b & \"c\"".into()]);
    page.table(&Grid { header: vec!["<x>"], rows: vec![vec!["1".into()]] });
    let html = page.html();
    assert!(html.contains("a &lt; b &amp; &quot;c&quot;") && html.contains("<th>&lt;x&gt;</th>"), "{html}");
}
