//! A trace, and how it is written.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::record::{Event, Lane, What};

/// All events are of one process.
const PROCESS: u64 = 1;

/// What the threads did while a profiled [`Device`](crate::Device) kept a trace.
///
/// Every thread has a row of events that lie side by side or inside each other. The thread that uses the device has the calls of
/// operations (category `op`, with operations, bytes and the sizes of the operands) inside the phases they belong to (`phase`).
/// The device's threads have the operations that they were handed (`body`) and the parallel parts of those (`part`): parts that
/// follow each other at once are one event, which says how many they were and how long the longest took. Where a thread of the
/// device has no part while the operation goes on, it is idle.
#[derive(Debug, Default)]
pub struct Trace {
    lanes: Vec<Lane>,
    dropped: u64,
}

impl Trace {
    pub(super) fn new(mut lanes: Vec<Lane>, dropped: u64) -> Self {
        // Threads of the device by number, behind the one that uses it.
        lanes.sort_by(|a, b| (a.name != "main", &a.name).cmp(&(b.name != "main", &b.name)));
        for lane in &mut lanes {
            lane.events.sort_by_key(|event| (event.start, Reverse(event.end)));
        }
        Trace { lanes, dropped }
    }

    /// Number of events.
    pub fn events(&self) -> usize {
        self.lanes.iter().map(|lane| lane.events.len()).sum()
    }

    /// Number of events for which there was no more room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes it as JSON in the Chrome trace event format, which <https://ui.perfetto.dev> and `chrome://tracing` open: complete
    /// events, with times in microseconds since the first one, and the names of the threads.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let origin = self.lanes.iter().filter_map(|lane| lane.events.first()).map(|event| event.start).min();
        let name = |of: &str, tid: usize, name: &str| json!({ "ph": "M", "pid": PROCESS, "tid": tid, "name": of, "args": { "name": name } });
        writeln!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[", self.about())?;
        write!(out, "{}", name("process_name", 0, "trimoe"))?;
        for (tid, lane) in self.lanes.iter().enumerate().map(|(i, lane)| (i + 1, lane)) {
            write!(out, ",\n{}", name("thread_name", tid, &lane.name))?;
            let args = json!({ "sort_index": tid });
            write!(
                out,
                ",\n{}",
                json!({ "ph": "M", "pid": PROCESS, "tid": tid, "name": "thread_sort_index", "args": args })
            )?;
            for event in &lane.events {
                write!(out, ",\n{}", event.json(tid, origin.unwrap_or(event.start)))?;
            }
        }
        writeln!(out, "\n]}}")
    }

    fn about(&self) -> Value {
        json!({ "program": concat!("trimoe ", env!("CARGO_PKG_VERSION")), "events left out": self.dropped })
    }
}

impl Event {
    fn json(&self, tid: usize, origin: Instant) -> Value {
        let microseconds = |from: Instant, to: Instant| to.duration_since(from).as_nanos() as f64 / 1e3;
        let (category, args) = self.what.describe();
        json!({
            "ph": "X",
            "pid": PROCESS,
            "tid": tid,
            "name": self.name,
            "cat": category,
            "ts": microseconds(origin, self.start),
            "dur": microseconds(self.start, self.end),
            "args": args,
        })
    }
}

impl What {
    /// Category and arguments.
    fn describe(&self) -> (&'static str, Map<String, Value>) {
        let mut args = Map::new();
        let mut put = |name: &str, value: Value| {
            args.insert(name.to_owned(), value);
        };
        let category = match self {
            What::Op { flops, bytes, sizes } => {
                put("flops", (*flops).into());
                put("bytes", (*bytes).into());
                sizes.iter().for_each(|(name, sizes)| put(name, sizes.clone().into()));
                "op"
            }
            What::Body => "body",
            What::Parts { call: _, count, longest } => {
                put("parts", (*count).into());
                put("longest_us", (longest.as_nanos() as f64 / 1e3).into());
                "part"
            }
            What::Phase(facts) => {
                facts.iter().for_each(|(name, value)| put(name, value.clone()));
                "phase"
            }
        };
        (category, args)
    }
}
