//! What is trained and how: the model's shape and the schedule.

mod choices;
mod model;
mod train;

use crate::error::{Error, Result};
pub use crate::moe::FfnKind;
pub use choices::{Balance, BaseWeights, BiasStep, Granularity, Mode, Parts, Precision};
pub use model::ModelConfig;
pub use train::TrainConfig;

fn positive(option: &'static str, value: usize) -> Result<()> {
    if value == 0 { rule(option, value, "must be at least 1".into()) } else { Ok(()) }
}

fn rule(option: &'static str, value: impl ToString, why: String) -> Result<()> {
    Err(Error::config(option, value, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::preset::Preset;

    #[test]
    fn presets_are_valid_in_every_variant() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Base] {
            for ffn in FfnKind::ALL {
                preset.model().variant(ffn).validate().unwrap();
            }
            preset.train().validate(preset.model().seq).unwrap();
        }
    }

    #[test]
    fn schedule_meets_its_corner_points() {
        let train = TrainConfig { lr: 1.0, warmup: 10, steps: 110, burn_in: 20, ..Preset::Tiny.train() };
        let near = |got: f32, want: f32| assert!((got - want).abs() < 1e-6, "{got} {want}");
        near(train.lr_at(1), 0.1);
        near(train.lr_at(10), 1.0);
        near(train.lr_at(60), 0.55);
        near(train.lr_at(110), 0.1);
        near(train.lr_at(500), 0.1);
        near(train.temperature_at(20), 1.0);
        near(train.temperature_at(65), 0.85);
        near(train.temperature_at(110), 0.7);
        // Shorter than warm-up and burn-in: neither divides by zero.
        let short = TrainConfig { steps: 5, ..train };
        near(short.lr_at(5), 0.5);
        near(short.temperature_at(5), 1.0);
    }
}
