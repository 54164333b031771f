"""Run by test_growth_stream.py: growths that are killed, refused space, and measured, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from bequest.checkpoints import load_config, meta_model, to_memory_names
from bequest.errors import BequestError
from bequest.growth.stream import grow_checkpoint

TO = {"hidden_size": 512}


def child(work: Any) -> int:
    """The exit status of a forked process that does ``work``; negative for a signal."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def around(place: Path, name: str) -> list[str]:
    return sorted(path.name for path in place.iterdir() if name in path.name)


def killed(place: Path, name: str) -> dict[str, Any]:
    number = getattr(signal, name)

    def half(done: int, total: int) -> None:
        if done > total / 2:
            os.kill(os.getpid(), number)

    ended = child(lambda: grow_checkpoint(place / "small2", place / name, TO, progress=half))
    found = {"signal": int(number), "ended": ended, "out exists": (place / name).exists(), "left": around(place, name)}
    grow_checkpoint(place / "small2", place / name, TO)
    return {**found, "after the rerun": around(place, name)}


def limited(place: Path) -> dict[str, Any]:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
        try:
            grow_checkpoint(place / "small2", place / "limit", TO)
        except BequestError as error:
            os.write(says, f"{type(error).__name__} {error.line()}".encode())

    heard, says = os.pipe()
    child(work)
    os.close(says)
    return {"error": os.read(heard, 10_000).decode(), "left": around(place, "limit")}


def anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found.group(1)) * 1024


def measured(place: Path, layers: int) -> dict[str, int]:
    """Peak anonymous memory over what was held before, in a process that has grown nothing yet."""
    heard, says = os.pipe()

    def work() -> None:
        before, peak, stop = anonymous(), [0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.002):
                peak[0] = max(peak[0], anonymous())

        thread = threading.Thread(target=watch)
        thread.start()
        grow_checkpoint(place / f"small{layers}", place / f"measured{layers}", TO)
        stop.set()
        thread.join()
        result = sum(file.stat().st_size for file in (place / f"measured{layers}").glob("*.safetensors"))
        os.write(says, json.dumps({"peak": peak[0] - before, "result": result}).encode())

    child(work)
    os.close(says)
    found: dict[str, int] = json.loads(os.read(heard, 10_000))
    return found


def main() -> None:
    place = Path(sys.argv[1])
    # What is imported on the way is not the growth's memory.
    to_memory_names(["x"], meta_model(load_config(place / "small2")))
    found: dict[str, Any] = {"memory": {str(layers): measured(place, layers) for layers in (2, 8)}}
    found["limit"] = limited(place)
    grow_checkpoint(place / "small2", place / "whole", TO)
    for name in ("SIGKILL", "SIGTERM"):
        found[name] = killed(place, name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
