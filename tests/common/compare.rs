//! The tolerance policy: `|got - ref| <= eps_out |ref| + 4 sqrt(K) 2^-24 sum |a||b|`, per element.
//! In the subnormal range of f16, which values near 1 do reach, eps_out is absolute: half of 2^-24.

use trimoe::{DType, Elem};

/// A reference value and what bounds the error of computing it in f32.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bound {
    /// The exact value.
    pub value: f64,
    /// Sum of the magnitudes of the terms.
    pub magnitude: f64,
    /// Number of terms.
    pub terms: usize,
    /// What else is allowed: roundings in between, where the operation's contract has some.
    pub slack: f64,
}

impl Bound {
    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// Allowed error for an output of type `T`.
    pub fn allowed<T: Elem>(&self) -> f64 {
        let subnormal = if T::DTYPE == DType::F16 { 2f64.powi(-25) } else { 0.0 };
        (T::EPS as f64 * self.value.abs()).max(subnormal)
            + 4.0 * (self.terms.max(1) as f64).sqrt() * 2f64.powi(-24) * self.magnitude
            + self.slack
    }
}

/// Asserts every element within its bound; prints and returns the largest share of a bound that was used.
pub fn assert_within<T: Elem>(name: &str, got: &[f64], want: &[Bound]) -> f64 {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let mut used = 0f64;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (error, allowed) = ((g - w.value).abs(), w.allowed::<T>());
        assert!(error <= allowed, "{name}[{i}]: got {g}, want {}, error {error:e} > {allowed:e}", w.value);
        if error > 0.0 {
            used = used.max(error / allowed);
        }
    }
    println!("{name}: {:.0} % of the bound used", used * 100.0);
    used
}

/// Asserts `|got - want| <= relative * (|want| + floor)` for every element.
pub fn close(name: &str, got: &[f64], want: &[f64], relative: f64, floor: f64) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (error, allowed) = ((g - w).abs(), relative * (w.abs() + floor));
        assert!(error <= allowed, "{name}[{i}]: got {g}, want {w}, error {error:e} > {allowed:e}");
    }
}

/// Asserts `|got - want| <= eps_out |want| + ulps 2^-24 (|want| + rms(want))` for every element, for results
/// whose rounding errors are no short sum of magnitudes; prints the largest share of a bound that was used.
pub fn near<T: Elem>(name: &str, got: &[f64], want: &[f64], ulps: f64) {
    near_with::<T>(name, got, want, ulps, &vec![0.0; want.len()]);
}

/// As [`near`], with so much more for each element.
pub fn near_with<T: Elem>(name: &str, got: &[f64], want: &[f64], ulps: f64, more: &[f64]) {
    assert_eq!((got.len(), more.len()), (want.len(), want.len()), "{name}: number of elements");
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64).sqrt();
    let mut used = 0f64;
    for (i, ((g, w), more)) in got.iter().zip(want).zip(more).enumerate() {
        let (error, allowed) =
            ((g - w).abs(), T::EPS as f64 * w.abs() + ulps * 2f64.powi(-24) * (w.abs() + rms) + more);
        assert!(error <= allowed, "{name}[{i}]: got {g}, want {w}, error {error:e} > {allowed:e}");
        used = used.max(if error > 0.0 { error / allowed } else { 0.0 });
    }
    println!("{name}: {:.0} % of the bound used", used * 100.0);
}

/// Asserts `||got - want|| <= limit ||want||`; prints the share of the bound that was used.
pub fn norm_wise(name: &str, got: &[f64], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let allowed = limit * norm(&mut want.iter().copied());
    assert!(error <= allowed, "{name}: error {error:e} > {allowed:e}");
    println!("{name}: {:.0} % of the bound used", if error > 0.0 { error / allowed * 100.0 } else { 0.0 });
}

/// Asserts that all elements are equal; says which is the first that is not.
pub fn identical(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let first = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits());
    assert!(
        first.is_none(),
        "{name}{first:?}: got {:?}, want {:?}",
        first.map(|i| got[i]),
        first.map(|i| want[i])
    );
}

#[test]
fn an_element_moved_by_three_bounds_fails() {
    let mut want = vec![Bound::default(); 8];
    want.iter_mut().enumerate().for_each(|(i, b)| (0..5).for_each(|j| b.add((i * j) as f64 - 3.5)));
    let mut got: Vec<f64> = want.iter().map(|b| b.value).collect();
    assert_within::<f32>("exact", &got, &want);
    got[3] += 3.0 * want[3].allowed::<f32>();
    assert!(std::panic::catch_unwind(|| assert_within::<f32>("moved", &got, &want)).is_err());
    got[3] = f64::NAN;
    assert!(std::panic::catch_unwind(|| assert_within::<f32>("nan", &got, &want)).is_err());
}

#[test]
fn an_error_beyond_the_norm_fails() {
    let want = [3.0, 0.0, 4.0];
    for (moved, ok) in [(4e-6, true), (6e-6, false), (f64::NAN, false)] {
        let got = [3.0, moved, 4.0];
        assert_eq!(std::panic::catch_unwind(|| norm_wise("norm", &got, &want, 1e-6)).is_ok(), ok);
        assert_eq!(std::panic::catch_unwind(|| near::<f32>("near", &got, &want, 28.0)).is_ok(), ok);
    }
}
