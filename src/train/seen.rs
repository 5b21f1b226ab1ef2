//! What the experts of a layer were sent in a step.

/// The mean token and the slots of each expert, over the micro-batches of a step so far.
#[derive(Debug)]
pub(super) struct Seen {
    /// `[experts, hidden]`; of no meaning for an expert without slots.
    mean: Vec<f32>,
    slots: Vec<u64>,
    hidden: usize,
}

impl Seen {
    /// Nothing; `hidden` is at least 1.
    pub fn new(experts: usize, hidden: usize) -> Self {
        Seen { mean: vec![0.0; experts * hidden], slots: vec![0; experts], hidden }
    }

    /// Nothing again.
    pub fn forget(&mut self) {
        self.slots.fill(0);
    }

    /// Takes in a micro-batch, which sent each expert rows of this mean, `[experts, hidden]`, and brought its slots to
    /// `slots`.
    pub fn add(&mut self, mean: &[f32], slots: &[u64]) {
        let rows = self.mean.chunks_exact_mut(self.hidden).zip(mean.chunks_exact(self.hidden));
        for ((seen, mean), (before, &now)) in rows.zip(self.slots.iter_mut().zip(slots)) {
            match now - *before {
                0 => {}
                n if n == now => seen.copy_from_slice(mean),
                n => {
                    let share = n as f32 / now as f32;
                    seen.iter_mut().zip(mean).for_each(|(seen, mean)| *seen += share * (mean - *seen));
                }
            }
            *before = now;
        }
    }

    /// Moves the moving means of tokens, `[experts, hidden]`, and of slots towards what was seen. Tokens of an expert that got
    /// none stay where they are.
    pub fn move_towards(&self, tokens: &mut [f32], slots: &mut [f32], rate: f32) {
        let towards = |mean: &mut f32, value: f32| *mean = (1.0 - rate) * *mean + rate * value;
        let rows = tokens.chunks_exact_mut(self.hidden).zip(self.mean.chunks_exact(self.hidden));
        for ((mean, seen), _) in rows.zip(&self.slots).filter(|(_, n)| **n > 0) {
            mean.iter_mut().zip(seen).for_each(|(mean, &seen)| towards(mean, seen));
        }
        slots.iter_mut().zip(&self.slots).for_each(|(mean, &n)| towards(mean, n as f32));
    }
}

#[test]
fn micro_batches_weigh_as_their_slots() {
    let mut seen = Seen::new(3, 2);
    // What is left of a step that did not count.
    seen.add(&[f32::NAN; 6], &[1, 1, 1]);
    seen.forget();
    seen.add(&[1.0, 2.0, 0.0, 0.0, 0.0, 0.0], &[1, 0, 0]);
    seen.add(&[5.0, 2.0, 7.0, 8.0, 0.0, 0.0], &[4, 2, 0]);
    let (mut tokens, mut slots) = ([2.0; 6], [0.0, 0.0, 6.0]);
    seen.move_towards(&mut tokens, &mut slots, 0.5);
    assert_eq!(tokens, [3.0, 2.0, 4.5, 5.0, 2.0, 2.0]);
    assert_eq!(slots, [2.0, 1.0, 3.0]);
}
