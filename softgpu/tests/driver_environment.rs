//! `SOFTGPU_FAULT`, `SOFTGPU_STATS`, `SOFTGPU_LOG`, `SOFTGPU_DRIVER`: read once in a process, hence one test in a process of its own.

#[path = "common/driver.rs"]
mod driver;

use std::ptr::null_mut;

use driver::{Own, got, handle, ok, text};
use softgpu::driver::*;

const PTX: &std::ffi::CStr =
    c".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry empty() { ret; }";

const LATER: &std::ffi::CStr =
    c".version 8.5\n.target sm_80\n.address_size 64\n.visible .entry empty() { ret; }";

#[test]
fn faults_statistics_and_the_log_of_calls() {
    let folder = std::env::temp_dir().join(format!("softgpu-driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (stats, log) = (folder.join("stats.jsonl"), folder.join("log.txt"));
    // SAFETY: the only test of this process has started no thread.
    unsafe {
        std::env::set_var("SOFTGPU_FAULT", "alloc:2,launch:2,lost:3");
        std::env::set_var("SOFTGPU_STATS", &stats);
        std::env::set_var("SOFTGPU_LOG", &log);
        std::env::set_var("SOFTGPU_QUIET", "1");
        std::env::set_var("SOFTGPU_DRIVER", "12040");
    }
    let own = Own::new();
    // SAFETY: pointers to locals.
    unsafe {
        assert_eq!(got(|p| cuDriverGetVersion(p)), 12040);
        assert_eq!(cuModuleLoadData(&mut null_mut(), LATER.as_ptr().cast()), 222, "CUDA 12.4 has PTX 8.4");
        assert!(text(222).contains("version 8.5"), "{}", text(222));
        ok(cuMemFree_v2(got(|p| cuMemAlloc_v2(p, 4))));
        assert_eq!(cuMemAllocAsync(&mut 0, 4, null_mut()), 2);
        assert!(text(2).contains("SOFTGPU_FAULT=alloc:2"), "{}", text(2));
        ok(cuMemAlloc_v2(&mut 0, 4));

        let load = || {
            let module = handle(|p| cuModuleLoadData(p, PTX.as_ptr().cast()));
            handle(|p| cuModuleGetFunction(p, module, c"empty".as_ptr()))
        };
        let launch = |f| cuLaunchKernel(f, 3, 1, 1, 64, 1, 1, 16, null_mut(), null_mut(), null_mut());
        let f = load();
        ok(launch(f));
        ok(cuCtxSynchronize());
        ok(launch(f));
        assert_eq!(cuCtxSynchronize(), 719, "the second launch failed");
        drop(own);
        let _other = Own::new();
        assert_eq!(launch(load()), 999, "the device is lost at the third");
        assert_eq!(cuCtxSynchronize(), 999);
        assert_eq!(cuDevicePrimaryCtxReset_v2(0), 999, "for ever");
    }
    let lines = std::fs::read_to_string(&stats).unwrap();
    let lines = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<serde_json::Value>>();
    assert_eq!(lines.len(), 2, "launches that ran");
    let first = &lines[0];
    assert_eq!(first["kernel"], "empty");
    assert_eq!(first["grid"], serde_json::json!([3, 1, 1]));
    assert_eq!(first["dynamic_shared_bytes"], 16);
    assert!(first["emulation_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(first["counters"]["warp_instructions"], 6, "3 blocks of 2 warps");
    assert_eq!(first["opcodes"]["ret"]["threads"], 192);
    let calls = std::fs::read_to_string(&log).unwrap();
    assert!(calls.contains("cuMemAllocAsync(dptr=0x"), "{calls}");
    assert!(calls.contains("= 2 OutOfMemory: a fault asked for"), "{calls}");
    std::fs::remove_dir_all(&folder).unwrap();
}
