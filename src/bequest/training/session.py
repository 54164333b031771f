"""``train``: one training run in a directory, from nothing or from its newest complete checkpoint.

Leaves ``checkpoints/`` and ``metrics.jsonl`` there; running it again with the same arguments continues exactly.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from torch import Tensor, nn

from bequest import processes
from bequest.anatomy import Anatomy
from bequest.errors import BequestError, InputError, Interrupted, RunError
from bequest.training.adam import state_by_name
from bequest.training.devices import computes_bf16
from bequest.training.freezing import freeze_but, thaw
from bequest.training.loading import TrainingData
from bequest.training.objective import LanguageModelling, Objective, Stage, compose
from bequest.training.progress import Display
from bequest.training.settings import BatchPlan, TrainSettings
from bequest.training.sharding import gather
from bequest.training.trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """What a run cost and reached; the model was trained in place (``model`` is the same one unless it was sharded).

    ``optimizer`` is Adam's state by name (see ``adam.py``), where the settings keep it.
    """

    model: nn.Module
    tokens: int
    updates: int
    train_flops: int
    teacher_flops: int
    wall_seconds: float
    evaluations: list[dict[str, Any]]
    final_loss: float | None
    best: dict[str, Any] | None
    state: Mapping[str, Any]
    device: str
    optimizer: Mapping[str, Tensor] | None = None


def train(
    model: nn.Module,
    data: TrainingData,
    objective: Objective | Sequence[Objective] | None = None,
    settings: TrainSettings | None = None,
    directory: Path | str = "training",
    *,
    anatomy: Anatomy | None,
    console: Console | None = None,
    name: str = "train",
    inherited: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
) -> TrainResult:
    """Train ``model`` in place; resume from ``directory`` when it holds a complete checkpoint of this run.

    Args:
        model: a transformers or PEFT model in fp32, with the weights the run starts from.
        data: training samples, collator, held-out blocks and their unigram entropies.
        objective: one or several; the bare language model by default, and beneath methods that only add terms.
        settings: budget, batch, schedule and so on.
        directory: where checkpoints and metrics.jsonl go.
        anatomy: names the LM head and counts FLOPs; ``None`` sends every position through the head and counts none.
        console: where progress is shown; silent by default.
        name: what the progress lines are headed with.
        inherited: what the previous stage's objectives returned from ``end``.
        only: the parameters to train, by name; the others are frozen for this run.
        optimizer: Adam's state to go on from, by name; from nothing by default.

    Raises:
        InputError: settings that do not fit the data or the number of processes.
        RunError: a loss that is not finite, memory or disk exhausted.
        Interrupted: Ctrl-C; the last complete checkpoint is whole.
    """
    settings = checked_settings(settings, data, anatomy)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    composed = compose(objective if objective is not None else LanguageModelling())
    model = composed.prepare(model)
    args, plan = training_arguments(settings, directory, samples=len(data.train))
    frozen = freeze_but(model, only)
    try:
        check_master_weights(model)
        shown = console if args.process_index == 0 else None
        with plain_afterwards(model), Display(name, plan.updates, shown) as display:
            trainer = build(
                model=model,
                args=args,
                objective=composed,
                settings=settings,
                plan=plan,
                anatomy=anatomy,
                data=data,
                start=optimizer,
                directory=directory,
                display=display,
            )
            # Sharding is in place and for good: what comes out is this copy with the trained weights.
            whole = copy.deepcopy(model).cpu() if trainer.is_fsdp_enabled else model
            stage = Stage(model, directory, plan.updates, plan.tokens_per_update, inherited or {})
            run_to_the_end(trainer, stage)
    finally:
        thaw(model, frozen)
    return result_of(trainer, dataclasses.replace(stage, model=whole_again(model, whole, frozen)))


def checked_settings(settings: TrainSettings | None, data: TrainingData, anatomy: Anatomy | None) -> TrainSettings:
    """The settings, which the data and the anatomy must allow.

    Raises:
        InputError: there are none, nothing to train on, or two-stage training without an anatomy.
    """
    if settings is None:
        raise InputError("no settings were given", key="settings", remedy="pass TrainSettings(tokens=...)")
    if len(data.train) == 0:
        raise InputError("there is nothing to train on", key="train", remedy="give a corpus of at least one block")
    if settings.two_stage is not None and anatomy is None:
        raise InputError("needs the model's anatomy", key="two_stage", remedy="pass anatomy=")
    return settings


def whole_again(model: nn.Module, whole: nn.Module, frozen: Collection[str]) -> nn.Module:
    """The trained model as it came, in eval mode; ``whole`` is a copy to be filled where ``model`` was sharded."""
    if whole is not model:
        gather(model, whole)
        thaw(whole, frozen)
    return whole.eval()


def result_of(trainer: Trainer, stage: Stage) -> TrainResult:
    """What the finished run came to."""
    meter = trainer.ledger.meter
    kept = trainer.settings.keep_optimizer
    return TrainResult(
        model=stage.model,
        tokens=meter.tokens,
        updates=meter.update,
        train_flops=meter.train_flops,
        teacher_flops=meter.teacher_flops,
        wall_seconds=meter.wall_seconds,
        evaluations=meter.evaluations,
        final_loss=meter.last_loss,
        best=meter.best,
        state=trainer.objective.end(stage),
        device=str(trainer.facts()["device"]),
        optimizer=state_by_name(trainer.optimizer, trainer.model_wrapped) if kept else None,
    )


def build(**parts: Any) -> Trainer:
    """The trainer; what transformers finds wrong with the user's arguments is named as such."""
    try:
        return Trainer(**parts)
    except (ValueError, ImportError, RuntimeError) as error:  # a tracker that is not installed is a RuntimeError
        if isinstance(error, BequestError):
            raise
        raise refused(error) from None


