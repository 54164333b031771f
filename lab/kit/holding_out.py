"""Who stands on which side: duplicates dropped, groups kept together, tasks' groups held out of the corpora.

1. Two examples of a task with the same normalised text (NFKC, case folded, white space as one space) are one example;
   with different labels they are none.  Two documents of a corpus with the same text are one document.
2. Every group that has an example in a task of a source is held out of all corpora of that source, and so is every
   document whose text is an example's.
3. A group is on the test side when its hash falls below a third, so its side depends on nothing else.
4. The probe files are a fixed choice by hash, as balanced over the classes as the examples allow.

``RULES`` is part of a corpus's identity: raise it whenever the same converted source would be dealt otherwise.
Try it: ``deal(Converted(corpora={}, tasks={"t": [Labelled("good", "a", "g1"), Labelled("bad", "b", "g2")]}))``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bequest.data.splitting import is_held_out, text_digest
from lab.kit.documents import Converted, Document, Labelled

RULES = 1
TEST_SHARE = 1 / 3
PROBE_EXAMPLES = 1000
# Seeds of the group hash: bequest's own held-out split uses 0, and these draws must not follow it.
SPLIT_SEED = 31
CHOICE_SEED = 47


@dataclass(frozen=True)
class Sides:
    """One task, split; each side in hash order.

    Attributes:
        train: examples to learn from.
        test: examples to measure on.
        probe_train: at most ``PROBE_EXAMPLES`` of ``train``.
        probe_test: at most ``PROBE_EXAMPLES`` of ``test``.
        dropped: what was dropped and why -> examples.
    """

    train: Sequence[Labelled]
    test: Sequence[Labelled]
    probe_train: Sequence[Labelled]
    probe_test: Sequence[Labelled]
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Dealt:
    """A source whose corpora and tasks share no group and no text.

    Attributes:
        corpora: corpus name -> the documents that remain.
        tasks: task name -> its sides.
        dropped: corpus name -> what was dropped and why -> documents.
    """

    corpora: Mapping[str, Sequence[Document]]
    tasks: Mapping[str, Sides]
    dropped: Mapping[str, Mapping[str, int]]


def is_chosen(group: str, share: float) -> bool:
    """Whether a converter that labels only a ``share`` of its groups, in (0, 1), should label this one; by hash."""
    return is_held_out(group, share, CHOICE_SEED)


def is_test(group: str) -> bool:
    """Whether a group's examples are on the test side."""
    return is_held_out(group, TEST_SHARE, SPLIT_SEED)


def deal(converted: Converted) -> Dealt:
    """Drop duplicates, split the tasks by group, and hold their groups and texts out of the corpora."""
    tasks = {name: split(examples) for name, examples in converted.tasks.items()}
    kept = [example for sides in tasks.values() for side in (sides.train, sides.test) for example in side]
    groups = {example.group for example in kept}
    # Dropped duplicates count too: their text is an example's text.
    texts = {text_digest(example.text) for examples in converted.tasks.values() for example in examples}
    corpora: dict[str, Sequence[Document]] = {}
    dropped: dict[str, Mapping[str, int]] = {}
    for name, documents in converted.corpora.items():
        corpora[name], dropped[name] = _hold_out(documents, groups, texts)
    return Dealt(corpora, tasks, dropped)


def _hold_out(
    documents: Iterable[Document], groups: set[str], texts: set[int]
) -> tuple[list[Document], Mapping[str, int]]:
    remaining: list[Document] = []
    dropped = Counter({"empty": 0, "duplicates": 0, "group_in_a_task": 0, "text_in_a_task": 0})
    seen: set[int] = set()
    for document in documents:
        digest = text_digest(document.text)
        if not document.text.strip():
            dropped["empty"] += 1
        elif document.group in groups:
            dropped["group_in_a_task"] += 1
        elif digest in texts:
            dropped["text_in_a_task"] += 1
        elif digest in seen:
            dropped["duplicates"] += 1
        else:
            seen.add(digest)
            remaining.append(document)
    return remaining, dict(dropped)


def split(examples: Sequence[Labelled]) -> Sides:
    """Drop a task's empty, duplicate and contradictory examples and deal the rest to two sides by group."""
    dropped = Counter({"empty": 0, "duplicates": 0, "duplicates_across_sides": 0, "contradictions": 0})
    by_text: dict[int, list[Labelled]] = {}
    for example in examples:
        if example.text.strip():
            by_text.setdefault(text_digest(example.text), []).append(example)
        else:
            dropped["empty"] += 1
    sides: dict[bool, list[Labelled]] = {False: [], True: []}
    for _, same in sorted(by_text.items()):
        first = same[0]
        if len({example.label for example in same}) > 1:
            dropped["contradictions"] += len(same)
            continue
        dropped["duplicates"] += len(same) - 1
        dropped["duplicates_across_sides"] += sum(is_test(other.group) != is_test(first.group) for other in same[1:])
        sides[is_test(first.group)].append(first)
    train, test = sides[False], sides[True]
    return Sides(train, test, balanced(train, PROBE_EXAMPLES), balanced(test, PROBE_EXAMPLES), dict(dropped))


def balanced(examples: Sequence[Labelled], limit: int) -> list[Labelled]:
    """At most ``limit`` examples, in their order, as evenly over the classes as there are examples.

    A class that has fewer than its share gives what it has, and the others share the rest.
    """
    counts = Counter(example.label for example in examples)
    quotas: dict[str, int] = {}
    left = limit
    for position, (label, count) in enumerate(sorted(counts.items(), key=lambda item: (item[1], item[0]))):
        quotas[label] = min(count, left // (len(counts) - position))
        left -= quotas[label]
    chosen: list[Labelled] = []
    for example in examples:
        if quotas[example.label] > 0:
            quotas[example.label] -= 1
            chosen.append(example)
    return chosen
