//! `compare --report`: what was compared, as one page that needs no network.

mod page;
mod plots;
mod trilemma;

use std::io::Write;
use std::path::{Path, PathBuf};

use super::metrics::{Line, Metrics};
use super::similarity::{Similarities, Which};
use super::summary::Run;
use crate::error::{Error, Result};
use crate::train::clustering::Event;
use crate::train::data::write_atomically;
use plots::{Axis, Cells, colour, shade};

/// Columns of a plot over time.
const COLUMNS: usize = 60;

/// A run and what its folder holds.
pub(crate) struct Story<'a> {
    run: &'a Run,
    lines: Vec<Line>,
    first: Option<Similarities>,
    latest: Option<Similarities>,
}

impl<'a> Story<'a> {
    /// Reads the folder of a finished run.
    pub fn read(run: &'a Run, folder: &Path) -> Result<Self> {
        let lines = Metrics::read(&folder.join("metrics.jsonl"))?;
        let [first, latest] = [Which::First, Which::Latest].map(|which| Similarities::read(folder, which));
        Ok(Story { run, lines, first, latest })
    }

    fn events(&self) -> impl Iterator<Item = (u64, &Event)> {
        self.lines.iter().flat_map(|line| line.clustering.iter().map(move |event| (line.step, event)))
    }
}

