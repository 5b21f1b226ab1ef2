//! Weights for the passes of a step: brought for each layer, and away again.

use super::forecast::Visit;
use super::part::{Kind, Part};
use super::{Offload, hollow};
use crate::elem::Elem;
use crate::error::Result;
use crate::train::param::Param;

/// Passes for which parts are read ahead.
const AHEAD: usize = 2;

impl Offload {
    /// Forgets which clusters the last step's batches chose.
    pub fn begin_step(&mut self) {
        self.chosen.fill(false);
    }

    /// Before the forward of a layer whose router chose clusters with these bounds of rows: fills their weights.
    pub fn enter_forward<T: Elem>(
        &mut self,
        layer: usize,
        bounds: &[u32],
        params: &mut [Param<T>],
    ) -> Result<()> {
        self.store.forecast.visit(Visit::Forward(layer));
        let first = self.cluster(layer, 0);
        let more = self.chosen[first..first + self.store.parts.clusters].contains(&true);
        self.store.forecast.chose(layer, bounds.windows(2).map(|b| b[0] < b[1]), more);
        self.fill_weights(layer, bounds, params)
    }

    /// Before the backward of a layer: fills the weights of the clusters that its forward chose, and makes room for the
    /// gradients of a step's first micro-batch, which take memory where they are not zero.
    pub fn enter_backward<T: Elem>(
        &mut self,
        layer: usize,
        bounds: &[u32],
        more: bool,
        params: &mut [Param<T>],
    ) -> Result<()> {
        self.store.forecast.visit(Visit::Backward(layer));
        for (cluster, b) in bounds.windows(2).enumerate() {
            let i = self.cluster(layer, cluster);
            self.chosen[i] |= b[0] < b[1];
        }
        for (t, param) in params.iter_mut().enumerate() {
            if let Some(state) = param.state.as_mut().filter(|s| !more || s.grad.is_empty()) {
                state.grad = hollow(&self.device, &state.grad)?;
                state.grad = self.device.zeros(self.store.parts.whole(t))?;
            }
        }
        self.fill_weights(layer, bounds, params)
    }

    fn fill_weights<T: Elem>(&mut self, layer: usize, bounds: &[u32], params: &mut [Param<T>]) -> Result<()> {
        let chosen = bounds.windows(2).enumerate().filter(|(_, b)| b[0] < b[1]).map(|(cluster, _)| cluster);
        let parts: Vec<Part> = chosen.map(|cluster| Part { layer, cluster, kind: Kind::Weights }).collect();
        if self.lane.is_some() {
            return self.fill_on_device(layer, &parts, params);
        }
        self.open(parts.len() as u64 * self.store.parts.bytes(Kind::Weights))?;
        self.store.need(&parts)?;
        for (t, param) in params.iter_mut().enumerate() {
            param.weight = self.device.zeros(self.store.parts.whole(t))?;
        }
        for part in parts {
            self.catch_up::<T>(layer, part.cluster)?;
            let words = self.store.take(part)?;
            self.store.parts.fill(part, &words, params)?;
            self.store.give(part, words, false);
        }
        self.used(layer);
        self.read_ahead()
    }

    /// The same on a CUDA device: what this layer needs is there or on its way, and what the next one needs sets out.
    fn fill_on_device<T: Elem>(
        &mut self,
        layer: usize,
        parts: &[Part],
        params: &mut [Param<T>],
    ) -> Result<()> {
        if self.lane.as_ref().is_some_and(|lane| lane.layer() != Some(layer)) {
            self.land(false)?;
            self.send::<T>(layer)?;
        }
        self.land(true)?;
        for (t, param) in params.iter_mut().enumerate() {
            param.weight = self.device.zeros(self.store.parts.whole(t))?;
            if let Some(lane) = &self.lane {
                lane.place(&self.store.parts, parts, t, &mut param.weight)?;
            }
        }
        self.used(layer);
        self.read_ahead()?;
        self.store.forecast.next_pass().map_or(Ok(()), |next| self.send::<T>(next))
    }

    /// Sends the weights of a layer on their way. Their words stay out of the store until they [land](Self::land).
    fn send<T: Elem>(&mut self, layer: usize) -> Result<()> {
        let clusters = 0..self.store.parts.clusters;
        let parts: Vec<Part> = clusters.map(|cluster| Part { layer, cluster, kind: Kind::Weights }).collect();
        self.store.need(&parts)?;
        if let Some(lane) = &mut self.lane {
            lane.start(layer)?;
        }
        for part in parts {
            self.catch_up::<T>(layer, part.cluster)?;
            let words = self.store.take(part)?;
            if let Some(lane) = &mut self.lane {
                lane.send(part, words)?;
            }
        }
        Ok(())
    }

    /// Waits for what is on its way and takes its words back; unless it is to `stay`, what the device has of it counts no
    /// more, because it may change.
    pub(super) fn land(&mut self, stay: bool) -> Result<()> {
        let Some(lane) = &mut self.lane else { return Ok(()) };
        for (part, words) in lane.land(stay)? {
            self.store.give(part, words, false);
        }
        Ok(())
    }

    /// A pass used the weights of a layer.
    fn used(&mut self, layer: usize) {
        for part in self.of_layer(layer) {
            let index = self.store.parts.index(part);
            if part.kind == Kind::Weights {
                self.store.forecast.used(index);
            }
        }
    }

    pub(super) fn read_ahead(&mut self) -> Result<()> {
        let next = self.store.forecast.ahead(AHEAD, &self.store.parts);
        self.store.prefetch(&next)
    }

    /// Counts the tensors that are about to be filled. Those of a pass that ended in an error are gone by now.
    pub(super) fn open(&mut self, bytes: u64) -> Result<()> {
        self.close();
        self.store.reserve(bytes)?;
        self.window = bytes;
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.store.release(std::mem::take(&mut self.window));
    }

    /// After a pass over a layer: its weights become hollow.
    pub fn leave<T: Elem>(&mut self, params: &mut [Param<T>]) -> Result<()> {
        for param in params {
            param.weight = hollow(&self.device, &param.weight)?;
        }
        self.close();
        Ok(())
    }
}
