"""Growing a checkpoint against copying files: time, memory, bytes read; and a depth-only copy against mergekit.

    python bench/growth.py --work /somewhere/roomy --docs docs/benchmarks.md    # about 30 GB free, 15 to 60 minutes
    python bench/growth.py --quick                                              # small sizes, to see that it runs

The source is synthetic and lies in the page cache.  Each round grows it once and copies the result once with ``cp``,
in turn first and second; the result of both is flushed to the disk within the time.  Growing is timed inside a process
of its own, around the call of ``grow_checkpoint``; what the process did before (start, imports) is shown beside it.
Memory is anonymous memory (RssAnon), sampled by a thread, over what the interpreter holds with torch loaded: pages of
files are the page cache's.  Bytes read are what the process asked the system for (rchar), over the source's size.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from growth_page import Case, Line, page, row, write_section

MERGEKIT = "mergekit==0.1.5"


def wide(name: str, dtype: str, source: tuple[int, int, int], hidden: int, ffn: int) -> Case:
    return Case(name, dtype, source, {"hidden_size": hidden, "intermediate_size": ffn}, "isometric")


TIMED = [
    wide("bf16, width × 2", "bfloat16", (2048, 5504, 10), 4096, 11008),
    wide("bf16, width × 4/3", "bfloat16", (3072, 8256, 10), 4096, 11008),
    wide("fp32, width × 2", "float32", (1536, 4096, 9), 3072, 8192),
    wide("fp32, width × 4/3", "float32", (2304, 6144, 9), 3072, 8192),
]
MEMORY = [
    wide(f"{size} GB", "bfloat16", (2048, 5504, layers), 4096, 11008) for size, layers in ((1, 1), (4, 9), (8, 19))
]
TINY = Case("tiny", "bfloat16", (128, 256, 1), {"num_hidden_layers": 2}, "stack")
DEPTH = Case("bf16, depth × 2", "bfloat16", (4096, 11008, 5), {"num_hidden_layers": 10}, "stack")
QUICK = [
    wide("bf16, width × 2", "bfloat16", (512, 1376, 6), 1024, 2752),
    wide("fp32, width × 4/3", "float32", (768, 2048, 4), 1024, 2752),
]
QUICK_MEMORY = [wide(f"{layers} layers", "bfloat16", (512, 1376, layers), 1024, 2752) for layers in (2, 8)]
QUICK_DEPTH = Case("bf16, depth × 2", "bfloat16", (512, 1376, 4), {"num_hidden_layers": 8}, "stack")


# --- run in processes of their own


def make_source(place: Path, case: Case) -> None:
    """A llama of random weights; one block of rows is drawn and repeated."""
    import torch

    from bequest.anatomy import Anatomy, complete_config
    from bequest.checkpoints import meta_model
    from bequest.checkpoints.shards import ShardWriter, ToStore
    from bequest.checkpoints.stored import FLOATS, saved_segments

    hidden, ffn, layers = case.source
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 128, "vocab_size": 32000, "tie_word_embeddings": False}
    config = complete_config("llama", {**sizes, **heads}, head="causal-lm") | {"dtype": case.dtype}
    anatomy, dtype = Anatomy(config, "causal-lm"), getattr(torch, case.dtype)
    stored = {name: kind for kind, name in FLOATS.items()}[case.dtype]
    segments = saved_segments({name: t.shape for name, t in anatomy.tensors.items()}, meta_model(config))
    place.mkdir(parents=True)
    block = (0.02 * torch.randn(256, max(hidden, ffn), generator=torch.Generator().manual_seed(0))).to(dtype)
    with ShardWriter(place, {name: ToStore(held, stored) for name, held in segments.items()}) as writer:
        for name, tensor in anatomy.tensors.items():
            rows, columns = (1, *tensor.shape)[-2:]
            values = block[:, :columns].contiguous()
            for row in range(0, rows, 256):
                writer.write(name, row, values[: min(256, rows - row)])
        writer.finish()
    (place / "config.json").write_text(json.dumps(config))


def grow_once(source: Path, out: Path, case: Case, born: float) -> dict[str, float]:
    """Seconds before and inside the call, memory over the interpreter with torch, bytes read."""
    import torch  # noqa: F401  (memory counts from here)

    base = anonymous(os.getpid())
    from bequest.checkpoints import load_config, meta_model, to_memory_names
    from bequest.growth.stream import grow_checkpoint

    # transformers' modules of the family are imported when a model is first made: start-up too.
    to_memory_names(["x"], meta_model(load_config(source)))
    peak = Peak(os.getpid())
    read, computed, begun = bytes_read(), time.process_time(), time.perf_counter()
    started = time.time() - born
    with peak:
        grow_checkpoint(source, out, case.to, case.method)
    seconds, computed = time.perf_counter() - begun, time.process_time() - computed
    return {
        "started": started,
        "seconds": seconds,
        "computed": computed,
        "memory": peak.bytes - base,
        "read": bytes_read() - read,
    }


def anonymous(process: int) -> int:
    """Bytes of anonymous memory that a process holds; 0 when it has ended."""
    try:
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found.group(1)) * 1024 if found else 0


def bytes_read() -> int:
    found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    assert found
    return int(found.group(1))


class Peak:
    """The most anonymous memory of a process while it is open, sampled every few milliseconds."""

    def __init__(self, process: int) -> None:
        self.process, self.bytes = process, anonymous(process)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, anonymous(self.process))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


# --- the two sides


def in_a_process(task: str, *words: object) -> Any:
    """Run this file for one task; what it prints last is JSON."""
    command = [sys.executable, __file__, "--task", task, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    if done.returncode:
        raise SystemExit(f"{task} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def weights(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors"))


def in_page_cache(files: Iterable[Path]) -> None:
    """Read files once, so that they are."""
    subprocess.run(["cat", *(str(file) for file in files)], stdout=subprocess.DEVNULL, check=True)


def remove(*places: Path) -> None:
    """Delete directories, and wait until the disk has: the next side must not pay for it."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    os.sync()