/// Writes `index.html` in `folder`, whole or not at all, and returns its path. `facts` says what was compared.
pub(crate) fn write(folder: &Path, facts: &[String], stories: &[Story<'_>]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let runs: Vec<&Run> = stories.iter().map(|story| story.run).collect();
    // Of several seeds, the first.
    let seed = runs.iter().map(|run| run.seed).min();
    let firsts: Vec<&Story<'_>> = stories.iter().filter(|story| Some(story.run.seed) == seed).collect();
    let mut page = page::Page::new(facts);
    page.section("The three legs", trilemma::NOTE);
    page.table(&trilemma::table(&runs));
    page.section("All runs", "Medians over seeds, in brackets the smallest and the largest.");
    page.table(&super::summary::compare_rows(&runs));
    page.section("Learning", "Training loss, a moving mean over a twentieth of the steps; first seed.");
    page.plots(learning(&firsts)?);
    page.section("Memory", "Resident bytes after each step, mapped files left out; first seed.");
    page.plots([memory(&firsts)?]);
    for story in &firsts {
        let plots = [load(story)?, membership(story)?].into_iter().chain(similarity(story)?);
        let plots: Vec<String> = plots.flatten().collect();
        if !plots.is_empty() {
            page.details(&story.run.name, plots);
        }
    }
    let path = folder.join("index.html");
    let html = page.html();
    write_atomically(&path, |file| file.write_all(html.as_bytes()).map_err(Error::io("write", &path)))?;
    Ok(path)
}

/// Loss against tokens, and against seconds.
fn learning(stories: &[&Story<'_>]) -> Result<[Option<String>; 2]> {
    let line = |story: &Story<'_>, by: fn(&Line) -> f64| {
        let rate = 1.0 / (story.lines.len() as f64 / 20.0).max(1.0);
        let (mut at, mut mean) = (0.0, None);
        let points = story.lines.iter().map(|line| {
            at += by(line);
            let loss = f64::from(line.loss);
            let smooth = mean.map_or(loss, |mean| mean + rate * (loss - mean));
            mean = Some(smooth);
            (at, smooth)
        });
        plots::Line { name: story.run.name.clone(), points: points.collect() }
    };
    let plot = |title, axis, by: fn(&Line) -> f64| {
        let all: Vec<_> = stories.iter().map(|story| line(story, by)).collect();
        plots::lines(title, axis, Axis { name: "loss, nats per token", show: |v| format!("{v:.1}") }, &all)
    };
    let millions = Axis { name: "tokens", show: |v| format!("{:.1} M", v / 1e6) };
    let seconds = Axis { name: "seconds of steps", show: |v| format!("{v:.0}") };
    Ok([
        plot("Loss against tokens", millions, |line| line.tokens as f64)?,
        plot("Loss against seconds", seconds, |line| line.seconds)?,
    ])
}

fn memory(stories: &[&Story<'_>]) -> Result<Option<String>> {
    let line = |story: &&Story<'_>| {
        let points = story.lines.iter().filter_map(|line| Some((line.step as f64, line.memory? as f64)));
        plots::Line { name: story.run.name.clone(), points: points.collect() }
    };
    let steps = Axis { name: "step", show: |v| format!("{v:.0}") };
    let bytes = Axis { name: "memory", show: |v| format!("{:.0} MiB", v / f64::from(1 << 20)) };
    plots::lines("Memory over time", steps, bytes, &stories.iter().map(line).collect::<Vec<_>>())
}

/// Slots of each expert over time, layers below each other.
fn load(story: &Story<'_>) -> Result<Option<String>> {
    let lines: Vec<&Line> = story.lines.iter().filter(|line| !line.slots.is_empty()).collect();
    let columns = lines.chunks(lines.len().div_ceil(COLUMNS).max(1)).collect::<Vec<_>>();
    let layers = lines.first().map_or(0, |line| line.slots.len());
    let mut rows = Vec::new();
    for layer in 0..layers {
        let experts = lines[0].slots[layer].len();
        for expert in 0..experts {
            let share = |column: &&[&Line]| {
                let of =
                    |e: usize| column.iter().filter_map(|l| l.slots.get(layer)?.get(e)).sum::<u64>() as f64;
                let all: f64 = (0..experts).map(of).sum();
                // Half dark is the mean; black is twice as much or more.
                shade(of(expert) * experts as f64 / all.max(1.0) / 2.0)
            };
            rows.push(columns.iter().map(share).collect());
        }
    }
    let step =
        |c: usize| columns.get(c).and_then(|c| c.first()).map_or(String::new(), |l| l.step.to_string());
    let title = "Load per expert: white none, mid-blue the mean, dark twice the mean";
    Cells { title, x: "step", y: "expert, layer by layer", column: &step, rows, size: (9, 3) }.draw()
}

/// The cluster of each expert, by its number at the start, after each attempt to regroup.
fn membership(story: &Story<'_>) -> Result<Option<String>> {
    let mut steps: Vec<u64> = story.events().map(|(step, _)| step).collect();
    steps.dedup();
    let layers = story.events().map(|(_, event)| event.layer + 1).max().unwrap_or(0);
    let mut rows = Vec::new();
    for layer in 0..layers {
        let of_layer: Vec<&Event> = story.events().map(|(_, e)| e).filter(|e| e.layer == layer).collect();
        let experts = of_layer.iter().map(|e| e.clusters.len()).min().unwrap_or(0);
        rows.extend((0..experts).map(|e| of_layer.iter().map(|event| colour(event.clusters[e])).collect()));
    }
    let step = |c: usize| steps.get(c).map_or(String::new(), u64::to_string);
    let title = "Cluster of each expert after each attempt to regroup";
    Cells { title, x: "step", y: "expert, layer by layer", column: &step, rows, size: (36, 3) }.draw()
}

/// The first layer's similarities at the first and the latest attempt.
fn similarity(story: &Story<'_>) -> Result<Vec<Option<String>>> {
    let at = [&story.first, &story.latest].into_iter().flatten();
    at.map(|similarities| {
        let Some(matrix) = similarities.layers.first() else { return Ok(None) };
        let experts = matrix.values.len().isqrt();
        let title =
            format!("Similarity, layer {}, before step {}'s attempt", matrix.layer, similarities.step);
        let shades = |row: &[f32]| row.iter().map(|&s| shade(f64::from(s))).collect();
        let rows = matrix.values.chunks_exact(experts.max(1)).map(shades).collect();
        let (x, y) = ("expert, by place", "expert");
        Cells { title: &title, x, y, column: &|c| c.to_string(), rows, size: (8, 8) }.draw()
    })
    .collect()
}
