//! The similarities that attempts to regroup experts started from: the first and the latest of a run, beside its metrics.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::metrics::Line;
use crate::error::{Error, Result};

/// The matrices of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Similarities {
    /// The step after which it was made.
    pub step: u64,
    /// One for each layer.
    pub layers: Vec<Matrix>,
}

/// The similarities of a layer's experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Matrix {
    /// The layer.
    pub layer: usize,
    /// `[experts, experts]`, row-major, experts by place.
    pub values: Vec<f32>,
}

/// Which attempt of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    First,
    Latest,
}

impl Similarities {
    fn path(run: &Path, which: Which) -> PathBuf {
        run.join(match which {
            Which::First => "similarity-first.json",
            Which::Latest => "similarity-latest.json",
        })
    }

    /// Those of a run folder; `None` if no attempt was made, or a crash cut the file short.
    pub fn read(run: &Path, which: Which) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(run, which)).ok()?).ok()
    }

    /// Keeps those of a step, if it made an attempt: as the first unless there is an earlier one, and as the latest.
    pub fn keep(run: &Path, line: &Line) -> Result<()> {
        let matrix = |event: &crate::train::clustering::Event| Matrix {
            layer: event.layer,
            values: event.similarities.clone(),
        };
        let now = Similarities { step: line.step, layers: line.clustering.iter().map(matrix).collect() };
        if now.layers.is_empty() {
            return Ok(());
        }
        let mut places = vec![Which::Latest];
        if Self::read(run, Which::First).is_none_or(|first| first.step >= now.step) {
            places.push(Which::First);
        }
        for which in places {
            let path = Self::path(run, which);
            let json = serde_json::to_vec(&now).map_err(|e| Error::io("write", &path)(e.into()))?;
            std::fs::write(&path, json).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }
}
