"""Laws of two-stage pre-training: an update trains the drawn layers and the head, and is that of a truncated model."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import training_support as tiny
from bequest.anatomy import Anatomy, check_model
from bequest.checkpoints import new_model
from bequest.inheritance import Inherit, LiveTeacher
from bequest.training import evaluate_loss, train
from bequest.training.evaluation import model_inputs
from bequest.training.loading import PreparedCollator, Run
from bequest.training.objective import Progress
from bequest.training.partial_depth import PartialDepth
from bequest.training.prefixes import TwoStage, body_forward, prefix_flops
from growth_support import VARIANTS, VOCAB, build, language_head

LAYERS, FIRST = 5, TwoStage(block=2, until=1.0)
FAMILIES = ("bert", "distilbert", "electra", "gpt2", "llama", "tied")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(family: str, **more: Any) -> tuple[Any, Anatomy]:
    if family == "tied":
        more["tie_word_embeddings"] = True
    if family == "electra":
        more["embedding_size"] = 16  # with a projection between the embeddings and the layers
    model, anatomy = tiny.tiny(kind(family), layers=LAYERS, **more)
    with torch.no_grad():  # so that every layer matters
        for name, tensor in anatomy.tensors.items():
            if tensor.layer is not None:
                model.get_parameter(name).mul_(3)
    return model, anatomy


def kind(family: str) -> str:
    return "llama" if family == "tied" else family


def trained_by(anatomy: Anatomy, depth: int, block: int = 2) -> set[str]:
    """What the paper trains: the top layers of the prefix, and the head with the norm that it reads."""
    head = {row.name for row in anatomy.variant.rows if row.name in anatomy.tensors}
    # ModernBERT has a norm above its layers and another one in its head.
    above = {anatomy.last_norm, f"{anatomy.prefix}{anatomy.family.last_norm}", f"{anatomy.prefix}final_norm"}
    head |= {name for name in anatomy.tensors if name.rpartition(".")[0] in above}
    layers = {name for name, tensor in anatomy.tensors.items() if tensor.layer in range(depth - block, depth)}
    return head | layers | set(anatomy.tied.values())


class Watch:
    """What had a gradient in each optimizer update, the gradients themselves, and what moved, bit for bit."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.moved: list[set[str]] = []

    def __enter__(self) -> Watch:
        def before(*_: Any) -> None:
            self.old = tiny.copy_of(self.model)
            found = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
            self.gradients.append(found)

        def after(*_: Any) -> None:
            self.moved.append({n for n, p in self.model.named_parameters() if not torch.equal(p, self.old[n])})

        self.handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()


