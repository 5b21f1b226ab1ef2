//! `cp.async.bulk.tensor`: boxes of tensors against the definition, and a matrix product fed by them.

mod common;

use common::Random;
use common::lab::{Arg, Lab, every_schedule_of_hopper, hopper};
use half::bf16;
use softgpu::sanitizer::report::Kind;
use softgpu::tensor_map::TensorMap;

/// `CUtensorMapDataType`
const U32: u8 = 2;
const BF16: u8 = 9;

/// A dense tensor of these sizes, innermost first.
fn dense(data_type: u8, base: u64, dims: &[u64], sizes: &[u16]) -> TensorMap {
    let mut map = TensorMap {
        data_type,
        rank: dims.len() as u8,
        interleave: 0,
        swizzle: 0,
        l2_promotion: 0,
        fill: 0,
        base,
        dims: [1; 5],
        strides: [0; 5],
        box_dims: [1; 5],
        element_strides: [1; 5],
    };
    let mut stride = map.element_bytes();
    for (d, dim) in dims.iter().enumerate() {
        (map.dims[d], map.strides[d], map.box_dims[d]) = (*dim, stride, sizes[d]);
        stride = (stride * dim).next_multiple_of(16);
    }
    map
}

/// Loads the box at `corner` and copies shared memory out as it is; `bytes` of it, `counted` by the mbarrier.
fn load(rank: usize, corner: &[i32], bytes: usize) -> String {
    let coordinates = corner.iter().map(|c| c.to_string()).collect::<Vec<_>>().join(", ");
    let body = format!(
        "setp.ne.u32 %p10, %r3, 0; @%p10 bra READY; mbarrier.init.shared::cta.b64 [full], 1;
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], {bytes};
         mov.b64 %rd20, map; cvta.param.u64 %rd21, %rd20; prefetch.tensormap [%rd21];
         cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%rd21, {{{coordinates}}}], [full];
         READY: bar.sync 0;
         W: mbarrier.try_wait.parity.shared::cta.b64 %p12, [full], 0; @!%p12 bra W;
         mov.u32 %r10, %r3;
         NEXT: setp.ge.u32 %p11, %r10, {}; @%p11 bra END; shl.b32 %r11, %r10, 2; mov.u32 %r12, tile; add.u32 %r12, %r12, %r11;
         ld.shared.u32 %r13, [%r12]; cvt.u64.u32 %rd10, %r11; add.s64 %rd10, %rd0, %rd10; st.global.u32 [%rd10], %r13;
         add.u32 %r10, %r10, 32; bra NEXT;
         END:",
        bytes / 4
    );
    let shared = format!(".shared .align 1024 .b8 tile[{bytes}]; .shared .align 8 .b64 full;");
    hopper(1, &shared, &body).replace(".param .u64 p0", ".param .u64 p0, .param .align 64 .b8 map[128]")
}

/// What a box holds, word by word in order of its elements: `None` out of bounds.
fn definition(map: &TensorMap, corner: &[i32]) -> Vec<Option<u64>> {
    let mut words = Vec::new();
    let step = |d: usize| if d == 0 { 1 } else { usize::from(map.element_strides[d]) };
    let axis = |d: usize| (0..usize::from(map.box_dims[d])).step_by(step(d));
    for e in axis(4) {
        for d in axis(3) {
            for c in axis(2) {
                for b in axis(1) {
                    for a in axis(0) {
                        let mut at = Some(0);
                        for (i, offset) in [a, b, c, d, e].into_iter().enumerate() {
                            let x = i64::from(corner.get(i).copied().unwrap_or(0)) + offset as i64;
                            let inside = (0..map.dims[i] as i64).contains(&x);
                            at = at.filter(|_| inside).map(|sum| sum + x as u64 * map.strides[i]);
                        }
                        words.push(at);
                    }
                }
            }
        }
    }
    words
}

