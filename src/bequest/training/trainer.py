"""The one subclass of ``transformers.Trainer``.

Ours are only: summing the objective's terms over the global number of targets, masking updates, counting tokens and
FLOPs, and crash-safe checkpoints.  Everything distributed is accelerate's.  What happens around an update stands in
``moments.py``, the books in ``ledger.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback

from bequest.anatomy import Anatomy
from bequest.errors import RunError
from bequest.storage import disk_errors, read_json, write_json
from bequest.training import checkpointing
from bequest.training.devices import device_facts
from bequest.training.head_positions import find_head
from bequest.training.ledger import Ledger, refuse_diverged, weigh
from bequest.training.loading import (
    PreparedCollator,
    Run,
    TrainingData,
    batch_digest,
    model_inputs,
    target_count,
    worker_seed,
)
from bequest.training.masked_update import plain_name
from bequest.training.metrics import FIRST_BATCHES, Meter, MetricsFile
from bequest.training.moments import Moments
from bequest.training.objective import Objective, Progress, Step
from bequest.training.partial_depth import PartialDepth
from bequest.training.progress import Display
from bequest.training.settings import BatchPlan, TrainSettings
from bequest.training.sharding import one_root_group, wrap_blocks_only

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
        data: TrainingData,
        start: Mapping[str, Tensor] | None,
        directory: Path,
        display: Display,
    ) -> None:
        run = Run(data.train, plan.updates * plan.sequences, args.seed)
        super().__init__(model=model, args=args, train_dataset=run, data_collator=PreparedCollator(data.collator))
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True
        if self.is_fsdp_enabled:
            wrap_blocks_only(self.accelerator.state.fsdp_plugin, model)
        self.objective, self.settings, self.plan = objective, settings, plan
        self.collator, self.held_out, self.unigram = data.collator, data.eval, data.unigram
        self.start = start
        self.directory, self.display = directory, display
        self.checkpoints = directory / "checkpoints"
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self.head = None if anatomy is None or anatomy.lm_head is None else find_head(model, anatomy.lm_head)
        self.depth: PartialDepth | None = None
        if settings.two_stage is not None and anatomy is not None:
            self.depth = PartialDepth(settings.two_stage, model, anatomy, block=settings.block, seed=settings.seed)
        self.ledger = Ledger(objective, model, anatomy, settings.block, self.depth)
        self.global_targets, self.global_tokens = 0, 0
        self.gradient_norm: float | Tensor | None = None
        self.add_callback(Moments(self))

    # --- data ---

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One pass over the whole run, in its own order (see ``loading.py``)."""
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
        if batches and len(self.ledger.meter.batches) < FIRST_BATCHES:
            self.ledger.meter.batches.append(batch_digest(batches))
        return batches, targets

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        with one_root_group(self.model):
            return super()._prepare_for_training(*args, **kwargs)

    # --- the loss ---

    def progress(self, update: int) -> Progress:
        """Where the run stands before ``update`` (0-based)."""
        size, updates = self.plan.tokens_per_update, self.plan.updates
        return Progress(update, updates, update * size, updates * size, size)

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
            progress=self.progress(self.state.global_step),
            domains=inputs.get("domain"),
            autocast=self.accelerator.autocast,
        )
        with contextlib.nullcontext() if self.depth is None else self.depth.running(step.progress):
            terms = self.objective.terms(step)
        self.ledger.note(terms)
        loss: Tensor = weigh(terms) * (self.accelerator.num_processes / max(1, self.global_targets))
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self.gradient_norm = super()._clip_grad_norm(model)
        return self.gradient_norm

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """transformers' own estimate is not used: the ledger counts by the anatomy."""
        return 0

    def settle(self) -> None:
        """Bring the booked losses to the host and check that they are numbers."""
        self.ledger.settle(self.accelerator, self.directory)

    # --- checkpoints ---

    def facts(self) -> dict[str, Any]:
        """What a bitwise continuation needs to be unchanged."""
        found = device_facts(self.args.device, self.accelerator.num_processes, self.args.bf16)
        return {**found, "micro_batch": self.plan.micro_batch}  # sums in another order round otherwise

    def identity(self) -> dict[str, Any]:
        """What makes this the same run: its length, update size, data, schedule, seed, and the layers it trains."""
        two_stage = self.settings.two_stage
        return {
            "updates": self.plan.updates,
            "sequences": self.plan.sequences,
            "block": self.settings.block,
            "samples": len(self.train_dataset.samples),
            "seed": self.args.seed,
            "schedule": self.settings.schedule,
            "lr": self.settings.lr,
            "two_stage": None if two_stage is None else dataclasses.asdict(two_stage),
        }

    def write_checkpoint(self) -> None:
        """Write the checkpoint of the update just finished, whole or not at all, and retire old ones."""
        self.settle()
        update = self.state.global_step
        refuse_diverged(self.model, update, self.directory)
        partial = checkpointing.partial_path(self.checkpoints, update)
        target = checkpointing.checkpoint_path(self.checkpoints, update)
        first = self.is_world_process_zero()
        try:
            with disk_errors(target):
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
                    self.state.save_to_json(str(partial / "trainer_state.json"))
                    books = {"meter": self.ledger.meter.as_json(), "objective": dict(self.objective.state())}
                    write_json(partial / STATE, {**books, "identity": self.identity()})
                    checkpointing.complete(partial, target, self.facts())
                    checkpointing.retain(self.checkpoints, self.settings.keep)
        except BaseException:
            if first:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()

    def _save_weights(self, partial: Path) -> None:
        if self.is_fsdp_enabled:
            return  # written shard by shard together with the optimizer
        if self.is_deepspeed_enabled:
            return  # its engine saves model and optimizer together
        if self.args.should_save:
            tensors = {name: value.detach().contiguous() for name, value in training_state(self.model).items()}
            safetensors.torch.save_file(tensors, partial / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            from accelerate.utils import load_fsdp_model

            plugin = self.accelerator.state.fsdp_plugin
            load_fsdp_model(plugin, self.accelerator, model or self.model, resume_from_checkpoint)
            return
        stored = safetensors.torch.load_file(Path(resume_from_checkpoint) / WEIGHTS)
        live = training_state(self.model)
        if stored.keys() != live.keys():
            raise RunError(
                "the checkpoint holds other tensors than the model trains",
                where=resume_from_checkpoint,
                key=min(stored.keys() ^ live.keys()),
                remedy="remove the checkpoint, or train the same model",
            )
        with torch.no_grad():
            for name, value in stored.items():
                live[name].copy_(value)

    def find_resume(self) -> Path | None:
        """The newest complete checkpoint of this run, its counters and the objective's state taken back."""
        first = self.is_world_process_zero()
        if first:
            checkpointing.clean(self.checkpoints)
        self.accelerator.wait_for_everyone()
        remarks: list[str] = []
        found = checkpointing.newest_complete(self.checkpoints, remarks.append)
        if first:
            self.metrics.truncate(None if found is None else checkpointing.update_of(found))
        if found is not None:
            stored = read_json(found / STATE)
            checkpointing.check_same_run(stored["identity"], self.identity(), found)
            self.ledger.meter = Meter(**stored["meter"])
            self.objective.restore(stored["objective"])
            changed = checkpointing.differences(checkpointing.facts_of(found), self.facts())
            remarks.append(f"resumed {found.name}, " + (f"not bitwise: {', '.join(changed)}" if changed else "exactly"))
        for text in remarks:
            self.remark(text)
        return found

    def remark(self, text: str) -> None:
        """A line for the reader, also kept as a ``note``."""
        if self.is_world_process_zero():
            self.display.note(text)
            self.metrics.append(kind="note", update=self.ledger.meter.update, text=text)


def training_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters (tied ones once) and persistent buffers, by plain name."""
    persistent = model.state_dict(keep_vars=True)
    buffers = {plain_name(name): buffer for name, buffer in model.named_buffers() if name in persistent}
    parameters = {plain_name(name): value for name, value in model.named_parameters() if value.requires_grad}
    return {**parameters, **buffers}
