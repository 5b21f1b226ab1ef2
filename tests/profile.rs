//! `--profile`: what the trace and the table say, and that a run does not notice.

mod command;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use command::{checkpoints, contents, metrics, text, train, trimoe};
use serde_json::Value;
use trimoe::ops::GroupedGemm;
use trimoe::profile::Ceilings;
use trimoe::{Device, Segments, bf16};

/// An event of one thread, in nanoseconds.
#[derive(Clone, Debug)]
struct Event {
    name: String,
    category: String,
    start: i64,
    end: i64,
    args: Value,
}

/// A trace that keeps the rules of its format: events by the name of their thread, in the order in which they start.
struct Trace(BTreeMap<String, Vec<Event>>);

impl Trace {
    #[track_caller]
    fn parse(json: &str) -> Self {
        let trace: Value = serde_json::from_str(json).expect("JSON");
        let (mut names, mut rows) = (BTreeMap::new(), BTreeMap::<u64, Vec<Event>>::new());
        for event in trace["traceEvents"].as_array().expect("events") {
            let text = |field: &str| event[field].as_str().expect("a string").to_owned();
            let thread = event["tid"].as_u64().expect("a thread");
            assert_eq!(event["pid"], 1);
            match text("ph").as_str() {
                "M" if event["name"] == "thread_name" => {
                    let name = event["args"]["name"].as_str().expect("a name").to_owned();
                    assert!(names.insert(thread, name).is_none(), "thread {thread} has one name");
                }
                "M" => {}
                "X" => {
                    let ns = |field: &str| (1e3 * event[field].as_f64().expect("a time")).round() as i64;
                    let (start, time) = (ns("ts"), ns("dur"));
                    assert!(start >= 0 && time >= 0, "{event}");
                    let args = event["args"].clone();
                    let event =
                        Event { name: text("name"), category: text("cat"), start, end: start + time, args };
                    rows.entry(thread).or_default().push(event);
                }
                other => panic!("an event of kind {other}"),
            }
        }
        assert_eq!(names.values().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        let rows = rows.into_iter().map(|(thread, events)| (names[&thread].clone(), events)).collect();
        let trace = Trace(rows);
        trace.assert_nested();
        trace
    }

    fn of(path: &Path) -> Self {
        Self::parse(&fs::read_to_string(path).expect("a trace"))
    }

    /// Events of a thread lie beside or inside each other.
    fn assert_nested(&self) {
        for events in self.0.values() {
            let mut open: Vec<&Event> = Vec::new();
            for event in events {
                open.retain(|around| {
                    around.end > event.start || (around.start, around.end) == (event.start, event.end)
                });
                let fits = open.iter().all(|around| around.start <= event.start && event.end <= around.end);
                assert!(fits, "{event:?} in {open:?}");
                open.push(event);
            }
        }
    }

    fn events<'a>(&'a self, category: &'a str) -> impl Iterator<Item = &'a Event> {
        self.0.values().flatten().filter(move |event| event.category == category)
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Event> {
        self.0.values().flatten().filter(move |event| event.name == name)
    }
}

/// Names of operations: [`Op::NAME`](trimoe::Op::NAME) of every one.
fn operations() -> BTreeSet<String> {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops")).expect("sources");
    let name = |line: &str| {
        line.trim().strip_prefix("const NAME: &'static str = \"")?.strip_suffix("\";").map(str::to_owned)
    };
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    texts.flat_map(|text| text.lines().filter_map(name).collect::<Vec<_>>()).collect()
}

#[test]
fn a_run_is_the_same_to_the_bit_with_a_profile_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, profiled] = ["plain", "profiled"].map(|name| dir.path().join(name));
    let args = ["--cluster-every", "3", "--burn-in", "2", "--memory-budget", "none"];
    train(&plain, 7, &args).ok();
    let trace = dir.path().join("trace.json");
    let profile = ["--profile", text(&trace), "--profile-steps", "2-3", "--stop-at", "4"];
    let done = train(&profiled, 7, &[&args[..], &profile].concat());
    assert!(done.stdout.contains("steps 2 to 3") && done.stdout.contains("outside ops"), "{done:#?}");
    done.ok();
    // It goes on without one, and says nothing of it.
    let done = trimoe(&["train", "--resume", "--out", text(&profiled)]);
    assert!(!done.stdout.contains("outside ops"), "{done:#?}");
    done.ok();
    let [a, b] = [&plain, &profiled].map(|run| contents(&checkpoints(run).pop().unwrap()));
    assert!(a == b && metrics(&plain) == metrics(&profiled));
    let config = |run: &Path| fs::read_to_string(run.join("config.toml")).unwrap();
    assert_eq!(config(&plain), config(&profiled));
}