fn check_box(mut map: TensorMap, data: &[u32], corner: &[i32]) {
    for options in every_schedule_of_hopper() {
        let lab = Lab::with(options);
        map.base = lab.put(data);
        let elements = definition(&map, corner);
        let bytes = 4 * elements.len();
        let out = lab.blank(bytes);
        let args = [Arg::Ptr(out), Arg::Block(map.encode())];
        let ptx = load(usize::from(map.rank), corner, bytes);
        let outcome = lab.run(&ptx, "k", [1, 1, 1], [32, 1, 1], &args);
        assert_eq!(outcome.reports, [], "{map:?}");
        let mut expected = vec![0; elements.len()];
        let (mask, shift) = [(0, 0), (1, 7), (3, 7), (7, 7)][usize::from(map.swizzle)];
        for (i, at) in elements.iter().enumerate() {
            let address = 4 * i;
            let swizzled = address ^ (address >> shift & mask) << 4;
            let fill = if map.fill == 0 { 0 } else { 0x7FFF_FFFF };
            expected[swizzled / 4] = at.map_or(fill, |at| data[at as usize / 4]);
        }
        assert_eq!(lab.get::<u32>(out, elements.len()), expected, "{map:?} at {corner:?}");
    }
}

#[test]
fn boxes_of_every_rank_inside_and_across_the_edges() {
    let data: Vec<u32> = (0..32 * 16 * 8).map(|i| i * 3 + 1).collect();
    check_box(dense(U32, 0, &[4096], &[64]), &data, &[100]);
    check_box(dense(U32, 0, &[4096], &[64]), &data, &[4080]);
    check_box(dense(U32, 0, &[128, 32], &[8, 16]), &data, &[-3, 30]);
    check_box(dense(U32, 0, &[30, 16, 8], &[8, 4, 3]), &data, &[26, -1, 6]);
    check_box(dense(U32, 0, &[8, 8, 8, 8], &[4, 3, 2, 5]), &data, &[6, 7, -1, 4]);
    check_box(dense(U32, 0, &[8, 8, 4, 4, 4], &[4, 2, 2, 2, 2]), &data, &[2, 7, 3, -1, 3]);
    let mut strided = dense(U32, 0, &[64, 64], &[16, 16]);
    strided.element_strides[1] = 3;
    check_box(strided, &data, &[60, 20]);
    let mut floats = dense(7, 0, &[64, 64], &[16, 4]);
    floats.fill = 1;
    check_box(floats, &data, &[-5, 62]);
}

#[test]
fn swizzled_boxes() {
    let data: Vec<u32> = (0..4096).collect();
    for (swizzle, words) in [(1, 8), (2, 16), (3, 32)] {
        let mut map = dense(U32, 0, &[64, 64], &[words, 24]);
        map.swizzle = swizzle;
        check_box(map, &data, &[8, 16]);
        check_box(map, &data, &[-2, 50]);
    }
}

#[test]
fn maps_that_make_no_sense() {
    let lab = Lab::with(every_schedule_of_hopper().next().unwrap());
    let out = lab.blank(64);
    let mut interleaved = dense(U32, lab.put(&[0u32; 64]), &[4, 4, 4], &[4, 4, 1]);
    interleaved.interleave = 1;
    for block in [[0; 128], interleaved.encode(), dense(U32, 0, &[64], &[16]).encode()] {
        let args = [Arg::Ptr(out), Arg::Block(block)];
        let outcome = lab.run(&load(3, &[0, 0, 0], 64), "k", [1, 1, 1], [32, 1, 1], &args);
        assert_eq!(outcome.reports[0].kind, Kind::Illegal, "{}", outcome.reports[0]);
    }
}

