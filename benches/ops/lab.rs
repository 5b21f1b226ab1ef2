//! Operands of the rows on a device, and what a row costs by the operation's own count.

use std::cell::Cell;

use trimoe::ops::BuildPlan;
use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Op, Plain, Plan, Result, Tensor};

use crate::coverage;
use crate::shapes::Shape;

/// What an operation says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub op: &'static str,
    pub flops: u64,
    pub bytes: u64,
}

/// A device.
pub struct Lab {
    pub device: Device,
    /// Of the operation that ran last, while somebody wants to know.
    cost: Cell<Option<Cost>>,
    asked: Cell<bool>,
}

/// A row of the table with operands of its own: runs one operation.
pub struct Work {
    /// What tells it from other rows of the operation; empty for the main one.
    pub variant: &'static str,
    steps: Steps,
}

type Steps = Box<dyn FnMut(&Lab, Step) -> Result<()>>;

#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// Gives operands that the operation overwrites their first values again, where these matter.
    Reset,
    Run,
}

impl Work {
    /// An operation that can run on what it left.
    pub fn new(mut run: impl FnMut(&Lab) -> Result<()> + 'static) -> Self {
        let steps = move |lab: &Lab, step| if step == Step::Run { run(lab) } else { Ok(()) };
        Work { variant: "", steps: Box::new(steps) }
    }

    /// An operation that overwrites what it reads; `reset` makes that what it was.
    pub fn in_place<S: 'static>(
        mut state: S,
        reset: impl Fn(&mut S, &Lab) -> Result<()> + 'static,
        run: impl Fn(&mut S, &Lab) -> Result<()> + 'static,
    ) -> Self {
        let steps = move |lab: &Lab, step| match step {
            Step::Reset => reset(&mut state, lab),
            Step::Run => run(&mut state, lab),
        };
        Work { variant: "", steps: Box::new(steps) }
    }

    pub fn variant(self, variant: &'static str) -> Self {
        Work { variant, ..self }
    }

    /// What comes before each run and is not timed.
    pub fn reset(&mut self, lab: &Lab) -> Result<()> {
        (self.steps)(lab, Step::Reset)
    }

    pub fn run(&mut self, lab: &Lab) -> Result<()> {
        (self.steps)(lab, Step::Run)
    }

    /// What the row is called.
    pub fn name(&self, cost: &Cost) -> String {
        if self.variant.is_empty() { cost.op.into() } else { format!("{}-{}", cost.op, self.variant) }
    }

    /// Runs it once, and returns its cost.
    pub fn first(&mut self, lab: &Lab) -> Result<Cost> {
        lab.asked.set(true);
        let ran = self.reset(lab).and_then(|()| self.run(lab));
        lab.asked.set(false);
        ran?;
        Ok(lab.cost.take().expect("every row runs an operation through the lab"))
    }
}

impl Lab {
    pub fn new(device: Device) -> Self {
        Lab { device, cost: Cell::new(None), asked: Cell::new(false) }
    }

    /// Runs the operation of a row.
    pub fn run<O: Op>(&self, op: O) -> Result<()> {
        if !self.asked.get() {
            return self.device.run(op);
        }
        self.cost.set(Some(Cost { op: O::NAME, flops: op.flops(), bytes: op.bytes() }));
        coverage::run(&self.device, op)
    }

    /// A tensor of [`values`].
    pub fn filled<T: Elem, const N: usize>(&self, shape: [usize; N]) -> Result<Tensor<T, N>> {
        self.given(&values::<T>(shape.iter().product()), shape)
    }

    pub fn given<T: Plain, const N: usize>(&self, values: &[T], shape: [usize; N]) -> Result<Tensor<T, N>> {
        let mut tensor = self.device.zeros(shape)?;
        tensor.copy_from(values)?;
        Ok(tensor)
    }

    pub fn zeros<T: Plain, const N: usize>(&self, shape: [usize; N]) -> Result<Tensor<T, N>> {
        self.device.zeros(shape)
    }

    /// One id below `vocab` for each token, in no order.
    pub fn ids(&self, s: &Shape) -> Result<Tensor<u32, 1>> {
        let ids: Vec<u32> = (0..s.tokens).map(|t| (t * 2_654_435_761 % s.vocab) as u32).collect();
        self.given(&ids, [s.tokens])
    }

    /// What the shape's routing chose: clusters and experts.
    pub fn choices(&self, s: &Shape) -> Result<(Tensor<u32, 1>, Tensor<u32, 2>)> {
        let cluster = self.given(&s.clusters_of_tokens(), [s.tokens])?;
        Ok((cluster, self.given(&s.experts_of_slots(), [s.tokens, s.topk])?))
    }

    /// The plan of that routing.
    pub fn plan(&self, s: &Shape) -> Result<Plan> {
        let (cluster, expert) = self.choices(s)?;
        let mut plan = Plan::on(&self.device, s.tokens, s.topk, s.experts, s.clusters)?;
        self.device.run(BuildPlan { cluster: cluster.view(), expert: expert.view(), plan: &mut plan })?;
        plan.status()?;
        Ok(plan)
    }

    /// Room for INT4 values of a shape, scales and zero-points for 32 columns.
    pub fn int4(&self, shape: [usize; 3]) -> Result<Int4Tensor> {
        Int4Tensor::new(&self.device, Int4Layout::new(shape, INT4)?)
    }
}

/// How rows with INT4 weights hold them.
pub const INT4: Int4Format = Int4Format { symmetric: false, block: Int4Block::Columns32 };

/// Values of up to 0.1, neither equal nor denormal, the same on every run.
pub fn values<T: Elem>(len: usize) -> Vec<T> {
    let value = |i: u32| (i.wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1;
    (0..len as u32).map(|i| T::from_f32(value(i))).collect()
}
