"""Dealing: no text twice, no group on two sides, no labelled group in a corpus; fixed by hash and by ``RULES``."""

from __future__ import annotations

from collections import Counter

from bequest import storage
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.holding_out import RULES, balanced, deal, is_test, split

#: What ``made_up`` deals under each version of the rules.  When it changes, raise RULES and add the new digest.
DEALT = {1: "077813edddd1"}


def made_up(groups: int = 120) -> Converted:
    examples = [
        Labelled(f"example {number} of {label}", label, f"group {number}")
        for number in range(groups // 2)
        for label in ("a", "b", "c")
    ]
    documents = [Document(f"document {number}", f"group {number}") for number in range(groups)]
    return Converted(corpora={"corpus": documents}, tasks={"task": examples})


def test_groups_keep_to_one_side_and_out_of_the_corpora() -> None:
    converted = made_up()
    dealt = deal(converted)
    sides = dealt.tasks["task"]
    train, test = ({example.group for example in side} for side in (sides.train, sides.test))
    assert train and test and not train & test
    assert {document.group for document in dealt.corpora["corpus"]}.isdisjoint(train | test)
    assert dealt.dropped["corpus"]["group_in_a_task"] == 60
    assert len(dealt.corpora["corpus"]) == 60
    # The control: dealt by row instead, groups would stand on both sides.
    rows = [example._replace(group=f"{example.group} {example.label}") for example in converted.tasks["task"]]
    by_row = split(rows)
    assert {e.group.rsplit(" ", 1)[0] for e in by_row.train} & {e.group.rsplit(" ", 1)[0] for e in by_row.test}


def test_about_a_third_of_many_groups_is_tested() -> None:
    assert 0.30 < sum(is_test(f"group {number}") for number in range(3000)) / 3000 < 0.37


def test_duplicates_are_dropped_and_counted() -> None:
    names = [f"group {number}" for number in range(40)]
    on_test = next(name for name in names if is_test(name))
    on_train = next(name for name in names if not is_test(name))
    examples = [
        Labelled("Twice  over", "a", on_train),
        Labelled("twice over", "a", on_test),
        Labelled("Same side", "a", on_train),
        Labelled("same side", "a", on_train),
        Labelled("both", "a", on_train),
        Labelled("both", "b", on_train),
        Labelled("  ", "a", on_train),
        Labelled("once", "b", on_test),
    ]
    sides = split(examples)
    assert Counter(e.text for e in (*sides.train, *sides.test)) == {"Twice  over": 1, "Same side": 1, "once": 1}
    assert sides.dropped == {"empty": 1, "duplicates": 2, "duplicates_across_sides": 1, "contradictions": 2}


def test_a_documents_text_may_not_be_an_examples_nor_another_documents() -> None:
    converted = Converted(
        corpora={"corpus": [Document(text, f"d{n}") for n, text in enumerate(["Seen", "new", "NEW ", "", "other"])]},
        tasks={"task": [Labelled("seen", "a", "g1"), Labelled("unseen", "b", "g2")]},
    )
    dealt = deal(converted)
    assert [document.text for document in dealt.corpora["corpus"]] == ["new", "other"]
    assert dealt.dropped["corpus"] == {"empty": 1, "duplicates": 1, "group_in_a_task": 0, "text_in_a_task": 1}


def test_probes_are_balanced_as_far_as_the_examples_allow() -> None:
    examples = [
        Labelled(f"{label}{n}", label, "g") for label, many in (("a", 50), ("b", 5), ("c", 30)) for n in range(many)
    ]
    chosen = balanced(examples, 45)
    assert Counter(example.label for example in chosen) == {"a": 20, "b": 5, "c": 20}
    assert balanced(examples, 45) == chosen
    assert len(balanced(examples, 1000)) == 85


def test_the_order_of_a_source_does_not_matter_to_its_task() -> None:
    converted = made_up()
    backwards = Converted(converted.corpora, {"task": list(reversed(converted.tasks["task"]))})
    assert deal(converted).tasks == deal(backwards).tasks


def test_the_rules_have_not_changed_unnoticed() -> None:
    dealt = deal(made_up(3000))
    sides = dealt.tasks["task"]
    texts = [[e.text for e in side] for side in (sides.train, sides.test, sides.probe_train, sides.probe_test)]
    digest = storage.value_digest([*texts, [document.text for document in dealt.corpora["corpus"]]])
    assert digest[:12] == DEALT[RULES]
