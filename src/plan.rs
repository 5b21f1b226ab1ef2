//! The plan of a routed batch: which row of a sorted buffer belongs to which token.

#[cfg(feature = "cuda")]
use std::sync::Arc;

#[cfg(feature = "cuda")]
use cudarc::driver::CudaSlice;

#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::error::{Error, Result, ensure};
use crate::place::Place;

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
            Segments::Sorted(order) | Segments::Gathered(order) => order.offsets.len() - 1,
        }
    }

    /// Number of rows of all groups together.
    pub fn rows(&self) -> usize {
        match self {
            Segments::Whole(rows) => *rows,
            Segments::Sorted(order) | Segments::Gathered(order) => order.rows(),
        }
    }

    /// First row of each group, then the number of rows.
    pub fn bounds(&self) -> Vec<usize> {
        match self {
            Segments::Whole(rows) => vec![0, *rows],
            Segments::Sorted(order) | Segments::Gathered(order) => {
                order.offsets.iter().map(|&o| o as usize).collect()
            }
        }
    }
}

/// A stable order of (token, slot) pairs by group, and its inverse.
///
/// With `fan` slots a token, choice `c = token * fan + slot`; row `p` of a sorted buffer holds choice
/// `source[p]`, and choice `c` lies at row `place[c]`. Rows of one group keep the order of their choices.
#[derive(Clone, Debug)]
pub struct Order {
    fan: usize,
    offsets: Vec<u32>, // [groups + 1]
    source: Vec<u32>,  // [rows] -> choice
    place: Vec<u32>,   // [choices] -> row
    #[cfg(feature = "cuda")]
    device: Option<DeviceOrder>,
}

