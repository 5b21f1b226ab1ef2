//! The registers of a warp: one array of 32 lanes for each, in three files by width.

/// A predicate register: one bit a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct P(pub u32);

/// A register of 8, 16 or 32 bits. Bits above its declared width are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct R(pub u32);

/// A 64-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct D(pub u32);

/// A register of any file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reg {
    P(P),
    R(R),
    D(D),
}

/// How many registers of each file a kernel has, immediates and special registers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Predicates.
    pub p: u32,
    /// Up to 32 bits.
    pub r: u32,
    /// 64 bits.
    pub d: u32,
}

impl Counts {
    /// Index of a register in the one numbering of all files that initialisation masks use.
    pub fn slot(&self, reg: Reg) -> u32 {
        match reg {
            Reg::P(P(i)) => i,
            Reg::R(R(i)) => self.p + i,
            Reg::D(D(i)) => self.p + self.r + i,
        }
    }

    /// Registers of all files.
    pub fn total(&self) -> usize {
        (self.p + self.r + self.d) as usize
    }
}

/// The register files of one warp.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// Predicates, one bit a lane.
    pub p: Vec<u32>,
    /// Registers of up to 32 bits.
    pub r: Vec<[u32; 32]>,
    /// 64-bit registers.
    pub d: Vec<[u64; 32]>,
    /// By [`Counts::slot`]: lanes that have written the register.
    pub written: Vec<u32>,
}

impl Registers {
    /// Files of these sizes, nothing written.
    pub fn new(counts: Counts) -> Self {
        Self {
            p: vec![0; counts.p as usize],
            r: vec![[0; 32]; counts.r as usize],
            d: vec![[0; 32]; counts.d as usize],
            written: vec![0; counts.total()],
        }
    }
}

/// A register file whose lanes hold whole values: [`R`] or [`D`].
pub trait Slot: Copy + Send + Sync + 'static {
    /// Value of one lane.
    type Lane: Copy + Default + Send + Sync + 'static;

    /// All lanes.
    fn get(self, registers: &Registers) -> &[Self::Lane; 32];

    /// All lanes, to change.
    fn get_mut(self, registers: &mut Registers) -> &mut [Self::Lane; 32];

    /// Writes the lanes of `mask`.
    #[inline(always)]
    fn put(self, registers: &mut Registers, values: &[Self::Lane; 32], mask: u32) {
        let to = self.get_mut(registers);
        if mask == u32::MAX {
            *to = *values;
        } else {
            for (lane, (to, value)) in to.iter_mut().zip(values).enumerate() {
                if mask >> lane & 1 != 0 {
                    *to = *value;
                }
            }
        }
    }
}

impl Slot for R {
    type Lane = u32;

    #[inline(always)]
    fn get(self, registers: &Registers) -> &[u32; 32] {
        &registers.r[self.0 as usize]
    }

    #[inline(always)]
    fn get_mut(self, registers: &mut Registers) -> &mut [u32; 32] {
        &mut registers.r[self.0 as usize]
    }
}

impl Slot for D {
    type Lane = u64;

    #[inline(always)]
    fn get(self, registers: &Registers) -> &[u64; 32] {
        &registers.d[self.0 as usize]
    }

    #[inline(always)]
    fn get_mut(self, registers: &mut Registers) -> &mut [u64; 32] {
        &mut registers.d[self.0 as usize]
    }
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}

impl Registers {
    /// Gives every lane of a register the same value; a predicate is true for any but 0.
    pub fn set_all(&mut self, reg: Reg, value: u64) {
        match reg {
            Reg::P(P(i)) => self.p[i as usize] = if value == 0 { 0 } else { u32::MAX },
            Reg::R(R(i)) => self.r[i as usize] = [value as u32; 32],
            Reg::D(D(i)) => self.d[i as usize] = [value; 32],
        }
    }

    /// Gives each lane of a register its own value.
    pub fn set_each(&mut self, reg: Reg, value: impl Fn(u32) -> u64) {
        match reg {
            Reg::P(P(i)) => self.p[i as usize] = (0..32).map(|l| u32::from(value(l) != 0) << l).sum(),
            Reg::R(R(i)) => self.r[i as usize] = std::array::from_fn(|l| value(l as u32) as u32),
            Reg::D(D(i)) => self.d[i as usize] = std::array::from_fn(|l| value(l as u32)),
        }
    }
}
