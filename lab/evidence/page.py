"""The whole page: cells that came to nothing, the claims with the failed ones first, then experiment by experiment.

Read from ``lab/*.yaml`` and ``lab/results/*.csv`` below a checkout and from nothing else but the pinned packages' names
and digests, which the recipes' hashes need.  Try it: ``check(places.checkout())``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bequest.errors import InputError
from bequest.storage import write_text
from lab.evidence.experiment import section
from lab.evidence.figure import figure_name, loss_figure
from lab.evidence.gathering import compare
from lab.evidence.markdown import provenance
from lab.evidence.verdicts import UNINFORMATIVE, UNMEASURED, VERDICTS, Judged, arms_of, judge
from lab.experiments.comparing import Comparison
from lab.experiments.outcomes import FAILED, HOLDS, UNDECIDED
from lab.experiments.reading import load_experiment
from lab.experiments.rows import read_rows
from lab.experiments.schema import ONLY

if TYPE_CHECKING:
    from lab.experiments.rows import Row
    from lab.experiments.schema import Experiment

PAGE = Path("docs") / "evidence.md"
EXPERIMENTS, RESULTS = Path("lab"), Path("lab") / "results"
NOT_SHOWN = "smoke"
REMEDY = "run `make evidence` and commit the page"
SHOWN_DIFFERENCES = 20

HEADINGS = {
    FAILED: "Claims that did not hold",
    UNDECIDED: "Undecided",
    UNINFORMATIVE: "Uninformative",
    HOLDS: "Claims that hold",
    UNMEASURED: "Not measured yet",
}
INTRODUCTION = """\
# Evidence

*Written by `make evidence` from `lab/*.yaml` and `lab/results/*.csv`; edit those, not this page.*

Every number comes from rows that anyone can make again: `python -m lab run EXPERIMENT --scale SCALE`. A mean stands
with its 95 % interval over seeds. Where several orders were run, numbers are averaged over the orders within each seed
first ("3 seeds, mean of 2 orders"), and only seeds count for which every order is there. Differences are taken pair by
pair: same seed, same order, same base weights, same batches (unless a method changes them by design; such rows pair
within one revision of the code only). The tuned value is the one that the pilots choose among the candidates in the
file; rows that the file no longer plans are left out and counted. A verdict comes from the interval, never from the
mean alone:

* *did not hold*: the whole interval lies where the claim does not expect it;
* *holds*: the whole interval lies where the claim expects it, every planned cell is there, none came to nothing, and,
  where two methods are compared, every cell has its partner;
* *undecided*: the interval covers the threshold, there are fewer than two seeds, or the interval alone would say that
  the claim holds but a cell came to nothing or found no partner;
* *uninformative*: no model concerned is a whole nat below the unigram entropy, so that nothing beyond word counts was
  learnt and nothing can be concluded. Of what was won or lost the better of the stages compared must be below it;
* *not measured yet*: planned cells have no row, or the rows are of an earlier recipe, or, where two methods are
  compared, one of them lacks pilots.

