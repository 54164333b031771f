"""lineage.json: digests that say what an artefact is, an id, nothing secret, measures added later, the family tree."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bequest import lineage
from bequest.errors import InputError
from bequest.lineage import Cost, DataUse, Operation, Parent

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def write_safetensors(file: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """A slow, obvious writer of the format, independent of the code under test."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


WEIGHTS: Tensors = {
    "model.embed.weight": ("F32", (2, 2), floats(1, 2, 3, 4)),
    "model.norm.weight": ("F32", (2,), floats(5, 6)),
    "model.half": ("BF16", (2,), b"\x01\x02\x03\x04"),
}
CONFIG = {"model_type": "llama", "hidden_size": 2, "architectures": ["LlamaForCausalLM"]}


def make_model(directory: Path, weights: Tensors = WEIGHTS, config: dict[str, Any] | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "model.safetensors", weights)
    (directory / "config.json").write_text(json.dumps(config or CONFIG))
    return directory


def make_sharded(directory: Path, shards: list[list[str]], weights: Tensors = WEIGHTS) -> Path:
    directory.mkdir()
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number}.safetensors"
        write_safetensors(directory / file, {name: weights[name] for name in names}, {"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def slow_digest(weights: Tensors) -> str:
    rows = [
        [name, dtype, list(shape), hashlib.sha256(data).hexdigest()]
        for name, (dtype, shape, data) in sorted(weights.items())
    ]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def test_weights_digest_is_independent_of_sharding_order_and_metadata(tmp_path: Path) -> None:
    names = list(WEIGHTS)
    whole = make_model(tmp_path / "whole")
    reordered = make_model(tmp_path / "reordered", {name: WEIGHTS[name] for name in reversed(names)})
    sharded = make_sharded(tmp_path / "sharded", [names[2:], names[:2]])
    found = {lineage.weights_digest(path) for path in (whole, reordered, sharded)}
    assert found == {slow_digest(WEIGHTS)}


@pytest.mark.parametrize(
    "changed",
    [
        {"model.norm.weight": ("F32", (2,), floats(5, 6.0000005))},
        {"model.norm.weight": ("F32", (1, 2), floats(5, 6))},
        {"model.half": ("F16", (2,), b"\x01\x02\x03\x04")},
        {"model.extra": ("F32", (1,), floats(0))},
    ],
    ids=["a bit", "a shape", "a dtype", "a name"],
)
def test_weights_digest_sees_every_change(tmp_path: Path, changed: Tensors) -> None:
    before = lineage.weights_digest(make_model(tmp_path / "a"))
    assert lineage.weights_digest(make_model(tmp_path / "b", {**WEIGHTS, **changed})) != before


def test_a_tied_tensor_counts_once_and_an_untied_head_counts(tmp_path: Path) -> None:
    plain = lineage.weights_digest(make_model(tmp_path / "plain"))
    tied = {**WEIGHTS, "lm_head.weight": WEIGHTS["model.embed.weight"]}
    assert lineage.weights_digest(make_model(tmp_path / "tied", tied)) == plain
    untied = {**WEIGHTS, "lm_head.weight": ("F32", (2, 2), floats(1, 2, 3, 5))}
    assert lineage.weights_digest(make_model(tmp_path / "untied", untied)) != plain
    twin = {**WEIGHTS, "model.other.weight": WEIGHTS["model.embed.weight"]}
    assert lineage.weights_digest(make_model(tmp_path / "twin", twin)) != plain


def test_weights_digest_streams_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "m")
    before = lineage.weights_digest(model)
    monkeypatch.setattr("bequest.lineage.digesting.CHUNK", 3)
    assert lineage.weights_digest(model) == before


@pytest.mark.parametrize("damage", ["empty", "short", "text"])
def test_damaged_weights_are_one_line(tmp_path: Path, damage: str) -> None:
    model = make_model(tmp_path / "m")
    file = model / "model.safetensors"
    file.write_bytes({"empty": b"", "short": file.read_bytes()[:-1], "text": b"version https://git-lfs"}[damage])
    with pytest.raises(InputError, match=r"model\.safetensors: "):
        lineage.weights_digest(model)


def test_config_digest_ignores_who_wrote_it(tmp_path: Path) -> None:
    before = lineage.config_digest(make_model(tmp_path / "a"))
    written = {**CONFIG, "transformers_version": "5.23.0", "_name_or_path": "/home/me/x", "dtype": "float32"}
    assert lineage.config_digest(make_model(tmp_path / "b", config=written)) == before
    assert lineage.config_digest(make_model(tmp_path / "c", config={**CONFIG, "hidden_size": 3})) != before


def test_tokenizer_digest_is_about_text_only(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    assert lineage.tokenizer_digest(model) is None
    value: dict[str, Any] = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}

    def digest(tokenizer: dict[str, Any], settings: dict[str, Any]) -> str | None:
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        return lineage.tokenizer_digest(model)

    first = digest(value, {"eos_token": "<e>", "model_max_length": 5})
    padded = {**value, "padding": {"length": 3}, "truncation": {"max_length": 4}}
    assert digest(padded, {"eos_token": {"content": "<e>", "lstrip": False}, "model_max_length": 9}) == first
    assert digest(value, {"eos_token": "<f>"}) != first
    assert digest({**value, "normalizer": {"type": "Lowercase"}}, {"eos_token": "<e>"}) != first
    longer = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    assert digest({**value, "model": longer}, {"eos_token": "<e>"}) != first


def make(directory: Path, **changes: Any) -> lineage.Lineage:
    values: dict[str, Any] = {"name": "small", "stage": "pretrain", "method": "plain", "parameters": {"tokens": 5}}
    made = lineage.make_lineage(directory, **{**values, **changes})
    lineage.write_lineage(directory, made)
    return made


def test_the_id_is_weights_parents_and_operation(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    first = make(model)
    parent = Parent(id="a" * 64, role="base", name="p")
    same = [{"name": "other"}, {"cost": Cost(tokens=9)}, {"seed": 3}, {"data": [DataUse(name="d", fingerprint="f")]}]
    assert {make(model, **change).id for change in same} == {first.id}
    renamed = make(model, parents=[parent]).id
    assert make(model, parents=[parent.model_copy(update={"name": "q", "path": "../q"})]).id == renamed
    different = [{"parameters": {"tokens": 6}}, {"method": "x"}, {"stage": "adapt"}, {"maps": {"order": [0]}}]
    ids = [make(model, **change).id for change in different] + [renamed]
    ids.append(make(model, parents=[parent.model_copy(update={"role": "teacher"})]).id)
    other = {**WEIGHTS, "model.norm.weight": ("F32", (2,), floats(5, 7))}
    ids.append(make(make_model(tmp_path / "n", other)).id)
    assert len({first.id, *ids}) == len(ids) + 1


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    made = make(model, cost=Cost(tokens=4, train_flops=1.5e12, device="cpu"), maps={"rule": "fpi"}, seed=7)
    assert lineage.read_lineage(model) == made
    assert made.environment.versions["python"] and made.environment.seed == 7
    assert made.kind == "model" and made.short_id == made.id[:12]


def test_an_artefact_without_lineage_has_the_id_that_adopting_gives(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    before = lineage.identity_of(model)
    adopted = lineage.make_lineage(model, name="whatever", stage="adopt")
    assert adopted.id == before == lineage.lineage_id(lineage.weights_digest(model), (), Operation(stage="adopt"))


def test_a_lineage_beside_other_weights_is_not_believed(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    made = make(model)
    assert lineage.proven_id(model) == lineage.identity_of(model) == made.id  # the control
    assert lineage.describes(made, model)
    other = {**WEIGHTS, "model.norm.weight": ("F32", (2,), floats(5, 7))}
    make_model(model, other)
    assert not lineage.describes(made, model) and lineage.identity_of(model) == made.id
    assert lineage.proven_id(model) == lineage.identity_of(make_model(tmp_path / "n", other))
    assert lineage.parent_of(model, "base").id == lineage.proven_id(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["operation"]["parameters"].update(tokens=6),
        lambda value: value["digests"].update(weights="0" * 64),
        lambda value: value["parents"].append({"id": "a" * 64, "role": "base", "name": "p"}),
    ],
    ids=["operation", "weights", "parents"],
)
def test_an_id_is_that_of_its_content(tmp_path: Path, change: Any) -> None:
    model = make_model(tmp_path / "m")
    made = make(model, parameters={"tokens": 5, "rate": 1e-22, "share": 1 / 3, "name": "ü", "none": None})
    file = model / "lineage.json"
    value = json.loads(file.read_text())
    lineage.check_id(lineage.read_lineage(model), model)  # the control: what was written can be read and proven
    lineage.check_id(made, model)
    change(value)
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"lineage\.json: id: is not the id of what stands here.*restore it"):
        lineage.check_id(lineage.read_lineage(model), model)


def test_measures_are_merged_and_the_id_stays(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    first = make(model, measures={"perplexity": {"a": {"loss": 2.0}}})
    lineage.add_measures(model, {"perplexity": {"b": {"loss": 3.0}}, "tasks": {"t": 0.5}})
    found = lineage.read_lineage(model)
    assert found.measures == {"perplexity": {"a": {"loss": 2.0}, "b": {"loss": 3.0}}, "tasks": {"t": 0.5}}
    assert found.id == first.id
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "lineage.json", "model.safetensors"]


def test_what_a_newer_version_added_survives(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    make(model)
    file = model / "lineage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "new_field": {"x": 1}}))
    lineage.add_measures(model, {"m": 1})
    assert json.loads(file.read_text())["new_field"] == {"x": 1}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda value: {**value, "schema_version": 99}, "newer than this bequest; update bequest"),
        (
            lambda value: {key: item for key, item in value.items() if key != "digests"},
            r"lineage\.json: digests: damaged",
        ),
        (lambda value: [1], "damaged"),
    ],
)
def test_unreadable_lineages_are_one_line(tmp_path: Path, change: Any, line: str) -> None:
    model = make_model(tmp_path / "m")
    make(model)
    file = model / "lineage.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError, match=line) as caught:
        lineage.read_lineage(model)
    assert "\n" not in caught.value.line()


