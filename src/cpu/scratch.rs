//! Per-thread f32 buffers that outlive a task, so that a tile costs no allocation.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with buffers of the given lengths, whose contents are arbitrary.
pub(crate) fn with<const N: usize, R>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let total = lens.iter().sum();
    if buffer.len() < total {
        buffer.resize(total, 0.0);
    }
    let mut rest = &mut buffer[..];
    let parts = lens.map(|len| {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
        rest = tail;
        part
    });
    let result = work(parts);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

#[test]
fn nested_buffers_are_distinct() {
    with([3, 2], |[a, b]| {
        a.fill(1.0);
        b.fill(2.0);
        with([5], |[c]| c.fill(3.0));
        assert_eq!((&a[..], &b[..]), (&[1.0; 3][..], &[2.0; 2][..]));
    });
}
