//! Special registers whose value is fixed for a thread while it runs.

use crate::machine::grid::Launch;
use crate::machine::registers::Reg;

/// Where a warp runs.
pub struct Place<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// `%ctaid`.
    pub index: [u32; 3],
    /// Rank of the block in its cluster.
    pub rank: u32,
    /// Warp of the block.
    pub warp: u32,
}

/// A special register. Those that change while a thread runs (clocks) are instructions instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the PTX special register of its name
#[rustfmt::skip]
pub enum Special {
    Tid(usize), Ntid(usize), Ctaid(usize), Nctaid(usize), LaneId, WarpId, NWarpId, SmId, NSmId, GridId,
    LaneMaskEq, LaneMaskLt, LaneMaskLe, LaneMaskGt, LaneMaskGe, DynamicShared, TotalShared,
    ClusterId(usize), NClusterId(usize), ClusterCtaid(usize), ClusterNctaid(usize), ClusterCtarank, ClusterNctarank,
    IsExplicitCluster,
}

impl Special {
    /// The register of a name with its `%`.
    #[rustfmt::skip]
    pub fn parse(name: &str) -> Option<Special> {
        use Special::*;
        let (base, axis) = match name.rsplit_once('.') {
            Some((base, "x")) => (base, Some(0)),
            Some((base, "y")) => (base, Some(1)),
            Some((base, "z")) => (base, Some(2)),
            Some(_) => return None,
            None => (name, None),
        };
        Some(match (base, axis) {
            ("%tid", Some(i)) => Tid(i), ("%ntid", Some(i)) => Ntid(i),
            ("%ctaid", Some(i)) => Ctaid(i), ("%nctaid", Some(i)) => Nctaid(i),
            ("%clusterid", Some(i)) => ClusterId(i), ("%nclusterid", Some(i)) => NClusterId(i),
            ("%cluster_ctaid", Some(i)) => ClusterCtaid(i), ("%cluster_nctaid", Some(i)) => ClusterNctaid(i),
            ("%cluster_ctarank", None) => ClusterCtarank, ("%cluster_nctarank", None) => ClusterNctarank,
            ("%is_explicit_cluster", None) => IsExplicitCluster,
            ("%laneid", None) => LaneId, ("%warpid", None) => WarpId, ("%nwarpid", None) => NWarpId,
            ("%smid", None) => SmId, ("%nsmid", None) => NSmId, ("%gridid", None) => GridId,
            ("%lanemask_eq", None) => LaneMaskEq, ("%lanemask_lt", None) => LaneMaskLt,
            ("%lanemask_le", None) => LaneMaskLe, ("%lanemask_gt", None) => LaneMaskGt,
            ("%lanemask_ge", None) => LaneMaskGe,
            ("%dynamic_smem_size", None) => DynamicShared, ("%total_smem_size", None) => TotalShared,
            _ => return None,
        })
    }

    /// Its value for one lane. Blocks are said to run on multiprocessor 0: there is no other here.
    pub fn value(self, place: &Place<'_>, lane: u32) -> u64 {
        let launch = place.launch;
        let [bx, by, _] = launch.block;
        let thread = place.warp * 32 + lane;
        let value = match self {
            Special::Tid(0) => thread % bx,
            Special::Tid(1) => thread / bx % by,
            Special::Tid(_) => thread / (bx * by),
            Special::Ntid(i) => launch.block[i],
            Special::Ctaid(i) => place.index[i],
            Special::Nctaid(i) => launch.grid[i],
            Special::LaneId => lane,
            Special::WarpId => place.warp,
            Special::NWarpId => 64,
            Special::SmId | Special::GridId => 0,
            Special::NSmId => 1,
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => u32::MAX >> (31 - lane),
            Special::LaneMaskGt => u32::MAX.checked_shl(lane + 1).unwrap_or(0),
            Special::LaneMaskGe => u32::MAX << lane,
            Special::DynamicShared => launch.dynamic_shared,
            Special::TotalShared => launch.dynamic_shared + launch.kernel.static_shared as u32,
            Special::ClusterId(i) => place.index[i] / launch.cluster[i],
            Special::NClusterId(i) => launch.grid[i] / launch.cluster[i],
            Special::ClusterCtaid(i) => place.index[i] % launch.cluster[i],
            Special::ClusterNctaid(i) => launch.cluster[i],
            Special::ClusterCtarank => place.rank,
            Special::ClusterNctarank => launch.cluster.iter().product(),
            Special::IsExplicitCluster => u32::from(launch.cluster != [1; 3]),
        };
        u64::from(value)
    }

    /// Whether a predicate holds it, not a 32-bit register.
    pub fn is_predicate(self) -> bool {
        self == Special::IsExplicitCluster
    }
}

/// A special register and where a kernel keeps it.
pub type Placed = (Reg, Special);
