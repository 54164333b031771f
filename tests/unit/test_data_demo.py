"""The embedded corpora and tasks: large enough, clean, fixed, and neither too easy nor too hard."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from bequest.data import demo, demo_tasks, prose
from bequest.data.demo_modules import MODULES
from bequest.data.specs import TaskSpec
from bequest.data.tasks import load_task
from bequest.errors import InputError

CORPORA = ("python", "numpy", "pandas", "sympy", "networkx")

DOCSTRING = '''
def f(x, y):
    """Return the ``sum`` of `x` and :func:`~other.y`, which is **exact** for integers.

    A second paragraph follows, with a reference [1]_ and a `link <https://example.org>`_ in it.

    Parameters
    ----------
    x : int, optional
        The first of the two numbers that are added.

    .. versionadded:: 1.2
       This block is dropped whole.

    .. note::
       This note is kept, since it is prose.

    Examples
    --------
    The sum of two small numbers is shown here::

        this_is_code(1, 2)

    >>> f(1, 2)
    3

    ===== =====
    a     b
    ===== =====

    See Also
    --------
    other : This is not prose but a list of names.
    """
    # This comment explains the line that follows it.
    total = x + y
    # total = frobnicate(x, y) + y
    return total
'''


def test_prose_of_a_docstring() -> None:
    found = "\n\n".join(prose.module_texts(DOCSTRING)).split("\n\n")
    assert found == [
        "Return the sum of x and other.y, which is exact for integers.",
        "A second paragraph follows, with a reference and a link in it.",
        "The first of the two numbers that are added.",
        "This note is kept, since it is prose.",
        "The sum of two small numbers is shown here:",
        "This comment explains the line that follows it.",
    ]


def test_source_that_does_not_parse_has_no_prose() -> None:
    assert list(prose.module_texts("def f(:\n")) == []


@pytest.mark.parametrize("name", CORPORA)
def test_each_corpus_is_a_megabyte_of_clean_prose(name: str) -> None:
    documents = list(demo.demo_documents(name))
    assert demo.demo_bytes(name) >= 1_000_000
    assert len({document.group for document in documents}) >= 200
    paragraphs = [paragraph for document in documents for paragraph in document.text.split("\n\n")]
    assert len({paragraph.casefold() for paragraph in paragraphs}) == len(paragraphs)  # none twice
    assert not [p for p in paragraphs if re.search(r">>>|\.\. \w+::|:\w+:`|``|[{}|]|={3}|-{3}|https?:", p)]
    letters = sum(character.isalpha() or character == " " for p in paragraphs for character in p)
    assert letters / sum(map(len, paragraphs)) > 0.93
    assert all(paragraph[-1] in ".!?:…\"'”’)]" for paragraph in paragraphs)


def test_the_list_is_fixed_and_a_missing_package_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [
        name for modules in MODULES.values() for text in modules.values() for name in text.split() if "*" in name
    ]
    assert demo.demo_missing() == []
    found = demo._base
    monkeypatch.setattr(demo, "_base", lambda name: None if name == "sympy" else found(name))
    assert "sympy" not in demo.demo_corpora()
    assert demo.demo_missing() == ["sympy: not installed, so this corpus is left out"]
    with pytest.raises(InputError, match="not installed; install bequest"):
        demo.demo_files("sympy")


def test_missing_modules_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.MODULES, "networkx", {"networkx": "gone exception"})
    assert [module for module, _ in demo.demo_files("networkx")] == ["networkx/exception.py"]


@pytest.mark.parametrize("name", sorted(demo_tasks.TASKS))
def test_a_bag_of_words_gets_between_40_and_85_percent(name: str) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    task = load_task(name, TaskSpec(demo=name), Path.cwd())
    assert len(task.labels) >= 6
    assert len(task.train) >= 600
    assert len(task.test) >= 200
    assert max(Counter(example.label for example in task.test).values()) <= 0.25 * len(task.test)
    assert not {example.text for example in task.train} & {example.text for example in task.test}
    giveaways = demo_tasks.TASKS[name].giveaways
    words = {word for example in [*task.train, *task.test] for word in re.findall(r"\w+", example.text.lower())}
    assert not [word for word in words if word.startswith(giveaways)]
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    model.fit([example.text for example in task.train], [example.label for example in task.train])
    score = model.score([example.text for example in task.test], [example.label for example in task.test])
    assert 0.40 <= score <= 0.85


def test_unknown_demo_names_are_answered() -> None:
    with pytest.raises(InputError, match="did you mean 'sympy-areas'"):
        demo_tasks.demo_task("sympy-area")
    with pytest.raises(InputError, match="did you mean 'numpy'"):
        next(demo.demo_documents("nunpy"))
