//! What options resolve to: a config file below the flags, a preset below both.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{DeviceName, Options};
use crate::error::{Error, Result};
use crate::train::config::{Balance, ModelConfig, Precision, TrainConfig};

/// Most threads `--threads` takes: beyond it a number is a slip, not a machine.
const MOST_THREADS: usize = 4096;

/// With more experts than this, an attempt to regroup them takes long enough to be made half as often.
const MANY_EXPERTS: usize = 256;
const CLUSTER_EVERY_WITH_MANY: u64 = 200;

impl Options {
    /// Reads a config file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let options: Options = toml::from_str(&text).map_err(|e| {
            // The list of expected names that follows would be longer than the sentence.
            let message = e.message().split(", expected").next().unwrap_or_default().replace('\n', " ");
            let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::config("--config", path.display(), format!("line {line}: {message}"))
        })?;
        options.check_budget()?;
        Ok(options)
    }

    /// The flags over the config file they name.
    pub fn with_file(self) -> Result<Self> {
        self.check_budget()?;
        match &self.config {
            Some(path) => {
                let file = Self::read(path)?;
                self.over(file)
            }
            None => Ok(self),
        }
    }

    fn check_budget(&self) -> Result<()> {
        match (self.tokens, self.steps) {
            (Some(tokens), Some(_)) => {
                Err(Error::config("--tokens", tokens, "cannot be given together with --steps"))
            }
            (Some(0), _) => Err(Error::config("--tokens", 0, "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// These options, and those of `lower` where they say nothing.
    pub fn over(self, lower: Options) -> Result<Self> {
        let mut merged = to_map(&lower)?;
        if self.tokens.is_some() || self.steps.is_some() {
            merged.remove("tokens");
            merged.remove("steps");
        }
        merged.extend(to_map(&self)?);
        from_map(merged)
    }

    /// `model` and `train` with the options that are given.
    pub fn apply(&self, model: ModelConfig, train: TrainConfig) -> Result<(ModelConfig, TrainConfig)> {
        let given = to_map(self)?;
        let model: ModelConfig = overlay(&model, &given)?;
        let mut train: TrainConfig = overlay(&train, &given)?;
        if self.cluster_every.is_none() && model.experts > MANY_EXPERTS {
            train.cluster_every = train.cluster_every.max(CLUSTER_EVERY_WITH_MANY);
        }
        if self.balance.is_none() && self.ffn.is_some() {
            train.balance = Balance::of(model.ffn);
        }
        if let Some(tokens) = self.tokens {
            train.steps = tokens.div_ceil(train.tokens_per_step(model.seq).max(1));
        }
        Ok((model, train))
    }

    /// The checked model and schedule of a new run, starting from the preset, in what its device is fastest at.
    pub fn resolve(&self) -> Result<(ModelConfig, TrainConfig)> {
        let preset = self.preset.unwrap_or_default();
        let precision = match self.device {
            Some(DeviceName::Cuda(_)) => Precision::Bf16,
            _ => Precision::of_this_processor(),
        };
        let train = TrainConfig { precision, ..preset.train() };
        let (model, train) = self.apply(preset.model(), train)?;
        model.validate()?;
        train.validate(model.seq)?;
        self.threads()?;
        Ok((model, train))
    }

    /// Everything that makes a run what it is, written out: the file that repeats it.
    pub fn resolved(&self, model: &ModelConfig, train: &TrainConfig) -> Result<Self> {
        let mut all = to_map(self)?;
        for passing in
            ["tokens", "out", "checkpoint", "from", "resume", "stop-at", "json", "device", "threads"]
        {
            all.remove(passing);
        }
        all.extend(to_map(model)?);
        all.extend(to_map(train)?);
        let mut options: Options = from_map(all)?;
        let paths = [&mut options.data, &mut options.eval_data, &mut options.tokenizer, &mut options.cache];
        for path in paths.into_iter().flatten() {
            *path = std::path::absolute(&*path).map_err(Error::io("find", &*path))?;
        }
        Ok(options)
    }

    /// As a config file.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("--config", "", e.to_string()))
    }

    /// Number of threads, 0 for one per core.
    pub fn threads(&self) -> Result<usize> {
        let threads = self.threads.unwrap_or(0);
        if threads > MOST_THREADS {
            return Err(Error::config("--threads", threads, format!("above the limit of {MOST_THREADS}")));
        }
        Ok(threads)
    }

    /// Whether `--resume` was given.
    pub fn resume(&self) -> bool {
        self.resume.unwrap_or(false)
    }
}

/// The values that are given, by name.
fn to_map(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        Ok(other) => Err(Error::config("options", other, "are not a table")),
        // A path that is no UTF-8 is the one thing JSON cannot hold.
        Err(e) => Err(Error::config("options", "", e.to_string())),
    }
}

fn from_map<T: DeserializeOwned>(map: Map<String, Value>) -> Result<T> {
    serde_json::from_value(map.into()).map_err(|e| Error::config("options", "", e.to_string()))
}

/// `base` with the fields that `given` has under the same name.
fn overlay<T: Serialize + DeserializeOwned>(base: &T, given: &Map<String, Value>) -> Result<T> {
    let mut fields = to_map(base)?;
    for (name, value) in &mut fields {
        if let Some(given) = given.get(name) {
            *value = given.clone();
        }
    }
    from_map(fields)
}

#[cfg(test)]
mod tests {
    use super::super::Number;
    use super::*;
    use crate::train::preset::Preset;

    #[test]
    fn every_field_of_the_configuration_is_an_option() {
        let (model, train) = (Preset::Small.model(), Preset::Small.train());
        let all = Options::default().resolved(&model, &train).unwrap();
        let tiny = Preset::Tiny;
        assert_eq!(all.apply(tiny.model(), tiny.train()).unwrap(), (model, train));
        let back: Options = toml::from_str(&all.to_toml().unwrap()).unwrap();
        assert_eq!(back, all);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_preset() {
        let file: Options = toml::from_str("hidden = 32\nlr = 0.5\nsteps = 7\npreset = 'small'").unwrap();
        let flags = Options { lr: Some(Number(0.25)), tokens: Some(100_000), ..Options::default() };
        let merged = flags.over(file).unwrap();
        let (model, train) = merged.resolve().unwrap();
        assert_eq!((model.hidden, model.inner, train.lr), (32, 768, 0.25));
        assert_eq!(train.steps, 100_000u64.div_ceil(8 * 256));
    }

    #[test]
    fn a_run_keeps_its_precision_and_a_new_one_takes_that_of_the_processor() {
        let new = Options::default();
        let here = Precision::of_this_processor();
        assert_eq!(new.resolve().unwrap().1.precision, here);
        let on_a_gpu = Options { device: Some(DeviceName::Cuda(0)), ..new.clone() };
        assert_eq!(on_a_gpu.resolve().unwrap().1.precision, Precision::Bf16);
        for other in [Precision::F32, Precision::Bf16] {
            assert_eq!(
                Options { precision: Some(other), ..new.clone() }.resolve().unwrap().1.precision,
                other
            );
            // What a stored run says lies below the options of the command that continues it.
            let stored = TrainConfig { precision: other, ..Preset::Tiny.train() };
            let (_, continued) = new.apply(Preset::Tiny.model(), stored).unwrap();
            assert_eq!(continued.precision, other);
        }
    }
}