In the formulas aⁱⱼ is what the model after domain i scores on domain j: a⁰ is the untouched base, T the last domain.
Forgetting and drops are positive when something was lost, learning and transfer when something was won.
"""


def render(root: Path) -> str:
    """The page's text.

    Args:
        root: a checkout's top.

    Raises:
        InputError: an experiment file or a CSV that cannot be read, or rows of an experiment that has no file.
    """
    return rendered(root)[PAGE]


def rendered(root: Path) -> dict[Path, str]:
    """The page and the drawings beside it, each by its place below ``root``.

    Raises:
        InputError: as :func:`render`.
    """
    experiments = sorted(
        (load_experiment(path) for path in sorted((root / EXPERIMENTS).glob("*.yaml"))), key=lambda found: found.name
    )
    rows = _rows(root, {experiment.name for experiment in experiments})
    lines = INTRODUCTION.splitlines()
    judged: list[Judged] = []
    fallen: list[str] = []
    sections: list[str] = []
    figures: dict[Path, str] = {}
    for experiment in experiments:
        own = [row for row in rows if row.experiment == experiment.name]
        scales = [name for name in experiment.scales if name != NOT_SHOWN]
        comparisons = [compare(experiment, scale, own) for scale in scales]
        comparisons = [compared for compared in comparisons if compared.cells or compared.failed or compared.left_out]
        judged += claims_of(experiment, comparisons)
        fallen += fallen_lines(comparisons)
        sections += ["", *section(experiment, comparisons, sum(row.scale not in scales for row in own))]
        figures |= {
            PAGE.with_name(figure_name(compared, size)): drawn
            for compared in comparisons
            for size in experiment.sizes
            if (drawn := loss_figure(compared, size)) is not None
        }
    lines += ["", "## Cells that came to nothing", "", *fallen] if fallen else []
    for verdict in VERDICTS:
        lines += claims_part(verdict, [found for found in judged if found.verdict == verdict])
    if not experiments:
        lines += ["", "There is no experiment yet."]
    return {PAGE: _tidy([*lines, *sections]), **figures}


def write(root: Path) -> list[Path]:
    """Write the page and its drawings, remove drawings that have no rows any more; returns what stands now, page first.

    Raises:
        InputError: as :func:`render`.
        RunError: the disk is full.
    """
    wanted = rendered(root)
    for path in drawings(root):
        if path.relative_to(root) not in wanted:
            path.unlink()
    for place, text in wanted.items():
        write_text(root / place, text)
    return [root / place for place in wanted]


def drawings(root: Path) -> list[Path]:
    """The drawings that stand beside the page."""
    return sorted((root / PAGE).parent.glob("evidence-*.svg"))


def check(root: Path) -> list[str]:
    """How the committed page and its drawings differ from what the rows say: lines, empty where they do not.

    Raises:
        InputError: as :func:`render`.
    """
    wanted = rendered(root)
    strange = [path.relative_to(root) for path in drawings(root) if path.relative_to(root) not in wanted]
    found = [f"{place.as_posix()} is of no rows; {REMEDY}" for place in strange]
    return found + [line for place, text in wanted.items() for line in _differences(root, place, text)]


def _differences(root: Path, place: Path, wanted: str) -> list[str]:
    """How one file differs from what it should be."""
    path = root / place
    if not path.is_file():
        return [f"{place.as_posix()} is missing; {REMEDY}"]
    found = path.read_bytes()
    if found == wanted.encode("utf-8"):
        return []
    text = found.decode("utf-8", errors="replace")
    changes = list(
        difflib.unified_diff(text.split("\n"), wanted.split("\n"), "committed", "from the rows", "", "", 0, "")
    )
    more = [f"... and {len(changes) - SHOWN_DIFFERENCES} lines more"] if len(changes) > SHOWN_DIFFERENCES else []
    return [f"{place.as_posix()} is not what the rows say; {REMEDY}", *changes[:SHOWN_DIFFERENCES], *more]


def fallen_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """A list entry for every reported cell that came to nothing; they block *holds* for every claim of their method."""
    return [
        f"* {fallen}: [{compared.experiment.name}](#{compared.experiment.name}), scale {compared.scale}"
        for compared in comparisons
        for fallen in compared.fallen(compared.arms)
    ]


def claims_of(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Judged]:
    """Every claim at every scale and size that has rows of a method concerned; once as not measured where none has."""
    found: list[Judged] = []
    for claim in experiment.claims:
        tried = [
            (judge(claim, compared, size), any(arm in compared.choices for arm in arms_of(claim, size)))
            for compared in comparisons
            for size in experiment.sizes
        ]
        measured = [judged for judged, has_rows in tried if has_rows]
        found += measured or [Judged(experiment.name, claim, None, ONLY, UNMEASURED)]
    return found


def claims_part(verdict: str, found: Sequence[Judged]) -> list[str]:
    """The claims of one verdict."""
    lines = ["", f"## {HEADINGS[verdict]}", ""]
    return [*lines, *(line for judged in found for line in claim_lines(judged))] if found else [*lines, "None."]


def claim_lines(judged: Judged) -> list[str]:
    """A claim as a list entry: what it says, what was found beside the paper's number, and from which rows."""
    claim = judged.claim
    place = f"[{judged.experiment}](#{judged.experiment})" + ("" if judged.scale is None else f", scale {judged.scale}")
    place += "" if judged.size == ONLY else f", size {judged.size}"
    what = f"{claim.outcome} of `{claim.of}`"
    if claim.against is not None:
        what += f" {'as a share of that' if claim.ratio else 'minus that'} of `{claim.against}`"
    lines = [f"* **{claim.says.strip().rstrip('.')}.** {place}"]
    ours = f"{what}: {judged.ours or 'nothing yet'}; expected {claim.expect}"
    lines.append(f"  * {ours}" + (f"; paper: {claim.paper}" if claim.paper else ""))
    if claim.source:
        lines.append(f"  * source: {claim.source}")
    if judged.remark:
        lines.append(f"  * {judged.remark}")
    if judged.rows:
        lines.append(f"  * {provenance(judged.rows)}")
    return lines


def _rows(root: Path, known: set[str]) -> list[Row]:
    """The rows of every CSV."""
    rows: list[Row] = []
    for path in sorted((root / RESULTS).glob("*.csv")):
        found, remarks = read_rows(path)
        if remarks:
            raise InputError(remarks[0], where=path, remedy="let a run finish, or cut the torn line off")
        strange = sorted({row.experiment for row in found} - known)
        if strange:
            raise InputError(
                f"rows of {strange[0]!r}, which has no file in lab/", where=path, remedy="restore the file"
            )
        rows += found
    return rows


def _tidy(lines: Sequence[str]) -> str:
    """One blank line at most between blocks, no blanks at line ends, one line feed at the end."""
    kept: list[str] = []
    for line in (line.rstrip() for line in lines):
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"