def run_to_the_end(trainer: Trainer, stage: Stage) -> None:
    """Resume or start, then train; what can go wrong is turned into one line."""
    trainer.objective.begin(stage)
    resume = trainer.find_resume()
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted after update {trainer.state.global_step} of {trainer.plan.updates}",
            where=trainer.directory,
            remedy="run the same command again to resume",
        ) from None
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory ({error})",
            where=trainer.directory,
            remedy="lower micro_batch_tokens and run the same command again",
        ) from error


@contextlib.contextmanager
def plain_afterwards(model: nn.Module) -> Iterator[None]:
    """Undo what the loop leaves on a model: ``config.use_cache = False``, the autocast wrapper on ``forward``, gradient
    checkpointing.

    accelerate's own ``unwrap_model`` would also take transformers' decorators off the forward, so it is not used.
    """
    places: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        (vars(model.config), ("use_cache",)),
        (vars(model), ("forward", "_original_forward")),
        *((vars(module), ("gradient_checkpointing",)) for module in model.modules()),
    ]
    before = [{key: values[key] for key in keys if key in values} for values, keys in places]
    try:
        yield
    finally:
        for (values, keys), old in zip(places, before, strict=True):
            for key in keys:
                values.pop(key, None)
            values.update(old)


def check_master_weights(model: nn.Module) -> None:
    """Trained weights are fp32 (or better); autocast does the rest.

    Raises:
        InputError: a trainable parameter of lower precision.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise InputError(f"is trained in {parameter.dtype}", key=name, remedy="load it in fp32 (model.float())")


def training_arguments(
    settings: TrainSettings, directory: Path, *, samples: int
) -> tuple[transformers.TrainingArguments, BatchPlan]:
    """transformers' arguments for these settings, and how the budget is cut for this number of processes."""
    passed = dict(settings.training)
    processes.connect()
    use_cpu = processes.on_cpu()
    if passed.get("use_cpu") and not use_cpu and processes.world_size() > 1:
        raise InputError(
            "the processes meet on their accelerators",
            key="training.use_cpu",
            remedy="set ACCELERATE_USE_CPU=true in the environment instead",
        )
    # What transformers makes of the processes depends on use_cpu: the plan and the arguments must hear the same.
    probe = transformers.TrainingArguments(
        output_dir=str(directory), report_to="none", use_cpu=use_cpu or bool(passed.get("use_cpu"))
    )
    plan = settings.batches(samples=samples, world=probe.world_size)
    bf16 = computes_bf16(probe.device) if settings.bf16 == "auto" else bool(settings.bf16)
    if passed.get("fp16"):
        bf16 = False
    scheduler, scheduler_arguments = settings.schedule_arguments(plan)
    passed.setdefault("report_to", "none")
    passed["use_cpu"] = probe.device.type == "cpu"  # transformers wants it said before it computes in bf16 there
    passed.setdefault("dataloader_pin_memory", probe.device.type != "cpu")
    chosen = dict(
        output_dir=str(directory),
        max_steps=plan.updates,
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=settings.lr,
        lr_scheduler_type=scheduler,
        lr_scheduler_kwargs=scheduler_arguments,
        warmup_steps=plan.warmup_updates,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=bf16,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        # Layers that an update leaves out, and frozen ones below, have no gradient: DDP would wait for them for ever.
        ddp_find_unused_parameters=settings.two_stage is not None,
        average_tokens_across_devices=True,
        **passed,
    )
    try:
        args = transformers.TrainingArguments(**chosen)
    except (ValueError, TypeError, ImportError) as error:
        raise refused(error) from None
    if args.world_size != plan.world:
        raise InputError(
            f"planned for {plan.world} processes, and transformers sees {args.world_size}",
            key="training",
            remedy="drop what changes the processes",
        )
    if args.n_gpu > 1:
        # transformers would split every batch by nn.DataParallel, whose replicas do not have our hook on the head.
        args._n_gpu = 1
    return args, plan


def refused(error: Exception) -> InputError:
    """transformers' own objection to what the user passed through to it."""
    return InputError(f"transformers refuses these arguments ({error})", key="training", remedy="correct or drop them")
