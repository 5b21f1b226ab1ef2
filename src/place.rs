//! Where memory is.

use std::fmt;

use crate::elem::Plain;
use crate::plan::{Order, Plan, Segments};
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Where memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// In host memory: the CPU reads and writes it.
    #[default]
    Host,
    /// In the memory of the CUDA device with this number.
    Cuda(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host => write!(f, "host memory"),
            Place::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// An argument of an operation that refers to memory.
pub(crate) trait Placed {
    /// Whether all of it is at `place`. Nothing is everywhere.
    fn is_at(&self, place: Place) -> bool;
}

impl<T, const N: usize> Placed for View<'_, T, N> {
    fn is_at(&self, place: Place) -> bool {
        self.place() == place || self.shape().contains(&0)
    }
}

impl<T, const N: usize> Placed for ViewMut<'_, T, N> {
    fn is_at(&self, place: Place) -> bool {
        self.place() == place || self.shape().contains(&0)
    }
}

impl<P: Placed> Placed for Option<P> {
    fn is_at(&self, place: Place) -> bool {
        self.as_ref().is_none_or(|p| p.is_at(place))
    }
}

impl<P: Placed> Placed for Vec<P> {
    fn is_at(&self, place: Place) -> bool {
        self.iter().all(|p| p.is_at(place))
    }
}

impl<P: Placed, const N: usize> Placed for [P; N] {
    fn is_at(&self, place: Place) -> bool {
        self.iter().all(|p| p.is_at(place))
    }
}

impl<P: Placed + ?Sized> Placed for &P {
    fn is_at(&self, place: Place) -> bool {
        (**self).is_at(place)
    }
}

impl<P: Placed + ?Sized> Placed for &mut P {
    fn is_at(&self, place: Place) -> bool {
        (**self).is_at(place)
    }
}

impl Placed for Order {
    fn is_at(&self, place: Place) -> bool {
        self.place_is(place)
    }
}

impl Placed for Plan {
    fn is_at(&self, place: Place) -> bool {
        self.by_cluster().is_at(place) && self.by_expert().is_at(place)
    }
}

impl<T: Plain, const N: usize> Placed for Tensor<T, N> {
    fn is_at(&self, place: Place) -> bool {
        self.place() == place || self.is_empty()
    }
}

impl Placed for Segments<'_> {
    fn is_at(&self, place: Place) -> bool {
        match self {
            Segments::Whole(_) => true,
            Segments::Sorted(order) | Segments::Gathered(order) => order.is_at(place),
        }
    }
}

/// The body of [`Op::misplaced`](crate::Op::misplaced): the operands to look at, by field.
macro_rules! misplaced {
    ($op:ident at $place:ident: $($field:ident),+) => {{
        $(if !crate::place::Placed::is_at(&$op.$field, $place) {
            return Some(stringify!($field));
        })+
        None
    }};
}
pub(crate) use misplaced;