/// A copy of an order on a CUDA device.
#[cfg(feature = "cuda")]
#[derive(Clone, Debug)]
struct DeviceOrder {
    on: Place,
    offsets: Arc<CudaSlice<u32>>,
    source: Arc<CudaSlice<u32>>,
    place: Arc<CudaSlice<u32>>,
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

impl PartialEq for Order {
    /// Whether it is the same order, wherever copies of it are.
    fn eq(&self, other: &Self) -> bool {
        let Order { fan, offsets, source, place, .. } = self;
        (fan, offsets, source, place) == (&other.fan, &other.offsets, &other.source, &other.place)
    }
}

impl Eq for Order {}

impl Order {
    /// All choices in group 0, in their own order.
    fn identity(tokens: usize, fan: usize, groups: usize) -> Self {
        let rows = (tokens * fan) as u32;
        let mut offsets = vec![rows; groups + 1];
        offsets[0] = 0;
        Order {
            fan,
            offsets,
            source: (0..rows).collect(),
            place: (0..rows).collect(),
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// Sorts by group: a stable counting sort, O(rows + groups).
    fn sort(&mut self, ids: impl Iterator<Item = u32> + Clone) {
        #[cfg(feature = "cuda")]
        {
            self.device = None;
        }
        self.offsets.fill(0);
        for id in ids.clone() {
            self.offsets[id as usize + 1] += 1;
        }
        for g in 1..self.offsets.len() {
            self.offsets[g] += self.offsets[g - 1];
        }
        let mut next = self.offsets.clone();
        for (choice, id) in ids.enumerate() {
            let row = next[id as usize];
            next[id as usize] += 1;
            self.source[row as usize] = choice as u32;
            self.place[choice] = row;
        }
    }

    /// Whether kernels of `place` can read it.
    pub(crate) fn place_is(&self, place: Place) -> bool {
        match place {
            Place::Host => true,
            #[cfg(feature = "cuda")]
            place => self.device.as_ref().is_some_and(|d| d.on == place),
            #[cfg(not(feature = "cuda"))]
            _ => false,
        }
    }

    #[cfg(feature = "cuda")]
    fn upload(&mut self, cuda: &Cuda) -> Result<()> {
        let copy = |values: &[u32]| {
            Ok(Arc::new(if values.is_empty() { cuda.zeros(0)? } else { cuda.upload(values)? }))
        };
        self.device = Some(DeviceOrder {
            on: cuda.place(),
            offsets: copy(&self.offsets)?,
            source: copy(&self.source)?,
            place: copy(&self.place)?,
        });
        Ok(())
    }

    /// Where the copy on a device is.
    #[cfg(feature = "cuda")]
    pub(crate) fn addresses(&self, cuda: &Cuda) -> Result<OrderAddresses> {
        let Some(device) = self.device.as_ref().filter(|d| d.on == cuda.place()) else {
            let values = format!("device = {cuda}");
            return Err(Error::Rule { op: "Plan", rule: "the plan was copied to the device", values });
        };
        let address = |slice: &CudaSlice<u32>| Ok(cuda.view(slice, 0, [slice.len()], [1])?.address());
        Ok(OrderAddresses {
            offsets: address(&device.offsets)?,
            source: address(&device.source)?,
            place: address(&device.place)?,
        })
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

    /// First row of each group, then the number of rows: `[groups + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// The choice (`token * fan + slot`) at each row: `[rows]`.
    pub fn source(&self) -> &[u32] {
        &self.source
    }

    /// The row of each choice: `[tokens * fan]`.
    pub fn place(&self) -> &[u32] {
        &self.place
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

/// The two orders of a routed batch: tokens by cluster, and (token, slot) pairs by expert.
///
/// Expert `e` belongs to cluster `e / (experts / clusters)`, so the second order refines the first. A plan
/// cannot hold an index out of range: [`Plan::build`] checks every id it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    by_cluster: Order,
    by_expert: Order,
}

impl Plan {
    /// A plan for `tokens` tokens with `topk` slots each; until built it sends every choice to expert 0.
    pub fn new(tokens: usize, topk: usize, experts: usize, clusters: usize) -> Result<Self> {
        ensure!(
            "Plan",
            clusters >= 1 && experts.is_multiple_of(clusters),
            experts = experts,
            clusters = clusters
        );
        ensure!(
            "Plan",
            topk >= 1 && topk <= experts / clusters,
            topk = topk,
            experts = experts,
            clusters = clusters
        );
        let rows = tokens.checked_mul(topk);
        ensure!("Plan", rows.is_some_and(|n| n < u32::MAX as usize), tokens = tokens, topk = topk);
        let by_cluster = Order::identity(tokens, 1, clusters);
        Ok(Plan { by_cluster, by_expert: Order::identity(tokens, topk, experts) })
    }

    /// Sorts the choices of a router: `cluster` is `[tokens]`, `expert` is `[tokens, topk]`.
    ///
    /// Errors, leaving the plan as it was, if an id is out of range, an expert lies outside its token's cluster,
    /// or a token names one twice. Stable: rows of a group are in token order.
    pub fn build(&mut self, cluster: &[u32], expert: &[u32]) -> Result<()> {
        let (tokens, topk) = (self.tokens(), self.topk());
        ensure!("Plan", cluster.len() == tokens, cluster = cluster.len(), tokens = tokens);
        ensure!("Plan", expert.len() == tokens * topk, expert = expert.len(), tokens = tokens, topk = topk);
        let (clusters, per) = (self.clusters() as u32, self.experts() / self.clusters());
        for (token, (&g, chosen)) in cluster.iter().zip(expert.chunks_exact(topk)).enumerate() {
            let inside = |&e: &u32| e as usize / per == g as usize;
            let repeated = |i: usize| chosen[..i].contains(&chosen[i]);
            if g >= clusters || !chosen.iter().all(inside) || (1..topk).any(repeated) {
                let values = format!("token = {token}, cluster = {g}, expert = {chosen:?}");
                let rule = "the experts of a token are distinct and lie in its cluster";
                return Err(Error::Rule { op: "Plan", rule, values });
            }
        }
        self.by_cluster.sort(cluster.iter().copied());
        self.by_expert.sort(expert.iter().copied());
        Ok(())
    }

    /// Makes this a plan for another number of tokens, unless it is one; until built as after [`Plan::new`].
    pub fn resize(&mut self, tokens: usize) -> Result<()> {
        if tokens != self.tokens() {
            *self = Plan::new(tokens, self.topk(), self.experts(), self.clusters())?;
        }
        Ok(())
    }

    /// Copies the orders to a CUDA device, so that operations there can use them, until the next
    /// [`build`](Plan::build).
    #[cfg(feature = "cuda")]
    pub fn upload(&mut self, cuda: &Cuda) -> Result<()> {
        self.by_cluster.upload(cuda)?;
        self.by_expert.upload(cuda)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let order = |o: &Order| 4 * (o.offsets.len() + o.source.len() + o.place.len()) as u64;
        order(&self.by_cluster) + order(&self.by_expert)
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.by_cluster.rows()
    }

    /// Slots per token.
    pub fn topk(&self) -> usize {
        self.by_expert.fan
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.by_expert.groups()
    }

    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        self.by_cluster.groups()
    }

    /// Tokens sorted by cluster: one row a token.
    pub fn by_cluster(&self) -> &Order {
        &self.by_cluster
    }

    /// (token, slot) pairs sorted by expert: `topk` rows a token.
    pub fn by_expert(&self) -> &Order {
        &self.by_expert
    }
}
