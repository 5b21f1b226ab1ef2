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
pub trait Operand {
    /// Whether all of it is at `place`. Nothing is everywhere.
    fn is_at(&self, place: Place) -> bool;
    /// How large it is, for traces: the shape of a view, the number of members of a list, the rows and groups of segments;
    /// empty if there is none.
    fn sizes(&self) -> Vec<usize>;
}

/// Is called with each operand of an operation and its name.
pub type Visit<'v> = &'v mut dyn FnMut(&'static str, &dyn Operand);

impl<T, const N: usize> Operand for View<'_, T, N> {
    fn is_at(&self, place: Place) -> bool {
        self.place() == place || self.shape().contains(&0)
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

impl<T, const N: usize> Operand for ViewMut<'_, T, N> {
    fn is_at(&self, place: Place) -> bool {
        self.place() == place || self.shape().contains(&0)
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

impl<P: Operand> Operand for Option<P> {
    fn is_at(&self, place: Place) -> bool {
        self.as_ref().is_none_or(|p| p.is_at(place))
    }

    fn sizes(&self) -> Vec<usize> {
        self.as_ref().map(P::sizes).unwrap_or_default()
    }
}

impl<P: Operand> Operand for Vec<P> {
    fn is_at(&self, place: Place) -> bool {
        self.iter().all(|p| p.is_at(place))
    }

    fn sizes(&self) -> Vec<usize> {
        vec![self.len()]
    }
}

impl<P: Operand, const N: usize> Operand for [P; N] {
    fn is_at(&self, place: Place) -> bool {
        self.iter().all(|p| p.is_at(place))
    }

    fn sizes(&self) -> Vec<usize> {
        vec![N]
    }
}

impl<P: Operand + ?Sized> Operand for &P {
    fn is_at(&self, place: Place) -> bool {
        (**self).is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        (**self).sizes()
    }
}

impl<P: Operand + ?Sized> Operand for &mut P {
    fn is_at(&self, place: Place) -> bool {
        (**self).is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        (**self).sizes()
    }
}

impl Operand for Order {
    fn is_at(&self, place: Place) -> bool {
        self.place_is(place)
    }

    fn sizes(&self) -> Vec<usize> {
        vec![self.rows(), self.groups()]
    }
}

impl Operand for Plan {
    fn is_at(&self, place: Place) -> bool {
        self.by_cluster().is_at(place) && self.by_expert().is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        vec![self.tokens(), self.topk()]
    }
}

impl<T: Plain, const N: usize> Operand for Tensor<T, N> {
    fn is_at(&self, place: Place) -> bool {
        self.place() == place || self.is_empty()
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

impl Operand for Segments<'_> {
    fn is_at(&self, place: Place) -> bool {
        match self {
            Segments::Whole(_) => true,
            Segments::Sorted(order) | Segments::Gathered(order) => order.is_at(place),
        }
    }

    fn sizes(&self) -> Vec<usize> {
        vec![self.rows(), self.groups()]
    }
}

/// The body of [`Op::operands`](crate::Op::operands): the operands, by field.
macro_rules! operands {
    ($op:ident to $visit:ident: $($field:ident),+) => {{
        $($visit(stringify!($field), &$op.$field);)+
    }};
}
pub(crate) use operands;
