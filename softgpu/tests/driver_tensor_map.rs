//! Tensor maps: what is written can be read, and what no tensor memory accelerator could do is refused.

use softgpu::driver::cuTensorMapEncodeTiled;
use softgpu::tensor_map::TensorMap;

/// The arguments of one call, right unless a test changes them.
struct Call {
    kind: u32,
    rank: u32,
    base: u64,
    dims: [u64; 5],
    strides: [u64; 4],
    sizes: [u32; 5],
    steps: [u32; 5],
    swizzle: u32,
    fill: u32,
}

impl Default for Call {
    fn default() -> Self {
        Call {
            kind: 9,
            rank: 2,
            base: 0x7000_0000_0200,
            dims: [1 << 32, 1000, 1, 1, 1],
            strides: [8192, 0, 0, 0],
            sizes: [64, 256, 1, 1, 1],
            steps: [1, 2, 1, 1, 1],
            swizzle: 3,
            fill: 1,
        }
    }
}

impl Call {
    fn encode(&self) -> (u32, [u8; 128]) {
        let mut map = [0; 128];
        let base = std::ptr::without_provenance_mut(self.base as usize);
        let (dims, strides) = (self.dims.as_ptr(), self.strides.as_ptr());
        let (sizes, steps) = (self.sizes.as_ptr(), self.steps.as_ptr());
        // SAFETY: the arrays have room for rank 5; the address is not followed.
        let code = unsafe {
            let (kind, rank) = (self.kind, self.rank);
            cuTensorMapEncodeTiled(
                &mut map,
                kind,
                rank,
                base,
                dims,
                strides,
                sizes,
                steps,
                0,
                self.swizzle,
                2,
                self.fill,
            )
        };
        (code, map)
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    let (code, bytes) = Call::default().encode();
    assert_eq!(code, 0);
    let expected = TensorMap {
        data_type: 9,
        rank: 2,
        interleave: 0,
        swizzle: 3,
        l2_promotion: 2,
        fill: 1,
        base: 0x7000_0000_0200,
        dims: [1 << 32, 1000, 1, 1, 1],
        strides: [2, 8192, 0, 0, 0],
        box_dims: [64, 256, 1, 1, 1],
        element_strides: [1, 2, 1, 1, 1],
    };
    assert_eq!(TensorMap::decode(&bytes), Some(expected));
    assert_eq!(TensorMap::decode(&[0; 128]), None);
}

#[test]
fn each_rule_is_checked() {
    let good = Call::default;
    let bad = [
        ("base", Call { base: 0x7000_0000_0208, ..good() }),
        ("null dims", Call { rank: 0, ..good() }),
        ("rank", Call { rank: 6, ..good() }),
        ("type", Call { kind: 16, ..good() }),
        ("dimension 0", Call { dims: [0, 1, 1, 1, 1], ..good() }),
        ("dimension too large", Call { dims: [(1 << 32) + 1, 1, 1, 1, 1], ..good() }),
        ("stride", Call { strides: [8200, 0, 0, 0], ..good() }),
        ("stride too large", Call { strides: [1 << 40, 0, 0, 0], ..good() }),
        ("box", Call { sizes: [64, 257, 1, 1, 1], ..good() }),
        ("box 0", Call { sizes: [64, 0, 1, 1, 1], ..good() }),
        ("box beyond the swizzle", Call { sizes: [128, 8, 1, 1, 1], ..good() }),
        ("box of 8 bytes", Call { sizes: [4, 8, 1, 1, 1], ..good() }),
        ("element stride", Call { steps: [1, 9, 1, 1, 1], ..good() }),
        ("swizzle", Call { swizzle: 7, ..good() }),
        ("NaN of integers", Call { kind: 1, ..good() }),
    ];
    for (what, call) in bad {
        assert_eq!(call.encode().0, 1, "{what}");
    }
    assert_eq!(Call { kind: 14, ..good() }.encode().0, 801, "packed types");
    assert_eq!(Call { sizes: [128, 8, 1, 1, 1], swizzle: 0, ..good() }.encode().0, 0);
}
