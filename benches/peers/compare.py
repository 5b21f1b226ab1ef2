#!/usr/bin/env python3
"""trimoe against PyTorch eager on the CPU: tokens/s of a whole training step, both in one run, A B A B.

    python compare.py --python /path/to/venv/bin/python --ours 'target/release/trimoe train --preset {preset} \\
        --ffn {ffn} --inner {inner} --steps {steps} --threads {threads} --json' --json speed.json

Only ratios of one run mean anything: the two take turns, and a ratio is taken inside each round, so that a machine
that slows down slows both. Prints a Markdown table; needs nothing beyond Python 3.9 (torch lives in `--python`).
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEP = Path(__file__).with_name("torch_step.py")
# Inner size of each preset; the dense pair is measured at it and at topk times it (flat's active size).
INNER = {"tiny": 128, "small": 768}
TOPK = 2

# MKL chooses its kernels by maker: on a processor that is not Intel's it stays at AVX2. This symbol overrides the test.
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def variants(preset: str) -> list[dict]:
    """What is measured: our command's `ffn` and `inner`, and PyTorch's forms of the same layer, by name."""
    inner = INNER[preset]
    plain = {"eager": []}
    return [
        {"name": f"dense, inner {inner}", "ffn": "dense", "inner": inner, "peers": plain},
        {"name": f"dense, inner {TOPK * inner}", "ffn": "dense", "inner": TOPK * inner, "peers": plain},
        {"name": "flat", "ffn": "flat", "inner": inner, "peers": plain},
        {
            "name": "clustered",
            "ffn": "clustered",
            "inner": inner,
            "peers": {"per slot": [], "base once": ["--base-once"]},
        },
    ]


def busy_seconds() -> "float | None":
    """CPU seconds that all processes of the machine have used so far; None where the system does not say."""
    try:
        user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    except (OSError, ValueError):
        return None
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def child_seconds() -> float:
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def run(command: list[str], env: dict) -> dict:
    """Runs one command and returns the JSON object of its last line, with `others` added: the cores that other
    processes kept busy meanwhile, on average."""
    before, own, start = busy_seconds(), child_seconds(), time.perf_counter()
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    except OSError as e:
        raise SystemExit(f"error: cannot start {command[0]!r}: {e}") from None
    after, own, wall = busy_seconds(), child_seconds() - own, time.perf_counter() - start
    shown = shlex.join(command)
    if done.returncode != 0:
        raise SystemExit(f"error: exit code {done.returncode} of `{shown}`:\n{done.stderr[-2000:]}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        result = json.loads(last)
        result["tokens_per_s"] = float(result["tokens_per_s"])
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"error: the last line of `{shown}` is no JSON object with `tokens_per_s`: {last!r}") from None
    if not result["tokens_per_s"] > 0:
        raise SystemExit(f"error: `{shown}` reports {result['tokens_per_s']} tokens/s")
    if before is not None and after is not None:
        result["others"] = max(0.0, after - before - own) / wall
    return result


def summary(values: list[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def progress(variant: dict, who: str, round_: int, result: dict) -> None:
    """One line per run as it ends, so that an interrupted comparison still leaves its numbers."""
    others = f", others {result['others']:.2f} cores" if "others" in result else ""
    speed = f"{result['tokens_per_s']:,.0f} tokens/s{others}"
    print(f"{variant['name']}, round {round_ + 1}, {who}: {speed}", file=sys.stderr)


def measure(variant: dict, args: argparse.Namespace, ours_env: dict, torch_env: dict) -> list[dict]:
    """One row per PyTorch form: `rounds` times ours, then each form in turn."""
    fields = {"preset": args.preset, "ffn": variant["ffn"], "inner": variant["inner"]}
    fields |= {"steps": args.steps, "threads": args.threads}
    torch = [args.python, str(STEP), "--json", "--warmup", str(args.warmup), "--optimizer", args.optimizer]
    torch += [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    ours, peers = [], {form: [] for form in variant["peers"]}
    for i in range(args.rounds):
        if args.ours:
            ours.append(run([word.format(**fields) for word in shlex.split(args.ours)], ours_env))
            progress(variant, "ours", i, ours[-1])
        for form, flags in variant["peers"].items():
            peers[form].append(run(torch + flags, torch_env))
            progress(variant, f"PyTorch {form}", i, peers[form][-1])

    rows = []
    for form, results in peers.items():
        row = {"variant": variant["name"], "form": form, "torch": summary([r["tokens_per_s"] for r in results])}
        row["runs"] = {"ours": ours, "torch": results}
        row["others"] = max((r["others"] for r in ours + results if "others" in r), default=None)
        if ours:
            row["ours"] = summary([r["tokens_per_s"] for r in ours])
            row["ratio"] = summary([a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(ours, results)])
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    def cell(row: dict, key: str, digits: int) -> str:
        s = row.get(key)
        return f"{s['median']:,.{digits}f} ({s['min']:,.{digits}f}..{s['max']:,.{digits}f})" if s else "-"

    lines = [
        "| variant | PyTorch form | ours, tokens/s | PyTorch, tokens/s | ours / PyTorch | others, cores |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        others = "-" if row["others"] is None else f"{row['others']:.2f}"
        cells = [cell(row, "ours", 0), cell(row, "torch", 0), cell(row, "ratio", 2)]
        lines.append(f"| {row['variant']} | {row['form']} | " + " | ".join(cells) + f" | {others} |")
    return "\n".join(lines)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def build_shim(folder: str) -> str:
    source, library = Path(folder, "mkl_any_cpu.c"), Path(folder, "mkl_any_cpu.so")
    source.write_text(SHIM)
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise SystemExit(f"error: --mkl-any-cpu needs a C compiler: {getattr(e, 'stderr', None) or e}") from None
    return str(library)


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ours", help="our command; {preset} {ffn} {inner} {steps} {threads} are filled in; "
                                  "without it only PyTorch is measured")
    p.add_argument("--python", default=sys.executable, help="an interpreter that has torch")
    p.add_argument("--preset", choices=sorted(INNER), default="small")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warmup", type=int, default=3, help="PyTorch's untimed steps")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--only", choices=["dense", "flat", "clustered"], action="append", help="only this FFN; repeatable")
    p.add_argument("--optimizer", choices=["default", "foreach", "fused"], default="foreach", help="PyTorch's AdamW")
    p.add_argument("--mkl-any-cpu", action="store_true", help="let MKL use every instruction the processor has")
    p.add_argument("--torch-env", action="append", default=[], metavar="NAME=VALUE", help="for PyTorch; repeatable")
    p.add_argument("--json", metavar="FILE", help="write every run and the summary there")
    args = p.parse_args()
    for name in ("rounds", "steps", "threads"):
        if getattr(args, name) < 1:
            p.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.warmup < 0:
        p.error(f"--warmup must not be negative, not {args.warmup}")
    for pair in args.torch_env:
        if "=" not in pair:
            p.error(f"--torch-env wants NAME=VALUE, not {pair!r}")
    try:
        (args.ours or "").format(preset="", ffn="", inner=0, steps=0, threads=0)
    except (KeyError, IndexError, ValueError) as e:
        p.error(f"--ours: {e} is not one of preset, ffn, inner, steps, threads")
    return args


def main() -> None:
    args = arguments()
    ours_env = dict(os.environ)
    torch_env = ours_env | dict(pair.split("=", 1) for pair in args.torch_env)
    chosen = [v for v in variants(args.preset) if not args.only or v["ffn"] in args.only]
    with tempfile.TemporaryDirectory() as folder:
        if args.mkl_any_cpu:
            torch_env["LD_PRELOAD"] = " ".join(filter(None, [torch_env.get("LD_PRELOAD"), build_shim(folder)]))
        rows = [row for v in chosen for row in measure(v, args, ours_env, torch_env)]
    version = rows[0]["runs"]["torch"][0]["torch"]
    setting = ", ".join(filter(None, ["MKL on any CPU" if args.mkl_any_cpu else "", *args.torch_env])) or "as installed"
    print(f"Preset {args.preset}, {args.threads} threads, {processor()}; PyTorch {version} ({setting}), "
          f"AdamW {args.optimizer}; {args.rounds} rounds of {args.steps} steps, median (min..max).\n\n{table(rows)}")
    if args.json:
        document = {"processor": processor(), "options": vars(args), "rows": rows}
        try:
            Path(args.json).write_text(json.dumps(document, indent=1) + "\n")
        except OSError as e:
            raise SystemExit(f"error: cannot write {args.json}: {e.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