def copied(source: Path, out: Path) -> tuple[float, float]:
    """Seconds of ``cp`` and of flushing the copy, and what they took of a processor."""
    in_page_cache(weights(source))
    before, begun = os.times(), time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    subprocess.run(["sync", *(str(file) for file in weights(out))], check=True)
    seconds, after = time.perf_counter() - begun, os.times()
    computed = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, computed


def grown(source: Path, out: Path, case: Case) -> dict[str, float]:
    in_page_cache(weights(source))
    found: dict[str, float] = in_a_process("grow", source, out, json.dumps(case.__dict__), time.time())
    return found


def timed(work: Path, case: Case, rounds: int) -> Line:
    """Both sides take turns, the first of a round in turn."""
    source, out, copy, kept = (work / name for name in ("source", "out", "copy", "kept"))
    in_a_process("make", source, json.dumps(case.__dict__))
    size = sum(file.stat().st_size for file in weights(source))
    in_a_process("grow", source, kept, json.dumps(case.__dict__), time.time())  # what cp copies; not counted
    runs, copies = [], []
    for number in range(rounds):
        for side in ("grow", "copy") if number % 2 == 0 else ("copy", "grow"):
            if side == "grow":
                runs.append(grown(source, out, case))
            else:
                copies.append(copied(kept, copy))
            remove(out, copy)
    result = sum(file.stat().st_size for file in weights(kept))
    largest = max(size for _, size in tensors_of(kept))
    remove(source, kept)
    return Line(
        case,
        result,
        largest,
        [run["seconds"] for run in runs],
        [seconds for seconds, _ in copies],
        (statistics.median(run["computed"] for run in runs), statistics.median(computed for _, computed in copies)),
        statistics.median(run["started"] for run in runs),
        max(run["memory"] for run in runs),
        max(run["read"] for run in runs) / size,
    )


# --- mergekit


def mergekit(work: Path) -> Path:
    """mergekit's command in a virtual environment of its own, with this environment's torch."""
    place = work / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    torch = f"torch=={version('torch').partition('+')[0]}"
    pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    for wanted in ([torch], [MERGEKIT, torch]):
        subprocess.run([*pip, *wanted], check=True, stderr=subprocess.DEVNULL)
    return place / "bin" / "mergekit-yaml"


