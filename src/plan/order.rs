//! A stable order of choices by group, and the segments it cuts rows into.

use crate::device::Device;
use crate::error::Result;
use crate::place::Place;
use crate::tensor::Tensor;
#[cfg(feature = "cuda")]
use crate::{cuda::Cuda, error::Error};

/// The segments of rows that share one weight matrix: group `g` owns rows `offsets[g]..offsets[g + 1]`.
///
/// Valid by construction: ascending, from 0 to the number of rows.
#[derive(Clone, Copy, Debug)]
pub enum Segments<'a> {
    /// One group with all rows: an ordinary matrix product.
    Whole(usize),
    /// The segments of an [`Order`].
    Sorted(&'a Order),
    /// The segments of an [`Order`], with the input still in token order: its row for row `p` of the segments is that
    /// of the token of `source[p]`.
    Gathered(&'a Order),
}

impl<'a> Segments<'a> {
    /// The order they come from.
    #[cfg(feature = "cuda")]
    pub(crate) fn order(&self) -> Option<&'a Order> {
        match self {
            Segments::Whole(_) => None,
            Segments::Sorted(order) | Segments::Gathered(order) => Some(order),
        }
    }

    /// The order in which rows of the input are gathered.
    pub(crate) fn gather(&self) -> Option<&'a Order> {
        if let Segments::Gathered(order) = self { Some(order) } else { None }
    }

    /// Number of rows of the input.
    pub(crate) fn sources(&self) -> usize {
        self.gather().map_or(self.rows(), Order::tokens)
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        match self {
            Segments::Whole(_) => 1,
            Segments::Sorted(order) | Segments::Gathered(order) => order.groups(),
        }
    }

    /// Number of rows of all groups together.
    pub fn rows(&self) -> usize {
        match self {
            Segments::Whole(rows) => *rows,
            Segments::Sorted(order) | Segments::Gathered(order) => order.rows(),
        }
    }

    /// First row of each group, then the number of rows; errors if the order is not in host memory.
    pub fn bounds(&self) -> Result<Vec<usize>> {
        Ok(match self {
            Segments::Whole(rows) => vec![0, *rows],
            Segments::Sorted(order) | Segments::Gathered(order) => {
                order.host()?.offsets.iter().map(|&o| o as usize).collect()
            }
        })
    }
}

/// A stable order of (token, slot) pairs by group, and its inverse.
///
/// With `fan` slots a token, choice `c = token * fan + slot`; row `p` of a sorted buffer holds choice
/// `source[p]`, and choice `c` lies at row `place[c]`. Rows of one group keep the order of their choices.
#[derive(Debug)]
pub struct Order {
    fan: usize,
    pub(super) offsets: Tensor<u32, 1>, // [groups + 1]
    pub(super) source: Tensor<u32, 1>,  // [rows] -> choice
    pub(super) place: Tensor<u32, 1>,   // [choices] -> row
    /// A copy on a CUDA device, of an order that was sorted on the host.
    #[cfg(feature = "cuda")]
    copy: Option<Box<Order>>,
}

/// The arrays of an [`Order`] in host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOrder<'a> {
    /// First row of each group, then the number of rows: `[groups + 1]`.
    pub offsets: &'a [u32],
    /// The choice (`token * fan + slot`) at each row: `[rows]`.
    pub source: &'a [u32],
    /// The row of each choice: `[tokens * fan]`.
    pub place: &'a [u32],
}

/// The addresses of an order's arrays on a CUDA device.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderAddresses {
    /// `[groups + 1]`: first row of each group, then the number of rows.
    pub offsets: u64,
    /// `[rows]` -> choice.
    pub source: u64,
    /// `[choices]` -> row.
    pub place: u64,
}

impl Order {
    /// Room for an order, which is none until it is sorted.
    pub(super) fn unsorted(device: &Device, tokens: usize, fan: usize, groups: usize) -> Result<Self> {
        Ok(Order {
            fan,
            offsets: device.zeros([groups + 1])?,
            source: device.zeros([tokens * fan])?,
            place: device.zeros([tokens * fan])?,
            #[cfg(feature = "cuda")]
            copy: None,
        })
    }

    /// Makes this room for another number of tokens.
    pub(super) fn resize(&mut self, tokens: usize) -> Result<()> {
        self.source.resize(tokens * self.fan)?;
        self.place.resize(tokens * self.fan)
    }

