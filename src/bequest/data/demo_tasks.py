"""The embedded tasks: from which part of a package is this paragraph?

An example is a paragraph of an embedded corpus, its label the sub-package it stands in.  Give-away words (the names of
the classes and of what they are called after) are taken out of every text.  Paragraphs of one top-level definition stay
on one side; classes are of about equal size.  A bag of words gets 40 to 85 % of the test examples right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bequest.data import demo
from bequest.data.splitting import group_digest
from bequest.errors import InputError, did_you_mean

#: Words of a paragraph that is an example, after the give-away words have gone.
LEAST_WORDS, MOST_WORDS = 12, 60
TEST_SHARE = 0.3


@dataclass(frozen=True)
class EmbeddedTask:
    """A task inside one embedded corpus.

    Attributes:
        corpus: the embedded corpus.
        classes: label -> the directory (or module) whose paragraphs have it.
        giveaways: beginnings of words that are taken out.
        most: the most examples that one class may have on the training side; on the test side TEST_SHARE of it.
    """

    corpus: str
    classes: dict[str, str]
    giveaways: tuple[str, ...]
    most: int = 160


TASKS = {
    "sympy-areas": EmbeddedTask(
        corpus="sympy",
        classes={
            "combinatorics": "sympy/combinatorics/",
            "geometry": "sympy/geometry/",
            "matrices": "sympy/matrices/",
            "number theory": "sympy/ntheory/",
            "physics": "sympy/physics/",
            "plotting": "sympy/plotting/",
            "polynomials": "sympy/polys/",
            "printing": "sympy/printing/",
        },
        giveaways=(
            *("sympy", "combinat", "permut", "geometr", "matri", "number", "ntheory", "physic"),
            *("plot", "poly", "print"),
        ),
    ),
    "networkx-areas": EmbeddedTask(
        corpus="networkx",
        classes={
            "approximation": "networkx/algorithms/approximation/",
            "bipartite": "networkx/algorithms/bipartite/",
            "centrality": "networkx/algorithms/centrality/",
            "community": "networkx/algorithms/community/",
            "connectivity": "networkx/algorithms/connectivity/",
            "isomorphism": "networkx/algorithms/isomorphism/",
            "shortest paths": "networkx/algorithms/shortest_paths/",
            "trees": "networkx/algorithms/tree/",
        },
        giveaways=(
            *("networkx", "approx", "bipart", "centralit", "communit", "connect", "isomorph"),
            *("path", "short", "tree", "arboresc", "branching"),
        ),
        most=110,
    ),
    "python-areas": EmbeddedTask(
        corpus="python",
        classes={
            "asyncio": "asyncio/",
            "building": "distutils/",
            "email": "email/",
            "graphical interface": "tkinter/",
            "imports": "importlib/",
            "language": "pydoc_data/",
            "logging": "logging/",
            "testing": "unittest/",
        },
        giveaways=(
            *("asyncio", "async", "await", "loop", "distutils", "build", "email", "mail", "tk", "widget", "import"),
            *("log", "test", "mock", "python"),
        ),
        most=130,
    ),
}


def demo_task(name: str, *, key: str = "demo") -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The (text, label) pairs of an embedded task, training and test side, in a fixed order.

    Raises:
        InputError: no such task, or its package is not installed.
    """
    if name not in TASKS:
        raise InputError(f"no embedded task is called {name!r}", key=key, remedy=did_you_mean(name, TASKS))
    task = TASKS[name]
    giveaway = re.compile(rf"\b(?:{'|'.join(task.giveaways)})\w*", re.IGNORECASE)
    sides: dict[str, dict[bool, list[tuple[int, str]]]] = {label: {False: [], True: []} for label in task.classes}
    for number, document in enumerate(demo.demo_documents(task.corpus)):
        label = next((label for label, place in task.classes.items() if document.group.startswith(place)), None)
        if label is None or "/tests/" in document.group:
            continue
        test = group_digest(f"{document.group}#{number}") < TEST_SHARE * 2**64
        for paragraph in document.text.split("\n\n"):
            text = " ".join(giveaway.sub(" ", paragraph).split())
            words = text.split()
            if len(words) >= LEAST_WORDS:
                text = " ".join(words[:MOST_WORDS])
                sides[label][test].append((group_digest(text), text))
    most = {False: task.most, True: round(task.most * TEST_SHARE)}
    # By hash, so that neither the choice nor the order follows the modules.
    found = {
        test: sorted(
            (digest, text, label) for label in sides for digest, text in sorted(sides[label][test])[: most[test]]
        )
        for test in (False, True)
    }
    return [(text, label) for _, text, label in found[False]], [(text, label) for _, text, label in found[True]]