def drawn(updates: int, stage: TwoStage = FIRST, seed: int = 0) -> list[int]:
    return [stage.drawn(update, LAYERS, seed) for update in range(updates)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_moves_only_the_drawn_layers_and_the_head(family: str, tmp_path: Path) -> None:
    model, anatomy = model_of(family)
    until = dataclasses.replace(FIRST, until=0.75)
    chosen = tiny.settings(8, micro=4, two_stage=until, weight_decay=0.5, schedule="constant", warmup=0)
    with Watch(model) as watch:
        train(model, tiny.data_for(kind(family), tmp_path), None, chosen, tmp_path / "run", anatomy=anatomy)
    depths = drawn(6)
    assert set(depths) == {2, 4, 5}
    for depth, gradients, moved in zip(depths, watch.gradients, watch.moved, strict=False):
        assert set(gradients) == moved == trained_by(anatomy, depth)
    for gradients, moved in zip(watch.gradients[6:], watch.moved[6:], strict=True):  # then the whole model
        assert set(gradients) == set(anatomy.tensors) >= moved > trained_by(anatomy, LAYERS)


def first_update(family: str, place: Path, stage: TwoStage | None, seed: int, **more: Any) -> tuple[float, Watch]:
    """The logged loss and the gradients of a run's first update."""
    place.mkdir(exist_ok=True)
    model, anatomy = model_of(family)
    chosen = tiny.settings(1, micro=2, two_stage=stage, max_grad_norm=0.0, seed=seed)
    with Watch(model) as watch:
        data = tiny.data_for(kind(family), place)
        result = train(model, data, more.get("objective"), chosen, place / f"run-{seed}-{stage}", anatomy=anatomy)
    assert result.final_loss is not None
    return result.final_loss, watch


def truncated(family: str, depth: int, place: Path, seed: int, *, frozen: bool) -> tuple[float, dict[str, Any]]:
    """The slow reference: a model of ``depth`` layers with the same weights, on the whole batch at once."""
    whole, anatomy = model_of(family)
    config = {**anatomy.config, anatomy.family.key("num_hidden_layers"): depth}
    shorter = getattr(transformers, anatomy.class_name)(transformers.AutoConfig.for_model(**config)).float()
    kept = {name: value for name, value in whole.state_dict().items() if name in shorter.state_dict()}
    shorter.load_state_dict(kept)
    shorter.tie_weights()
    train_only = trained_by(anatomy, depth)
    embedding = shorter.get_input_embeddings()
    if frozen:
        embedding.register_forward_hook(lambda module, inputs, output: output.detach())
    data = tiny.data_for(kind(family), place)
    run = Run(data.train, 8, seed)
    batch = PreparedCollator(data.collator)([run[place] for place in range(8)])
    logits = shorter(**model_inputs(batch)).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten())
    loss.backward()
    found = {name: p.grad for name, p in shorter.named_parameters() if name in train_only}
    return loss.item(), found


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_is_that_of_a_truncated_model(family: str, tmp_path: Path) -> None:
    seen = set()
    for seed in range(12):
        depth = FIRST.drawn(0, LAYERS, seed)
        if depth in seen:
            continue
        seen.add(depth)
        loss, watch = first_update(family, tmp_path, FIRST, seed)
        wanted, gradients = truncated(family, depth, tmp_path, seed, frozen=True)
        assert abs(loss - wanted) < 2e-6 * wanted
        assert tiny.relative(gradients, watch.gradients[0]) < 1e-5
        # Negative controls: one layer more is another loss; a tied matrix that the input reaches, another gradient.
        other, _ = truncated(family, depth - 1, tmp_path, seed, frozen=True)
        assert abs(loss - other) > 2e-4 * wanted
        if anatomy_ties(family):
            _, leaked = truncated(family, depth, tmp_path, seed, frozen=False)
            assert tiny.relative(leaked, watch.gradients[0]) > 1e-2
    assert seen == {2, 4, 5}