#[test]
fn boxes_are_added_to_a_tensor() {
    let body = "mov.u32 %r10, tile; shl.b32 %r11, %r3, 2; add.u32 %r10, %r10, %r11; cvt.rn.f32.u32 %f10, %r3;
         st.shared.f32 [%r10], %f10; fence.proxy.async; bar.sync 0; setp.ne.u32 %p10, %r3, 0; @%p10 bra END;
         mov.b64 %rd20, map; cvta.param.u64 %rd21, %rd20;
         cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd21, {-2, 6}], [tile];
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
         END:";
    let ptx = hopper(1, ".shared .align 128 .b8 tile[64];", body)
        .replace(".param .u64 p0", ".param .u64 p0, .param .align 64 .b8 map[128]");
    for options in every_schedule_of_hopper() {
        let lab = Lab::with(options);
        let out = lab.put(&[100f32; 64]);
        let map = dense(7, out, &[8, 8], &[4, 4]);
        let outcome = lab.run(&ptx, "k", [2, 1, 1], [16, 1, 1], &[Arg::Ptr(out), Arg::Block(map.encode())]);
        assert_eq!(outcome.reports, []);
        let mut expected = [100f32; 64];
        // Columns 2 and 3 of rows 0 and 1 of the box lie inside, and two blocks add them.
        (expected[48], expected[49], expected[56], expected[57]) = (104.0, 106.0, 112.0, 114.0);
        assert_eq!(lab.get::<f32>(out, 64), expected);
    }
}

/// D (128 x 64) = A (128 x 192) B (192 x 64), in clusters of two blocks of 64 rows: both fetch half of every
/// tile of B for both. A ring of two stages; D leaves through shared memory and a tensor map of its own.
fn product() -> String {
    let accumulators = (0..32).map(|i| format!("%acc{i}")).collect::<Vec<_>>().join(", ");
    let mut body = ".reg .b32 %acc<32>; setp.ne.u32 %p10, %r3, 0; mov.u32 %r10, %cluster_ctarank;
         mov.b64 %rd10, mapa_; cvta.param.u64 %rd10, %rd10; mov.b64 %rd11, mapb; cvta.param.u64 %rd11, %rd11;
         mov.b64 %rd12, mapd; cvta.param.u64 %rd12, %rd12;
         @%p10 bra READY;
         mbarrier.init.shared::cta.b64 [bars], 1; mbarrier.init.shared::cta.b64 [bars+8], 1;
         mbarrier.init.shared::cta.b64 [bars+16], 2; mbarrier.init.shared::cta.b64 [bars+24], 2;
         fence.mbarrier_init.release.cluster;
         READY: barrier.cluster.arrive; barrier.cluster.wait; shl.b32 %r11, %r10, 6; shl.b32 %r12, %r10, 5;\n"
        .to_owned();
    for step in 0..3 {
        let (stage, phase) = (step % 2, step / 2);
        let (full, empty) = (8 * stage, 16 + 8 * stage);
        body += &format!(
            "@%p10 bra FETCHED{step};
             E{step}: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p12, [bars+{empty}], {}; @!%p12 bra E{step};
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars+{full}], 16384;
             mov.u32 %r20, bars; add.u32 %r20, %r20, {full}; mov.u32 %r21, ta; add.u32 %r21, %r21, {};
             mov.u32 %r22, tb; add.u32 %r22, %r22, {}; shl.b32 %r23, %r10, 12; add.u32 %r22, %r22, %r23; mov.u16 %h10, 3;
             cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r21], [%rd10, {{{}, %r11}}], [%r20];
             cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
                 [%r22], [%rd11, {{{}, %r12}}], [%r20], %h10;
             FETCHED{step}:
             F{step}: mbarrier.try_wait.parity.shared::cta.b64 %p12, [bars+{full}], {phase}; @!%p12 bra F{step};
             wgmma.fence.sync.aligned;
             mov.u32 %r20, ta; add.u32 %r20, %r20, {}; shr.u32 %r20, %r20, 4; cvt.u64.u32 %rd20, %r20;
             mov.u32 %r20, tb; add.u32 %r20, %r20, {}; shr.u32 %r20, %r20, 4; cvt.u64.u32 %rd21, %r20;
             or.b64 %rd20, %rd20, 0x4000004000010000; or.b64 %rd21, %rd21, 0x4000004000010000;\n",
            phase ^ 1,
            8192 * stage,
            8192 * stage,
            64 * step,
            64 * step,
            8192 * stage,
            8192 * stage
        );
        for k in 0..4 {
            body += &format!(
                "setp.ne.b32 %p20, {}, 0;
                 wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{accumulators}}}, %rd20, %rd21, %p20, 1, 1, 0, 0;
                 add.s64 %rd20, %rd20, 2; add.s64 %rd21, %rd21, 2;\n",
                step + k
            );
        }
        body += &format!(
            "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; bar.sync 0;
             setp.ge.u32 %p13, %r3, 2; @%p13 bra FREED{step}; mov.u32 %r20, bars; add.u32 %r20, %r20, {empty};
             mapa.shared::cluster.u32 %r21, %r20, %r3; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r21];
             FREED{step}:\n"
        );
    }
    // Row 16 w + g (+ 8), columns 8 j + 2 t (+ 1) of D, dense.
    body += "shr.u32 %r20, %r3, 5; shl.b32 %r20, %r20, 4; and.b32 %r21, %r3, 31; shr.u32 %r22, %r21, 2;
         add.u32 %r20, %r20, %r22; and.b32 %r21, %r21, 3; shl.b32 %r20, %r20, 8; shl.b32 %r21, %r21, 3;
         mov.u32 %r22, td; add.u32 %r22, %r22, %r20; add.u32 %r22, %r22, %r21;\n";
    for i in 0..32 {
        body += &format!("st.shared.b32 [%r22+{}], %acc{i};\n", i / 4 * 32 + i % 4 / 2 * 2048 + i % 2 * 4);
    }
    body += "fence.proxy.async; bar.sync 0; @%p10 bra STORED;
         cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd12, {0, %r11}], [td];
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
         STORED: barrier.cluster.arrive; barrier.cluster.wait;";
    let shared = ".shared .align 1024 .b8 ta[16384]; .shared .align 1024 .b8 tb[16384]; .shared .align 128 .b8 td[16384];
        .shared .align 8 .b8 bars[32];";
    let maps = [
        ".param .align 64 .b8 mapa_[128]",
        ".param .align 64 .b8 mapb[128]",
        ".param .align 64 .b8 mapd[128]",
    ];
    hopper(0, shared, &body)
        .replace("k()", &format!("k({})", maps.join(", ")))
        .replace("\n{\n", "\n.explicitcluster .reqnctapercluster 2, 1, 1\n{\n")
}