def commanded(command: Sequence[str | Path], out: Path) -> dict[str, float]:
    """Seconds of a whole command with the flushing of what it made, and the most anonymous memory it held."""
    begun = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with Peak(process.pid) as peak:
        _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed:\n{said.decode()[-3000:]}")
    subprocess.run(["sync", *(str(file) for file in weights(out))], check=True)
    return {"seconds": time.perf_counter() - begun, "memory": peak.bytes}


def sides(program: Path, work: Path, source: Path, out: Path, case: Case) -> dict[str, Sequence[str | Path]]:
    """The two commands that stack a source's layers twice."""
    part = f"  - sources: [{{model: {source}, layer_range: [0, {case.source[2]}]}}]\n"
    recipe = work / "passthrough.yaml"
    recipe.write_text(f"merge_method: passthrough\ndtype: {case.dtype}\nslices:\n{part}{part}")
    ours = [sys.executable, "-m", "bequest", "grow", source, out, "--method", case.method]
    ours += [word for key, value in case.to.items() for word in ("--to", f"{key}={value}")]
    return {"bequest grow": ours, "mergekit passthrough": [program, recipe, out, "--no-copy-tokenizer", "--quiet"]}


def beside(work: Path, case: Case, rounds: int) -> dict[str, Any]:
    """A depth-only copy by the two commands, whole; what they take for next to nothing is their start-up."""
    source, out, copy = (work / name for name in ("source", "out", "copy"))
    program = mergekit(work)
    started = {}
    in_a_process("make", source, json.dumps(TINY.__dict__))
    for _ in range(2):  # the first time compiles what is imported
        for name, command in sides(program, work, source, out, TINY).items():
            started[name] = commanded(command, out)["seconds"]
            remove(out)
    remove(source)
    in_a_process("make", source, json.dumps(case.__dict__))
    found: dict[str, list[dict[str, float]]] = {"bequest grow": [], "mergekit passthrough": [], "cp": []}
    made: dict[str, list[tuple[str, int]]] = {}
    for number in range(rounds):
        commands = list(sides(program, work, source, out, case).items())
        for name, command in commands if number % 2 == 0 else reversed(commands):
            in_page_cache(weights(source))
            found[name].append(commanded(command, out))
            made[name] = sorted(tensors_of(out))
            if name == "bequest grow":
                found["cp"].append({"seconds": copied(out, copy)[0], "memory": 0.0})
            remove(out, copy)
    assert made["bequest grow"] == made["mergekit passthrough"], "both make the same tensors"
    remove(source, work / "venv")
    size = sum(size for _, size in made["bequest grow"])
    return {"runs": found, "started": started, "case": case.name, "bytes": size, "other": MERGEKIT.replace("==", " ")}


def tensors_of(place: Path) -> list[tuple[str, int]]:
    """(name, bytes) of every tensor of a directory."""
    found = []
    for file in weights(place):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        found += [(name, entry["data_offsets"][1] - entry["data_offsets"][0]) for name, entry in header.items()]
    return found


def task(words: Sequence[str]) -> None:
    kind, *rest = words
    if kind == "make":
        make_source(Path(rest[0]), Case(**json.loads(rest[1])))
        print("{}")
    else:
        print(json.dumps(grow_once(Path(rest[0]), Path(rest[1]), Case(**json.loads(rest[2])), float(rest[3]))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--rounds", type=int, help="rounds of each case (4)")
    parser.add_argument("--work", type=Path, help="a directory on the disk to be measured (a temporary one)")
    parser.add_argument("--no-mergekit", action="store_true", help="leave mergekit out")
    parser.add_argument("--docs", type=Path, help="the page whose section is to be written")
    parser.add_argument("--task", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.task:
        return task(choices.task)
    rounds = choices.rounds or (2 if choices.quick else 4)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=choices.work, prefix="growth-") as place:
        work = Path(place)
        lines, weighings = [], []
        for case in QUICK if choices.quick else TIMED:
            lines.append(timed(work, case, rounds))
            print(row(lines[-1]), file=sys.stderr, flush=True)
        for case in QUICK_MEMORY if choices.quick else MEMORY:
            weighings.append(timed(work, case, 1))
        depth = None if choices.no_mergekit else beside(work, QUICK_DEPTH if choices.quick else DEPTH, rounds)
    text = page(lines, weighings, depth, load)
    print(text)
    if choices.docs:
        write_section(choices.docs, text)
    return None


if __name__ == "__main__":
    main()
