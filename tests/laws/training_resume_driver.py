"""Runs training in forked children, kills some of them, and prints what became of the weights as JSON.

    OMP_NUM_THREADS=1 python training_resume_driver.py CASE DIRECTORY

torch is imported once; every run is a fork of this process, so its end is a real SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

import training_support as tiny
from bequest.inheritance import Inherit, LiveTeacher
from bequest.storage import value_digest
from bequest.training import checkpointing, train
from bequest.training.checkpointing import MANIFEST
from bequest.training.prefixes import TwoStage
from bequest.training.trainer import Trainer

torch.set_num_threads(1)
CASES = {
    # family, micro-batch of 8, updates, blocks: 3 and 6 updates are an epoch and a bit, dropout makes the RNG matter
    "masked": ("bert", 4, 12, 20),
    "causal": ("llama", 8, 12, 20),
    "taught": ("gpt2", 2, 12, 20),
    "bf16": ("roberta", 4, 12, 20),
    "prefixes": ("gpt2", 4, 12, 20),
}


def run(case: str, place: Path, name: str, seed: int = 0) -> None:
    family, micro, updates, count = CASES[case]
    model, anatomy = tiny.tiny(family, dropout=0.1, layers=3 if case == "prefixes" else 2)
    objective = None
    if case == "taught":
        teacher, teacher_anatomy = tiny.tiny(family, hidden=16, seed=9)
        objective = Inherit(LiveTeacher(teacher, teacher_anatomy, tiny.BLOCK), until=0.8)
    chosen = tiny.settings(
        updates,
        micro=micro,
        checkpoint_every=3,
        evaluate_every=0.25,
        seed=seed,
        schedule="cosine",
        warmup=2,
        bf16=case == "bf16",
        two_stage=TwoStage(block=1, until=0.7) if case == "prefixes" else None,
    )
    result = train(model, tiny.data_for(family, place, count=count), objective, chosen, place / name, anatomy=anatomy)
    weights = {name: value.detach().numpy().tobytes().hex() for name, value in model.named_parameters()}
    lines = [json.loads(text) for text in (place / name / "metrics.jsonl").read_text().splitlines()]
    kept = [
        {key: value for key, value in line.items() if key not in ("wall", "tokens_per_second")}
        for line in lines
        if line["kind"] != "note"
    ]
    notes = [line["text"] for line in lines if line["kind"] == "note"]
    books = [result.tokens, result.updates, result.train_flops, result.teacher_flops, result.evaluations, result.best]
    (place / f"{name}.json").write_text(
        json.dumps({"weights": value_digest(weights), "metrics": kept, "notes": notes, "books": books})
    )


def child(work: Callable[[], None]) -> int:
    """Run in a fork; its signal, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(target: Any, attribute: str, at: int) -> None:
    """Let the ``at``-th call of ``target.attribute`` kill the process before it does anything."""
    original, calls = getattr(target, attribute), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            die()
        return original(*args, **kwargs)

    setattr(target, attribute, counted)


KILLS: dict[str, tuple[Any, str, int]] = {
    "in the first update": (Trainer, "compute_loss", 1),
    "in the middle of an accumulation": (Trainer, "compute_loss", 10),
    "before the optimizer is written": (Trainer, "_save_optimizer_and_scheduler", 2),
    "before the random state is written": (Trainer, "_save_rng_state", 3),
    "before the manifest": (checkpointing, "write_json", 2),
    "before the rename": (checkpointing, "replace", 3),
    "while an old one is retired": (checkpointing, "discard", 1),
}


def spoil_newest(directory: Path) -> None:
    """Cut a file of the newest checkpoint short, as a torn write would."""
    newest = checkpointing.numbered(directory / "checkpoints")[-1][1]
    path = newest / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-100])


def forge_without_optimizer(directory: Path) -> None:
    """The negative control: a checkpoint that claims to be whole but starts Adam from nothing."""
    newest = checkpointing.numbered(directory / "checkpoints")[-1][1]
    (newest / "optimizer.pt").unlink()
    manifest = json.loads((newest / MANIFEST).read_text())
    del manifest["files"]["optimizer.pt"]
    (newest / MANIFEST).write_text(json.dumps(manifest))


def main() -> None:
    case, place = sys.argv[1], Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    kills = KILLS if case == "masked" else {key: KILLS[key] for key in list(KILLS)[1:6:2]}

    def result(name: str) -> dict[str, Any]:
        return json.loads((place / f"{name}.json").read_text())

    assert child(lambda: run(case, place, "whole")) == 0
    whole = result("whole")
    report: dict[str, Any] = {"whole": whole["books"][:2], "kills": {}}
    for number, (what, (target, attribute, at)) in enumerate(kills.items()):
        name = f"killed-{number}"

        def killed(name: str = name, target: Any = target, attribute: str = attribute, at: int = at) -> None:
            arm(target, attribute, at)
            run(case, place, name)

        signals = [child(killed), child(lambda name=name: run(case, place, name))]
        found = result(name) if signals[1] == 0 else {}
        report["kills"][what] = {
            "signals": signals,
            "same": {key: found.get(key) == whole[key] for key in ("weights", "metrics", "books")},
            "notes": found.get("notes"),
            "left": sorted(path.name for path in (place / name / "checkpoints").iterdir()),
        }

    if case == "masked":
        for name, spoil in (("torn", spoil_newest), ("forged", forge_without_optimizer)):

            def killed(name: str = name) -> None:
                arm(Trainer, "compute_loss", 20)
                run(case, place, name)

            killed_by = child(killed)
            spoil(place / name)
            ended = child(lambda name=name: run(case, place, name))
            found = result(name)
            report[name] = {
                "signals": [killed_by, ended],
                "same": found["weights"] == whole["weights"],
                "notes": found["notes"],
            }
        child(lambda: run(case, place, "seeded", seed=1))
        report["seed changes it"] = result("seeded")["weights"] != whole["weights"]
        again = child(lambda: run(case, place, "whole"))
        report["finished"] = [again, result("whole") == {**whole, "notes": result("whole")["notes"]}]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