def test_a_missing_lineage_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bequest adopt"):
        lineage.read_lineage(make_model(tmp_path / "m"))
    with pytest.raises(InputError, match="no such directory"):
        lineage.read_lineage(tmp_path / "nowhere")


def test_nothing_secret_goes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "someone"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_environmentsecret123")
    argv = [
        "/home/someone/.venv/bin/bequest",
        "run",
        "/home/someone/r.yaml",
        "training.hub_token=abc",
        "--token",
        "xyz",
    ]
    monkeypatch.setattr("sys.argv", argv)
    parameters = {
        "training": {"hub_token": "verysecret", "report_to": "none"},
        "from": "/home/someone/models/base",
        "note": "use hf_abcdefghijklmnop please",
        "pad_token": "<pad>",
        "batch_tokens": 4096,
    }
    made = make(make_model(home / "m"), parameters=parameters)
    text = (home / "m" / "lineage.json").read_text()
    for secret in ("verysecret", "/home/", str(home), "abcdefghijklmnop", "environmentsecret", "=abc", "xyz"):
        assert secret not in text
    assert made.operation.parameters["pad_token"] == "<pad>"
    assert made.operation.parameters["from"] == "base"
    assert made.operation.parameters["batch_tokens"] == 4096
    assert made.environment.command == "bequest run r.yaml training.hub_token=*** --token ***"


