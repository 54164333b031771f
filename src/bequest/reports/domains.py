"""The domain × stage table: measured perplexity of each model on each corpus."""

from __future__ import annotations

import math
from typing import Any

from bequest.reports.curves import finite
from bequest.reports.record import RunRecord, mapping


def domains(run: RunRecord) -> dict[str, Any] | None:
    """The heat map's data, None when nothing was measured.

    Returns:
        ``models`` in the order of the run, ``corpora``, and per corpus a row of cells: perplexity, loss (nats), bits
        per byte, ``ratio`` = perplexity over the best model's on that corpus (the colour: what a model is worse by than
        the best one there), and the row's unigram perplexity.
    """
    measured = {model: found for model, found in run.perplexity().items() if found}
    if not measured:
        return None
    order = [stage.name for stage in run.stages]
    models = sorted(measured, key=lambda name: (order.index(name) if name in order else len(order), name))
    corpora = list(dict.fromkeys(corpus for model in models for corpus in measured[model]))
    rows = []
    for corpus in corpora:
        cells = [cell(mapping(measured[model].get(corpus))) for model in models]
        known = [entry["perplexity"] for entry in cells if entry["perplexity"]]
        best = min(known) if known else None
        for entry in cells:
            entry["ratio"] = entry["perplexity"] / best if best and entry["perplexity"] else None
            entry["best"] = entry["ratio"] == 1.0
        unigram = next((finite(mapping(measured[model].get(corpus)).get("unigram")) for model in models), None)
        rows.append({"corpus": corpus, "cells": cells, "unigram": math.exp(unigram) if unigram else None})
    return {"models": models, "corpora": corpora, "rows": rows}


def cell(found: Any) -> dict[str, Any]:
    """One measured value in the forms shown."""
    loss, perplexity = finite(found.get("loss")), finite(found.get("perplexity"))
    if perplexity is None and loss is not None:
        perplexity = math.exp(loss)
    return {"loss": loss, "perplexity": perplexity, "bits_per_byte": finite(found.get("bits_per_byte"))}