#[test]
fn a_product_of_tiles_that_arrive_by_tensor_maps() {
    let mut random = Random::new(5);
    let mut numbers =
        |count: usize| -> Vec<i32> { (0..count).map(|_| (random.next() % 9) as i32 - 4).collect() };
    let (a, b) = (numbers(128 * 192), numbers(64 * 192));
    let encode = |x: &[i32]| x.iter().map(|x| bf16::from_f32(*x as f32).to_bits()).collect::<Vec<u16>>();
    let mut expected = Vec::new();
    for i in 0..128 {
        for j in 0..64 {
            expected.push((0..192).map(|k| a[i * 192 + k] * b[j * 192 + k]).sum::<i32>() as f32);
        }
    }
    let run = |ptx: &str, options| {
        let lab = Lab::with(options);
        let out = lab.blank(128 * 64 * 4);
        let mut maps = [
            dense(BF16, lab.put(&encode(&a)), &[192, 128], &[64, 64]),
            dense(BF16, lab.put(&encode(&b)), &[192, 64], &[64, 32]),
            dense(7, out, &[64, 128], &[64, 64]),
        ];
        (maps[0].swizzle, maps[1].swizzle) = (3, 3);
        let args = maps.map(|map| Arg::Block(map.encode()));
        let outcome = lab.run(ptx, "k", [2, 1, 1], [128, 1, 1], &args);
        (outcome.reports, lab.get::<f32>(out, 128 * 64))
    };
    let ptx = product();
    for options in every_schedule_of_hopper() {
        let (reports, result) = run(&ptx, options.clone());
        assert_eq!(reports, []);
        assert!(result == expected);
        // The producer does not wait until the other block is done with the slot.
        let (start, end) = (ptx.find("E2:").unwrap(), ptx.find("bra E2;").unwrap());
        let mutant = ptx[..start].to_owned() + &ptx[end + "bra E2;".len()..];
        let kinds: Vec<Kind> = run(&mutant, options).0.iter().map(|r| r.kind).collect();
        assert!(!kinds.is_empty(), "a slot was filled before it was free");
    }
}