def test_a_path_is_kept_only_where_it_spells_out_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home" / "someone")
    assert lineage.relative_path(tmp_path / "run" / "small", tmp_path / "run" / "big") == "../small"
    inside = tmp_path / "home" / "someone"
    assert lineage.relative_path(inside / "a" / "m", inside / "runs" / "x") == "../../a/m"
    assert lineage.relative_path(inside / "m", tmp_path / "elsewhere") is None
    assert lineage.relative_path(Path("/etc/x"), Path("/srv/y")) is None


def test_the_family_tree_follows_directories_that_are_still_there(tmp_path: Path) -> None:
    small = make_model(tmp_path / "small")
    make(small)
    big = make_model(tmp_path / "big", {**WEIGHTS, "model.more": ("F32", (1,), floats(1))})
    make(big, name="big", stage="grow", parents=[lineage.parent_of(small, "base", child=big)])
    taught = make_model(tmp_path / "taught", {**WEIGHTS, "model.more": ("F32", (1,), floats(2))})
    roles: Any = [(big, "base"), (small, "teacher")]
    parents = [lineage.parent_of(path, role, child=taught) for path, role in roles]
    make(taught, name="taught", parents=parents)
    tree = lineage.ancestry(taught)
    assert [(node.name, node.role) for node in tree.parents] == [("big", "base"), ("small", "teacher")]
    assert [node.name for node in tree.parents[0].parents] == ["small"]
    small.rename(tmp_path / "moved")
    gone = lineage.ancestry(taught).parents[1]
    assert (gone.name, gone.lineage, gone.path) == ("small", None, None)
    (tmp_path / "moved").rename(small)
    make(small, parameters={"tokens": 6})  # another artefact lies there now: it must not be taken for the parent
    assert lineage.ancestry(taught).parents[1].lineage is None