#[test]
fn the_trace_shows_operations_inside_phases_and_their_parts_on_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (run, trace) = (dir.path().join("run"), dir.path().join("run/trace.json"));
    let noise =
        ["--cluster-alpha", "0", "--centroid-rate", "1", "--cluster-gain", "0", "--cluster-error", "9"];
    let args = ["--cluster-every", "4", "--burn-in", "2", "--save-every", "5", "--accumulate", "2", "--json"];
    let done = train(&run, 8, &[&noise[..], &args, &["--profile", text(&trace)]].concat());
    let report = done.json()["profile"].clone();
    // Ten steps are not to be had: those after the third.
    assert_eq!((report["first_step"].as_u64(), report["last_step"].as_u64()), (Some(4), Some(8)), "{report}");

    let trace = Trace::of(&trace);
    let known = operations();
    assert!(known.len() > 30, "{known:?}");
    for event in trace.events("op").chain(trace.events("body")).chain(trace.events("part")) {
        assert!(known.contains(&event.name), "{event:?}");
    }
    for phase in [
        "step",
        "batch",
        "forward",
        "backward",
        "optimiser",
        "clustering",
        "checkpoint",
        "evaluation",
        "sample",
    ] {
        assert!(trace.named(phase).any(|event| event.category == "phase"), "no {phase}");
    }
    assert_eq!(trace.named("batch").count(), 5, "all micro-batches of a step at once");
    assert_eq!(trace.named("forward").count(), 10);
    let regroup: Vec<&Event> = trace.named("regroup").collect();
    assert_eq!(regroup.len(), 2, "one layer after steps 4 and 8");
    assert!(
        regroup.iter().all(|event| event.args["result"].is_string() && event.args["layer"] == 0),
        "{regroup:?}"
    );

    let mut seconds = 0.0;
    for step in trace.named("step") {
        let inside = |e: &&Event| step.start <= e.start && e.end <= step.end;
        let ops: Vec<&Event> = trace.0["main"].iter().filter(|e| e.category == "op").filter(inside).collect();
        let time: i64 = ops.iter().map(|e| e.end - e.start).sum();
        assert!(0 < time && time <= step.end - step.start, "{time} of {step:?}");
        seconds += time as f64 / 1e9;
        let products = ops.iter().filter(|e| e.name == "grouped_gemm");
        for op in products.clone() {
            let size = |name: &str, i: usize| op.args[name][i].as_u64().expect("a size");
            assert_eq!(size("y", 1), size("w", 1), "{op:?}");
            assert_eq!(op.args["flops"], 2 * size("y", 0) * size("w", 1) * size("w", 2), "{op:?}");
        }
        assert!(products.count() > 4);
    }
    assert_eq!(trace.named("step").count(), 5);
    // Operations run on the device's threads, each inside the call that waits for it.
    let calls: Vec<&Event> = trace.events("op").collect();
    assert!(calls.iter().all(|op| trace.0["main"].iter().any(|e| e.start == op.start && e.end == op.end)));
    assert_eq!(trace.events("body").count(), calls.len());
    for part in trace.events("part") {
        let of = calls.iter().any(|op| op.name == part.name && op.start <= part.start && part.end <= op.end);
        assert!(of && part.args["parts"].as_u64().unwrap() > 0, "{part:?}");
    }
    for row in trace.0.keys() {
        assert!(row == "main" || row.starts_with("cpu "), "{row}");
    }

    // The table is of the same operations.
    let ops = report["ops"].as_array().unwrap();
    let sum: f64 = ops.iter().map(|op| op["seconds"].as_f64().unwrap()).sum();
    assert!((sum - seconds).abs() <= 1e-3 * seconds, "{sum} in the table, {seconds} in the trace");
    let (whole, outside) = (report["seconds"].as_f64().unwrap(), report["outside_seconds"].as_f64().unwrap());
    assert!((sum + outside - whole).abs() <= 1e-9 * whole, "{report}");
    for op in ops {
        assert!(known.contains(op["op"].as_str().unwrap()) && op["calls"].as_u64().unwrap() > 0, "{op}");
        let threads = op["threads"].as_f64().unwrap_or(0.0);
        assert!((0.0..=2.0).contains(&threads), "{op}");
    }
    for ceiling in ["f32_product", "product", "memory"] {
        assert!(report["ceilings"][ceiling].as_f64().unwrap() > 1e8, "{report}");
    }
}