@pytest.mark.parametrize("family", list(VARIANTS))
def test_every_family_runs_prefixes(family: str) -> None:
    """The forward and the gradients of every table's model, each prefix against a model that has no more layers."""
    config = {**VARIANTS[family][0], "num_hidden_layers": 3}
    model = build(family, language_head(family), sizes={"num_hidden_layers": 3}, **config)
    anatomy = check_model(model)
    stage = TwoStage(block=1, until=1.0)
    depth = PartialDepth(stage, model, anatomy, block=9, seed=0)
    ids = torch.randint(2, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = model(input_ids=ids).logits
    for layers in (1, 2, 3):
        update = next(update for update in range(99) if stage.drawn(update, 3, 0) == layers)
        model.zero_grad()
        with depth.running(Progress(update=update, updates=99)):
            logits = model(input_ids=ids).logits
        logits.logsumexp(-1).sum().backward()
        found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert found == trained_by(anatomy, layers, 1)
        lists = {key: model.config.to_dict()[key][:layers] for key in anatomy.family.per_layer if key in anatomy.config}
        values = {**model.config.to_dict(), **lists, anatomy.family.key("num_hidden_layers"): layers}
        shorter = new_model(values, seed=0).eval()
        shorter.load_state_dict({n: v for n, v in model.state_dict().items() if n in shorter.state_dict()})
        assert torch.equal(shorter(input_ids=ids).logits, logits)
        assert torch.equal(logits, whole) == (layers == 3)
    assert torch.equal(model(input_ids=ids).logits, whole)


def anatomy_ties(family: str) -> bool:
    return model_of(family)[1].tie


def test_draws_are_uniform_and_belong_to_seed_and_update() -> None:
    stage = TwoStage(block=3, until=0.5)
    assert stage.depths(12) == (3, 6, 9, 12)
    assert stage.depths(10) == (3, 6, 9, 10)
    assert stage.depths(3) == (3,)
    draws = [stage.drawn(update, 12, 7) for update in range(4000)]
    for count in collections.Counter(draws).values():
        assert abs(count - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert stage.drawn(1234, 12, 7) == draws[1234]
    assert draws != [stage.drawn(update, 12, 8) for update in range(4000)]


def test_flops_are_those_of_the_formula(tmp_path: Path) -> None:
    model, anatomy = model_of("llama")
    width, ffn, head = 32, 48, 2 * 32 * tiny.VOCABULARY
    layer = 2 * (4 * width * width + 3 * width * ffn) + 4 * tiny.BLOCK * width
    assert body_forward(anatomy, tiny.BLOCK, 3) == 3 * layer
    assert prefix_flops(anatomy, tiny.BLOCK, 4, 2) == (4 * layer + 2 * 2 * layer, 3 * head)
    chosen = tiny.settings(8, two_stage=dataclasses.replace(FIRST, until=6 * 8 * tiny.BLOCK))
    result = train(model, tiny.data_for("llama", tmp_path), None, chosen, tmp_path / "run", anatomy=anatomy)
    tokens = 8 * tiny.BLOCK
    first = sum(depth * layer + 2 * 2 * layer for depth in drawn(6))
    targets = 8 * (tiny.BLOCK - 1)
    assert result.train_flops == tokens * (first + 2 * 3 * LAYERS * layer) + 8 * targets * 3 * head
    assert FIRST.mean_flops(anatomy, tiny.BLOCK, 1.0) == pytest.approx(layer * ((2 + 4 + 5) / 3 + 4) + 3 * head)
    projected = model_of("electra")[1]
    assert body_forward(projected, tiny.BLOCK, 0) == 2 * 16 * 32


def test_held_out_text_is_measured_on_the_whole_model(tmp_path: Path) -> None:
    model, anatomy = model_of("gpt2")
    data = tiny.data_for("gpt2", tmp_path)
    before = evaluate_loss(model, data.eval["toy"], data.collator, anatomy=anatomy).loss
    chosen = tiny.settings(6, two_stage=FIRST, evaluate_every=0.5)
    result = train(model, data, None, chosen, tmp_path / "run", anatomy=anatomy)
    assert result.evaluations[0]["loss"] == pytest.approx(before, rel=1e-6)
    after = evaluate_loss(result.model, data.eval["toy"], data.collator, anatomy=anatomy).loss
    assert result.evaluations[-1]["loss"] == pytest.approx(after, rel=1e-6)
    assert after < before
    # Negative control: a prefix measures something else.
    depth = PartialDepth(FIRST, model, anatomy, block=tiny.BLOCK, seed=0)
    with depth.running(Progress(update=drawn(20).index(2), updates=20)):
        prefix = evaluate_loss(model, data.eval["toy"], data.collator, anatomy=anatomy).loss
    assert abs(prefix - after) > 1e-2
    assert evaluate_loss(model, data.eval["toy"], data.collator, anatomy=anatomy).loss == after
    assert not any("forward" in vars(module) for module in depth.layers)


def test_a_layer_that_was_patched_stays_patched() -> None:
    model, anatomy = model_of("gpt2")
    depth = PartialDepth(FIRST, model, anatomy, block=tiny.BLOCK, seed=0)
    calls = []

    def patched(states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return type(depth.layers[0]).forward(depth.layers[0], states, *args, **kwargs)

    vars(depth.layers[0])["forward"] = patched
    with depth.running(Progress(update=drawn(20).index(4), updates=20)):
        model(input_ids=torch.arange(9)[None])
    model(input_ids=torch.arange(9)[None])
    assert calls == [False, True]


def test_a_teacher_guides_a_prefix(tmp_path: Path) -> None:
    """An objective that needs only logits works on any prefix: the teacher itself runs whole."""
    teacher, anatomy = model_of("llama", seed=5)
    objective = Inherit(LiveTeacher(teacher, anatomy, tiny.BLOCK), schedule="constant", until=1.0)
    plain, _ = first_update("llama", tmp_path / "plain", FIRST, 0)
    taught, watch = first_update("llama", tmp_path / "taught", FIRST, 0, objective=objective)
    assert set(watch.gradients[0]) == trained_by(anatomy, FIRST.drawn(0, LAYERS, 0))
    assert taught != plain