    /// Sorts by group on the host: a stable counting sort, O(rows + groups). Every id is a group; there are as many as
    /// choices.
    pub(super) fn sort(&mut self, ids: impl Iterator<Item = u32> + Clone) -> Result<()> {
        #[cfg(feature = "cuda")]
        {
            self.copy = None;
        }
        let Order { offsets, source, place, .. } = self;
        let (offsets, source, place) = (offsets.host_mut()?, source.host_mut()?, place.host_mut()?);
        offsets.fill(0);
        for id in ids.clone() {
            offsets[id as usize + 1] += 1;
        }
        for g in 1..offsets.len() {
            offsets[g] += offsets[g - 1];
        }
        let mut next = offsets.to_vec();
        for (choice, id) in ids.enumerate() {
            let row = next[id as usize];
            next[id as usize] += 1;
            source[row as usize] = choice as u32;
            place[choice] = row;
        }
        Ok(())
    }

    /// Where it was made; operations may read a copy elsewhere.
    pub(super) fn home(&self) -> Place {
        self.offsets.place()
    }

    /// Whether operations at `place` can read it.
    pub(crate) fn place_is(&self, place: Place) -> bool {
        #[cfg(feature = "cuda")]
        if self.copy.as_ref().is_some_and(|copy| copy.home() == place) {
            return true;
        }
        self.home() == place
    }

    #[cfg(feature = "cuda")]
    pub(super) fn upload(&mut self, cuda: &Cuda) -> Result<()> {
        let copied = |from: &Tensor<u32, 1>| {
            let mut to = Tensor::zeros_on(cuda, from.shape())?;
            to.copy_from(from.host()?)?;
            Ok(to)
        };
        let (offsets, source, place) = (copied(&self.offsets)?, copied(&self.source)?, copied(&self.place)?);
        self.copy = Some(Box::new(Order { fan: self.fan, offsets, source, place, copy: None }));
        Ok(())
    }

    /// Where it is on a device.
    #[cfg(feature = "cuda")]
    pub(crate) fn addresses(&self, cuda: &Cuda) -> Result<OrderAddresses> {
        let all = [Some(self), self.copy.as_deref()].into_iter().flatten();
        let Some(here) = all.into_iter().find(|order| order.home() == cuda.place()) else {
            let values = format!("device = {cuda}");
            return Err(Error::Rule { op: "Plan", rule: "the plan is on the device", values });
        };
        let address = |tensor: &Tensor<u32, 1>| tensor.view().address();
        Ok(OrderAddresses {
            offsets: address(&here.offsets),
            source: address(&here.source),
            place: address(&here.place),
        })
    }

    /// The arrays; errors if they are not in host memory.
    pub fn host(&self) -> Result<HostOrder<'_>> {
        let Order { offsets, source, place, .. } = self;
        Ok(HostOrder { offsets: offsets.host()?, source: source.host()?, place: place.host()? })
    }

    /// The arrays, copied from wherever they are: offsets, source, place. Waits for the device.
    pub fn to_vecs(&self) -> Result<[Vec<u32>; 3]> {
        Ok([self.offsets.to_vec()?, self.source.to_vec()?, self.place.to_vec()?])
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.offsets.bytes() + self.source.bytes() + self.place.bytes()
    }

    /// Number of rows: tokens x fan.
    pub fn rows(&self) -> usize {
        self.source.len()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.source.len() / self.fan
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Slots per token.
    pub fn fan(&self) -> usize {
        self.fan
    }

    /// As in [`HostOrder`]; empty if not in host memory, where operations of the CPU never look.
    pub(crate) fn offsets(&self) -> &[u32] {
        self.offsets.host().unwrap_or_default()
    }

    /// As [`Order::offsets`].
    pub(crate) fn source(&self) -> &[u32] {
        self.source.host().unwrap_or_default()
    }

    /// As [`Order::offsets`].
    pub(crate) fn place(&self) -> &[u32] {
        self.place.host().unwrap_or_default()
    }

    /// The segments of this order, for a grouped product.
    pub fn segments(&self) -> Segments<'_> {
        Segments::Sorted(self)
    }

    /// The segments of this order, for a grouped product whose input is in token order.
    pub fn gathered(&self) -> Segments<'_> {
        Segments::Gathered(self)
    }
}
