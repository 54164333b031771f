"""The one subclass of ``transformers.Trainer``, and the callback that drives its moments.

Ours are only: summing the objective's terms over the global number of targets, masking updates, counting tokens and
FLOPs, and crash-safe checkpoints.  Everything distributed is accelerate's.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from bequest.anatomy.anatomy import Anatomy
from bequest.errors import InputError, RunError
from bequest.storage import disk_errors, read_json, write_json
from bequest.training import checkpointing
from bequest.training.devices import device_facts
from bequest.training.evaluation import evaluating, loss_sums
from bequest.training.head_positions import find_head
from bequest.training.loading import PreparedCollator, Run, model_inputs, target_count, worker_seed
from bequest.training.masked_update import MaskedUpdate, plain_name
from bequest.training.metrics import Meter, MetricsFile
from bequest.training.objective import Objective, Progress, Step, Term
from bequest.training.progress import Display
from bequest.training.settings import BatchPlan, TrainSettings

STATE = "bequest_state.json"
WEIGHTS = "trainable.safetensors"


class Trainer(transformers.Trainer):  # type: ignore[misc]  # transformers is not followed by the type checker
    """transformers' loop around an :class:`Objective`."""

    # The loss is already divided by the number of targets of the whole update.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: nn.Module,
        args: transformers.TrainingArguments,
        objective: Objective,
        settings: TrainSettings,
        plan: BatchPlan,
        anatomy: Anatomy | None,
        samples: Any,
        collator: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Tensor]],
        held_out: Mapping[str, Any],
        unigram: Mapping[str, float],
        directory: Path,
        display: Display,
    ) -> None:
        run = Run(samples, plan.updates * plan.sequences, args.seed)
        super().__init__(model=model, args=args, train_dataset=run, data_collator=PreparedCollator(collator))
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True
        self.objective, self.settings, self.plan, self.anatomy = objective, settings, plan, anatomy
        self.collator, self.held_out, self.unigram = collator, held_out, unigram
        self.directory, self.display = directory, display
        self.meter = Meter()
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self.head = None if anatomy is None or anatomy.lm_head is None else find_head(model, anatomy.lm_head)
        self.flops_per_token, self.flops_per_target = student_flops(model, anatomy, settings.block)
        self.global_targets, self.global_tokens = 0, 0
        self.pending: list[tuple[int, int, dict[str, Tensor]]] = []
        self.current: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.gradient_norm: float | Tensor | None = None
        self.rate_used = 0.0
        self.masks: MaskedUpdate | None = None
        self.add_callback(Moments(self))

    # --- data -----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One pass over the whole run, in our own order (see ``loading.py``)."""
        workers = self.args.dataloader_num_workers
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,
            batch_size=self.plan.micro_batch,
            collate_fn=self.data_collator,
            drop_last=True,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers > 0 else None,
            worker_init_fn=worker_seed,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of one update, and the number of targets in it over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        targets = sum(target_count(batch) for batch in batches)
        tokens = sum(int(batch["input_ids"].numel()) for batch in batches)
        if self.accelerator.num_processes > 1:
            counts = torch.tensor([[targets, tokens]], device=device)
            targets, tokens = (int(n) for n in self.accelerator.gather(counts).sum(dim=0).tolist())
        self.global_targets, self.global_tokens = targets, tokens
        return batches, targets

    # --- the loss -------------------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """Where the run stands, before the update in hand."""
        plan, done = self.plan, self.state.global_step
        return Progress(
            done,
            plan.updates,
            done * plan.tokens_per_update,
            plan.updates * plan.tokens_per_update,
            plan.tokens_per_update,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """``world size x sum of weighted terms / global targets``; DDP and FSDP2 average gradients over processes."""
        step = Step(
            model=model,
            batch=model_inputs(inputs),
            targets=inputs["targets"],
            global_targets=self.global_targets,
            head=self.head,
            positions=inputs.get("positions"),
            progress=self.progress(),
            domains=inputs.get("domain"),
            autocast=self.accelerator.autocast,
        )
        terms = self.objective.terms(step)
        self.note(terms)
        loss: Tensor = weigh(terms) * (self.accelerator.num_processes / max(1, self.global_targets))
        return loss

    def note(self, terms: Mapping[str, Term]) -> None:
        """Remember this micro-batch's sums for the log, without asking the device for their values."""
        for name, term in terms.items():
            total = term.total.detach()
            self.current[name] = self.current[name] + total if name in self.current else total
            self.weights[name] = term.weight

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self.gradient_norm = super()._clip_grad_norm(model)
        return self.gradient_norm

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """transformers' own estimate is not used; :meth:`count` counts by the anatomy."""
        return 0

    # --- after an update ------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Book one finished update: tokens, FLOPs of student and teacher, and its terms."""
        meter, plan = self.meter, self.plan
        done = self.state.global_step - 1
        before = Progress(
            done,
            plan.updates,
            done * plan.tokens_per_update,
            plan.updates * plan.tokens_per_update,
            plan.tokens_per_update,
        )
        meter.update = self.state.global_step
        meter.tokens += self.global_tokens
        meter.targets += self.global_targets
        meter.train_flops += self.flops_per_token * self.global_tokens + self.flops_per_target * self.global_targets
        meter.teacher_flops += self.objective.flops(self.global_tokens, self.global_targets, before)
        weights = {f"{name}|{self.weights[name]!r}": total for name, total in self.current.items()}
        self.pending.append((self.state.global_step, self.global_targets, weights))
        self.current, self.weights = {}, {}
        if self.args.device.type == "cpu" and self.accelerator.num_processes == 1:
            self.settle()

    def settle(self) -> None:
        """Bring the noted sums of the last updates to the host, all processes together, and check them.

        Raises:
            RunError: a term is not a finite number; the update and the term are named.
        """
        if not self.pending:
            return
        sums = torch.stack([torch.stack([total.double() for total in terms.values()]) for _, _, terms in self.pending])
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        pending, self.pending = self.pending, []
        for (update, targets, terms), values in zip(pending, sums.tolist(), strict=True):
            losses: dict[str, float] = {"loss": 0.0}
            for key, value in zip(terms, values, strict=True):
                name, weight = key.rsplit("|", 1)
                losses[name] = value / max(1, targets)
                if not math.isfinite(value):
                    raise RunError(
                        f"the loss is not a finite number in update {update}",
                        key=name,
                        where=self.directory,
                        remedy="lower lr, or start again from the last checkpoint",
                    )
                if float(weight) != 0:
                    losses["loss"] += float(weight) * losses[name]
            self.meter.add(losses)

    def write_train_line(self, seconds: float, tokens: int) -> None:
        """One ``train`` line of metrics.jsonl, and the same to the trackers."""
        self.settle()
        means, meter = self.meter.drain(), self.meter
        norm = self.gradient_norm.item() if isinstance(self.gradient_norm, Tensor) else self.gradient_norm
        rate = tokens / seconds if seconds > 0 else 0.0
        line = {
            "update": meter.update,
            "tokens": meter.tokens,
            "flops": meter.train_flops + meter.teacher_flops,
            **means,
            "lr": self.rate_used,
            "gradient_norm": norm,
            "tokens_per_second": rate,
            "wall": meter.wall_seconds,
        }
        if self.is_world_process_zero():
            self.metrics.append(kind="train", **line)
            self.display.train(meter.update, meter.tokens, means["loss"], rate)
        self.log({key: value for key, value in line.items() if isinstance(value, int | float)})

    def evaluate_held_out(self) -> None:
        """Measure the pure loss of every held-out corpus and write its ``eval`` lines; keep the best."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        losses = []
        for name, blocks in self.held_out.items():
            limit = self.settings.evaluate_blocks
            count = len(blocks) if limit is None else min(limit, len(blocks))
            with evaluating(self.model_wrapped), self.accelerator.autocast():
                total, targets = loss_sums(
                    self.model_wrapped,
                    self.head,
                    blocks,
                    self.collator,
                    batch=self.settings.evaluate_batch,
                    count=count,
                    device=self.args.device,
                    rank=rank,
                    world=world,
                )
            if world > 1:
                both = torch.tensor([total, float(targets)], dtype=torch.float64, device=self.args.device)
                total, targets = self.accelerator.reduce(both, reduction="sum").tolist()
            found = {
                "update": self.state.global_step,
                "tokens": self.meter.tokens,
                "corpus": name,
                "loss": total / max(1, targets),
                "unigram": self.unigram.get(name),
            }
            losses.append(found["loss"])
            self.meter.evaluations.append(found)
            if self.is_world_process_zero():
                flops = self.meter.train_flops + self.meter.teacher_flops
                self.metrics.append(kind="eval", flops=flops, wall=self.meter.wall_seconds, **found)
                self.display.evaluation(name, found["loss"], found["unigram"], self.state.global_step)
        if losses:
            mean = sum(losses) / len(losses)
            if self.meter.best is None or mean < self.meter.best["loss"]:
                self.meter.best = {"update": self.state.global_step, "loss": mean}
            self.log({f"eval_{name}_loss": loss for name, loss in zip(self.held_out, losses, strict=True)})

    # --- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Where this run's checkpoints stand."""
        return self.directory / "checkpoints"

    def facts(self) -> dict[str, Any]:
        """What a bitwise continuation needs to be unchanged."""
        return device_facts(self.args.device, self.accelerator.num_processes, self.args.bf16)

    def identity(self) -> dict[str, Any]:
        """What makes this the same run: its length, its update size, its data and its seed."""
        plan = self.plan
        return {
            "updates": plan.updates,
            "sequences": plan.sequences,
            "block": self.settings.block,
            "samples": len(self.train_dataset.samples),
            "seed": self.args.seed,
            "schedule": self.settings.schedule,
            "lr": self.settings.lr,
        }

    def write_checkpoint(self) -> None:
        """Write the checkpoint of the update just finished, whole or not at all, and retire old ones."""
        self.settle()
        update = self.state.global_step
        partial = checkpointing.partial_path(self.checkpoints, update)
        target = checkpointing.checkpoint_path(self.checkpoints, update)
        first = self.is_world_process_zero()
        with disk_errors(target):
            try:
                if first:
                    self.metrics.flush()
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir(parents=True)
                self.accelerator.wait_for_everyone()
                self._save_weights(partial)
                self._save_optimizer_and_scheduler(str(partial))
                self._save_scaler(str(partial))
                self._save_rng_state(str(partial))
                self.accelerator.wait_for_everyone()
                if first:
                    self.store_flos()
                    self.state.save_to_json(str(partial / "trainer_state.json"))
                    write_json(
                        partial / STATE,
                        {
                            "meter": self.meter.as_json(),
                            "identity": self.identity(),
                            "objective": dict(self.objective.state()),
                        },
                    )
                    checkpointing.complete(partial, target, self.facts())
                    checkpointing.retain(self.checkpoints, self.settings.keep)
            except BaseException:
                if first:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
        self.accelerator.wait_for_everyone()

    def _save_weights(self, partial: Path) -> None:
        if self.is_fsdp_enabled:
            from accelerate.utils import save_fsdp_model

            save_fsdp_model(self.accelerator.state.fsdp_plugin, self.accelerator, self.model, str(partial))
        elif self.is_deepspeed_enabled:
            return  # its engine saves model and optimizer together
        elif self.args.should_save:
            tensors = {name: value.detach().contiguous() for name, value in training_state(self.model).items()}
            safetensors.torch.save_file(tensors, partial / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            from accelerate.utils import load_fsdp_model

            load_fsdp_model(
                self.accelerator.state.fsdp_plugin, self.accelerator, model or self.model, resume_from_checkpoint
            )
            return
        stored = safetensors.torch.load_file(Path(resume_from_checkpoint) / WEIGHTS)
        live = training_state(self.model)
        if stored.keys() != live.keys():
            odd = sorted(stored.keys() ^ live.keys())[0]
            raise RunError(
                "the checkpoint holds other tensors than the model trains",
                where=resume_from_checkpoint,
                key=odd,
                remedy="remove the checkpoint, or train the same model",
            )
        with torch.no_grad():
            for name, value in stored.items():
                live[name].copy_(value)

    def find_resume(self) -> Path | None:
        """The newest complete checkpoint of this run, its counters and the objective's state taken back."""
        if self.is_world_process_zero():
            checkpointing.clean(self.checkpoints)
        self.accelerator.wait_for_everyone()
        found = checkpointing.newest_complete(self.checkpoints, self.remark)
        if self.is_world_process_zero():
            update = None if found is None else int(found.name.rsplit("-", 1)[1])
            self.metrics.truncate(update)
        if found is None:
            return None
        stored = read_json(found / STATE)
        checkpointing.check_same_run(stored["identity"], self.identity(), found)
        self.meter = Meter(**stored["meter"])
        self.objective.restore(stored["objective"])
        changed = checkpointing.differences(checkpointing.facts_of(found), self.facts())
        exact = f"not bitwise: {', '.join(changed)}" if changed else "exactly"
        self.remark(f"resumed {found.name} ({exact})")
        return found

    def remark(self, text: str) -> None:
        """A line for the reader, also kept as a ``note``."""
        if self.is_world_process_zero():
            self.display.note(text)
            self.metrics.append(kind="note", update=self.meter.update, text=text)

    def attach_masks(self) -> None:
        """Put the objective's update masks on the optimizer that steps."""
        importance = self.objective.update_masks()
        if importance:
            self.masks = MaskedUpdate(self.model_wrapped, self.optimizer, importance)

    def refuse_unsharded(self) -> None:
        """FSDP that did not shard (as on a CPU, where accelerate leaves it out silently) is refused.

        Raises:
            InputError: FSDP was asked for and no parameter is a DTensor.
        """
        from torch.distributed.tensor import DTensor

        asked = bool(self.args.fsdp) or self.is_fsdp_enabled
        if asked and not any(isinstance(parameter, DTensor) for parameter in self.model_wrapped.parameters()):
            raise InputError(
                "FSDP was asked for but nothing is sharded on this device",
                key="training.fsdp",
                remedy="drop it, or use FSDP version 2 on accelerators",
            )


class Moments(TrainerCallback):  # type: ignore[misc]
    """What happens around an update: masks, counting, logging, evaluation, checkpoints."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        settings, updates = trainer.settings, trainer.plan.updates
        self.evaluate_at = settings.evaluation_updates(updates)
        self.log_every = settings.log_every or max(1, math.ceil(updates / 400))
        self.save_updates, self.save_seconds = settings.checkpoint_interval()
        self.last_time = self.last_save = time.monotonic()
        self.window_seconds, self.window_tokens = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After ``prepare`` and after a checkpoint is loaded."""
        trainer = self.trainer
        trainer.refuse_unsharded()
        trainer.attach_masks()
        if state.global_step == 0 and 0 in self.evaluate_at:
            trainer.evaluate_held_out()
        self.last_time = self.last_save = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the step, before the schedule moves on."""
        self.trainer.rate_used = self.trainer._get_learning_rate()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every optimizer update."""
        trainer, update = self.trainer, state.global_step
        trainer.count()
        now = time.monotonic()
        trainer.meter.wall_seconds += now - self.last_time
        self.window_seconds += now - self.last_time
        self.window_tokens += trainer.global_tokens
        last = update == trainer.plan.updates
        if trainer.masks is not None:
            trainer.masks.check_first_step()
        if update % self.log_every == 0 or last:
            trainer.write_train_line(self.window_seconds, self.window_tokens)
            self.window_seconds, self.window_tokens = 0.0, 0
        if update in self.evaluate_at:
            trainer.settle()
            trainer.evaluate_held_out()
        if last or self.due(update):
            trainer.write_checkpoint()
            self.last_save = time.monotonic()
        self.last_time = time.monotonic()

    def due(self, update: int) -> bool:
        """Whether a checkpoint is due; by the clock of the first process where it goes by time."""
        if self.save_updates is not None:
            return update % self.save_updates == 0
        if self.save_seconds is None:
            return False
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return time.monotonic() - self.last_save >= self.save_seconds
        if update % self.log_every:
            return False
        late = accelerator.is_main_process and time.monotonic() - self.last_save >= self.save_seconds
        return bool(accelerator.reduce(torch.tensor(float(late), device=accelerator.device)).item() > 0)


def weigh(terms: Mapping[str, Term]) -> Tensor:
    """The weighted sum of the terms; a weight of zero leaves the term out, so that it cannot touch a gradient."""
    loss: Tensor | None = None
    for term in terms.values():
        if term.weight == 0:
            continue
        part = term.total if term.weight == 1 else term.weight * term.total
        loss = part if loss is None else loss + part
    if loss is None:
        raise InputError("no term of the objective has a weight", key="method", remedy="give one a weight above zero")
    return loss


def training_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters (tied ones once) and persistent buffers, by plain name."""
    persistent = model.state_dict(keep_vars=True)
    buffers = {plain_name(name): buffer for name, buffer in model.named_buffers() if name in persistent}
    parameters = {plain_name(name): value for name, value in model.named_parameters() if value.requires_grad}
    return {**parameters, **buffers}


def student_flops(model: nn.Module, anatomy: Anatomy | None, block: int) -> tuple[int, int]:
    """Training FLOPs per token of the body and per target of the LM head, by the anatomy.

    A frozen weight needs no gradient of its own: half of the backward pass of the frozen share is not counted.
    """
    if anatomy is None:
        return 0, 0
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    backward = (1 + trained / max(1, count)) / 2
    body, whole = anatomy.flops(block, head_share=0.0), anatomy.flops(block, head_share=1.0)
    per_token = body.forward + body.backward * backward
    per_target = whole.forward + whole.backward * backward - per_token
    return round(per_token), round(per_target)


@contextlib.contextmanager
def restored_afterwards(model: nn.Module, accelerator: Any) -> Any:
    """Undo what transformers' trainer leaves on a model: the autocast wrapper and ``config.use_cache = False``."""
    config = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    try:
        yield
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        if config is not None and use_cache is not None:
            config.use_cache = use_cache
