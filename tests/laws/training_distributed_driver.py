"""Runs the same cases in one process or as one of two gloo processes, plain, under DDP and under real FSDP2.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python training_distributed_driver.py OUT ddp|fsdp|one

Rank 0 writes OUT/CASE.pt: first gradients, losses, final weights, and what was sharded.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.distributed
from torch.distributed.tensor import DTensor

import training_support as tiny
from bequest.data.masking import NO_TARGET
from bequest.inheritance import Inherit, LiveTeacher
from bequest.training import LanguageModelling, Objective, Step, Term, TrainingData, train
from bequest.training.divergence import cross_entropy_sum
from bequest.training.prefixes import TwoStage
from bequest.training.trainer import Trainer

torch.set_num_threads(1)
RESUMED = ("taught", "prefixes", "continued")


class Uneven:
    """A collator that leaves some blocks a single target, so that the processes have unequal numbers of them."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, samples: Any) -> dict[str, torch.Tensor]:
        batch = self.collator(samples)
        for row, sample in enumerate(samples):
            if sample["digest"] % 2:
                places = (batch["targets"][row] != NO_TARGET).nonzero().squeeze(-1)
                batch["targets"][row, places[1:]] = NO_TARGET
        return batch


class MeanOfProcesses(Objective):
    """The mistake: every process divides by its own number of targets."""

    def terms(self, step: Step) -> dict[str, Term]:
        mean = cross_entropy_sum(step.logits(), step.target_ids()) / len(step.target_ids())
        return {"lm": Term(mean * step.global_targets / world())}


class Protected(LanguageModelling):
    """Language modelling that protects rows, columns and a norm of the first layer."""

    def __init__(self, names: dict[str, torch.Tensor]) -> None:
        object.__setattr__(self, "names", names)

    def update_masks(self) -> dict[str, torch.Tensor]:
        return self.names


def world() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def masks_for(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    rows = torch.zeros(48, 1)
    rows[:7] = 1
    rows[7:20] = 0.5
    columns = torch.zeros(1, 48)
    columns[:, 3:30] = 1
    return {
        "model.layers.0.mlp.up_proj.weight": rows,
        "model.layers.0.mlp.down_proj.weight": columns,
        "model.layers.1.input_layernorm.weight": torch.ones(32),
    }


def case(name: str) -> tuple[str, Any]:
    """(family, a function that makes the objective for a model)."""
    if name == "taught":
        return "bert", lambda model: Inherit(LiveTeacher(*tiny.tiny("bert", hidden=16, seed=9), tiny.BLOCK), until=0.6)
    if name == "wrong":
        return "bert", lambda model: MeanOfProcesses()
    if name == "protected":
        return "llama", lambda model: Protected(masks_for(model))
    return "bert" if name == "masked" else "llama", lambda model: LanguageModelling()


def with_adapter(model: Any) -> Any:
    """A LoRA that is not the identity, with a wholly trained last norm beside it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["norm"], init_lora_weights=False)
    return get_peft_model(model, config)


def only_the_second_layer(anatomy: Any) -> dict[str, Any]:
    """One layer trained, from an optimizer that has seen the whole model."""
    state = {}
    for number, (name, tensor) in enumerate(anatomy.tensors.items()):
        random = torch.Generator().manual_seed(number)
        state[f"{name}.exp_avg"] = torch.randn(tensor.shape, generator=random) / 100
        state[f"{name}.exp_avg_sq"] = torch.rand(tensor.shape, generator=random) / 1000 + 1e-4
        state[f"{name}.step"] = torch.tensor(30.0)
    return {"only": {name for name, tensor in anatomy.tensors.items() if tensor.layer == 1}, "optimizer": state}


def force_fsdp2() -> None:
    """accelerate leaves FSDP out on a CPU: set the state that it would set on an accelerator, before ``prepare``."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    original = Trainer.create_accelerator_and_postprocess

    def forced(self: Trainer) -> None:
        original(self)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
            state_dict_type="SHARDED_STATE_DICT",
            reshard_after_forward=True,
        )
        self.accelerator.state.distributed_type = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = plugin
        self.is_fsdp_enabled = True

    Trainer.create_accelerator_and_postprocess = forced


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


class Watch:
    """First gradients and whether the stepped parameters are sharded, by an optimizer hook on every process."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.gradients, self.sharded = model, {}, False

    def __call__(self, *_: Any) -> None:
        if not self.gradients:
            self.sharded = any(isinstance(parameter, DTensor) for parameter in self.model.parameters())
            self.gradients = {n: whole(p.grad).clone() for n, p in self.model.named_parameters() if p.grad is not None}


def run(name: str, out: Path, shared: Path, *, again: bool = False) -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    family, objective = case(name)
    prefixes = TwoStage(block=1, until=0.7) if name == "prefixes" else None
    model, anatomy = tiny.tiny(family, layers=3 if prefixes else 2)
    apart = only_the_second_layer(anatomy) if name == "continued" else {}
    if name == "causal":
        model.generation_config.max_new_tokens = 7
    if name == "adapter":
        model = with_adapter(model)
    before = tiny.copy_of(model)
    data = tiny.data_for(family, shared)
    data = TrainingData(data.train, Uneven(data.collator), data.eval, data.unigram)
    chosen = tiny.settings(
        20,
        micro=2,
        max_grad_norm=1.0,
        checkpoint_every=8,
        keep=3,
        weight_decay=0.1,
        evaluate_every=0.5,
        two_stage=prefixes,
        keep_optimizer=name in ("prefixes", "continued"),
    )
    watch = Watch(model)
    handle = register_optimizer_step_pre_hook(watch)
    result = train(model, data, objective(model), chosen, out / f"run-{name}", anatomy=anatomy, **apart)
    handle.remove()
    if again or int(torch.distributed.get_rank() if world() > 1 else 0) == 0:
        lines = [json.loads(text) for text in (out / f"run-{name}" / "metrics.jsonl").read_text().splitlines()]
        weights = {key: value.detach().clone() for key, value in result.model.named_parameters()}
        torch.save(
            {
                "gradients": watch.gradients,
                "losses": [line["loss"] for line in lines if line["kind"] == "train"],
                "held_out": [line["loss"] for line in lines if line["kind"] == "eval"],
                "books": [result.tokens, result.train_flops, result.teacher_flops],
                "weights": weights,
                "before": before,
                "optimizer": result.optimizer,
                "sharded": watch.sharded,
                "kind": type(result.model).__name__,
                "max_new_tokens": result.model.generation_config.max_new_tokens if name == "causal" else None,
                "state": sorted(result.model.state_dict()),
                "notes": [line["text"] for line in lines if line["kind"] == "note"],
            },
            out / f"{name}{'-again' if again else ''}.pt",
        )


def main() -> None:
    out, how = Path(sys.argv[1]), sys.argv[2]
    out.mkdir(parents=True, exist_ok=True)
    if how == "fsdp":
        force_fsdp2()
    names = ["masked", "causal", "taught", "protected", "adapter", "prefixes", "continued"]
    for name in names + (["wrong"] if how != "fsdp" else []):
        run(name, out, out.parent)
    if how != "one":
        torch.distributed.barrier()
        if torch.distributed.get_rank() == 0:
            for name in RESUMED:
                for update in (16, 20):
                    shutil.rmtree(out / f"run-{name}" / "checkpoints" / f"checkpoint-{update}")
        torch.distributed.barrier()
        for name in RESUMED:
            run(name, out, out.parent, again=torch.distributed.get_rank() == 0)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