#[test]
fn the_thread_of_offload_has_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let deep = ["--layers", "4", "--memory-budget"];
    let low = train(&dir.path().join("low"), 2, &[&deep[..], &["1"]].concat());
    let least = low.stderr.trim().rsplit(' ').next().expect("a number").to_owned();
    let path = dir.path().join("trace.json");
    let profile = ["--profile", text(&path), "--profile-steps", "2"];
    train(&dir.path().join("run"), 3, &[&deep[..], &[&least], &profile].concat()).ok();
    let trace = Trace::of(&path);
    let row = &trace.0["offload"];
    assert!(row.iter().any(|event| event.name == "read"), "{row:?}");
    for event in row {
        assert!(["read", "write"].contains(&event.name.as_str()), "{event:?}");
        assert!(event.args["bytes"].as_u64().unwrap() > 0, "{event:?}");
    }
}

#[test]
fn a_profile_that_cannot_be_made_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let fails = |args: &[&str], code: i32, parts: &[&str]| {
        train(&run, 3, args).fails(code, parts);
        assert!(!run.join("metrics.jsonl").exists(), "it trained with {args:?}");
    };
    let nowhere = dir.path().join("missing/trace.json");
    fails(&["--profile", text(&nowhere)], 1, &["cannot write", "missing/trace.json"]);
    fails(&["--profile", text(dir.path())], 1, &["cannot write", text(dir.path())]);
    fails(&["--profile", ".."], 2, &["--profile ..", "names no file"]);
    fails(&["--profile-steps", "2-3"], 2, &["--profile-steps 2-3", "--profile"]);
    let trace = dir.path().join("trace.json");
    let steps = |range: &str| {
        let why = ["--profile-steps", range, "from step 1 to step 3"];
        fails(&["--profile", text(&trace), "--profile-steps", range], 2, &why);
    };
    steps("4-5");
    steps("3-4");
    for range in ["0-2", "3-2", "a", "1-", ""] {
        let done = train(&run, 3, &["--profile", text(&trace), "--profile-steps", range]);
        assert_eq!(done.code, Some(2), "{done:#?}");
        assert!(done.stderr.contains("--profile-steps") && done.stderr.contains("4-13"), "{done:#?}");
    }
    train(&run, 3, &["--stop-at", "2"]).ok();
    let args = ["train", "--resume", "--out", text(&run), "--stop-at", "2", "--profile", text(&trace)];
    trimoe(&args).fails(2, &["--profile", "no step left"]);
    assert!(!trace.exists());
}

#[test]
fn a_run_that_diverges_leaves_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.json");
    let profile = ["--profile", text(&trace), "--profile-steps", "1-40"];
    let args = ["--lr", "1e30", "--warmup", "0", "--clip", "1e30", "--ffn", "dense"];
    let done = train(&dir.path().join("run"), 40, &[&args[..], &profile].concat());
    done.fails(1, &["training diverged at step"]);
    assert!(Trace::of(&trace).named("step").count() > 1);
}

#[test]
fn a_device_keeps_a_trace_only_while_asked_to() {
    let device = Device::cpu_with_threads(2).unwrap().profiled();
    let product = || {
        let (x, w) =
            (device.zeros::<f32, 2>([300, 40]).unwrap(), device.zeros::<f32, 3>([1, 500, 40]).unwrap());
        let mut y = device.zeros::<f32, 2>([300, 500]).unwrap();
        let segments = Segments::Whole(300);
        device
            .run(GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false })
            .unwrap();
    };
    product();
    assert_eq!(device.take_trace().events(), 0);
    device.start_trace();
    product();
    let trace = device.take_trace();
    product();
    assert_eq!(device.take_trace().events(), 0);
    let mut json = Vec::new();
    trace.write(&mut json).unwrap();
    let events = Trace::parse(std::str::from_utf8(&json).unwrap());
    assert_eq!((events.events("op").count(), events.events("body").count()), (1, 1));
    let parts = events.events("part").map(|part| part.args["parts"].as_u64().unwrap());
    assert_eq!(parts.sum::<u64>(), 12, "tiles of 128 rows and 128 columns");
    assert_eq!((trace.events(), trace.dropped()), (events.0.values().flatten().count(), 0));
    let cost = device.take_profile()[0];
    assert_eq!((cost.name, cost.calls, cost.flops), ("grouped_gemm", 3, 3 * 2 * 300 * 500 * 40));
    assert!(0.0 < cost.busy && cost.inside <= cost.seconds && cost.busy <= 2.0 * cost.inside, "{cost:?}");
}

#[test]
fn ceilings_are_rates_of_the_run_s_own_elements() {
    let ceilings = Ceilings::measure::<bf16>(&Device::cpu_with_threads(2).unwrap()).unwrap();
    let Ceilings { f32_product, product, memory } = ceilings;
    assert!(
        [f32_product, product, memory].iter().all(|rate| rate.is_finite() && *rate > 1e8),
        "{ceilings:?}"
    );
    assert_eq!(ceilings.flops(), product.max(f32_product));
}
