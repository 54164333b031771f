"""What happens around an optimizer update: masks, counting, logging, evaluation, checkpoints."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from bequest.errors import RunError
from bequest.training.adam import adam_inside, complete, take_up
from bequest.training.evaluation import evaluating, loss_sums
from bequest.training.ledger import DIVERGED
from bequest.training.masked_update import MaskedUpdate
from bequest.training.metrics import FIRST_BATCHES
from bequest.training.sharding import refuse_unsharded

if TYPE_CHECKING:
    from bequest.training.trainer import Trainer


class Moments(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
    """The callback of one run."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        settings, updates = trainer.settings, trainer.plan.updates
        self.evaluate_at = settings.evaluation_updates(updates)
        self.log_every = settings.log_every or max(1, math.ceil(updates / 400))
        self.save_updates, self.save_seconds = settings.checkpoint_interval()
        self.last_time = self.last_save = time.monotonic()
        self.window_seconds, self.window_tokens = 0.0, 0
        self.rate_used = 0.0
        self.masks: MaskedUpdate | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After ``prepare``, and after a checkpoint was loaded."""
        trainer = self.trainer
        refuse_unsharded(bool(args.fsdp) or trainer.is_fsdp_enabled, trainer.model_wrapped)
        if trainer.settings.keep_optimizer:
            adam_inside(trainer.optimizer)  # refused now, not after the last update
        if trainer.start is not None and state.global_step == 0:
            take_up(trainer.optimizer, trainer.model_wrapped, trainer.start)
        if trainer.is_fsdp_enabled:
            complete(trainer.optimizer)
        importance = trainer.objective.update_masks()
        if importance:
            self.masks = MaskedUpdate(trainer.model_wrapped, trainer.optimizer, importance)
        if state.global_step == 0 and 0 in self.evaluate_at:
            self.evaluate()
        self.last_time = self.last_save = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the step, before the schedule moves on."""
        self.rate_used = self.trainer._get_learning_rate()
        if self.masks is not None:
            self.masks.check_first_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every optimizer update."""
        trainer, update = self.trainer, state.global_step
        trainer.ledger.count(trainer.progress(update - 1), trainer.global_tokens, trainer.global_targets)
        host = args.device.type == "cpu" and trainer.accelerator.num_processes == 1
        if host:  # there is nothing to wait for: a loss that is not a number is found at once
            trainer.settle()
        now = time.monotonic()
        trainer.ledger.meter.wall_seconds += now - self.last_time
        self.window_seconds += now - self.last_time
        self.window_tokens += trainer.global_tokens
        last = update == trainer.plan.updates
        if update % self.log_every == 0 or last:
            self.log()
        batches = trainer.ledger.meter.batches
        if update == min(FIRST_BATCHES, trainer.plan.updates) and trainer.is_world_process_zero():
            trainer.metrics.append(kind="batches", update=update, digests=batches[:update])
        if update in self.evaluate_at:
            self.evaluate()
        if last or self.due(update):
            trainer.write_checkpoint()
            self.last_save = time.monotonic()
        self.last_time = time.monotonic()

    def log(self) -> None:
        """One ``train`` line of metrics.jsonl, and the same to the trackers."""
        trainer = self.trainer
        trainer.settle()
        meter = trainer.ledger.meter
        means = meter.drain()
        norm = trainer.gradient_norm
        rate = self.window_tokens / max(1e-9, self.window_seconds)
        line = {
            "update": meter.update,
            "tokens": meter.tokens,
            "flops": meter.train_flops + meter.teacher_flops,
            **means,
            "lr": self.rate_used,
            "gradient_norm": float(norm) if isinstance(norm, Tensor) else norm,
            "tokens_per_second": rate,
            "wall": meter.wall_seconds,
        }
        self.window_seconds, self.window_tokens = 0.0, 0
        if trainer.is_world_process_zero():
            trainer.metrics.append(kind="train", **line)
            # The text's own loss: a mixed objective's is not comparable from one update to the next.
            trainer.display.train(meter.update, meter.tokens, means.get("lm", means["loss"]), rate)
        trainer.log({key: value for key, value in line.items() if value is not None})

    def evaluate(self) -> None:
        """Measure the pure loss of every held-out corpus, write its ``eval`` lines, keep the best."""
        trainer = self.trainer
        trainer.settle()
        meter, update = trainer.ledger.meter, trainer.state.global_step
        losses: dict[str, float] = {}
        for name, blocks in trainer.held_out.items():
            losses[name] = self.held_out_loss(blocks)
            if not math.isfinite(losses[name]):
                raise RunError(
                    f"is not a finite number after update {update}",
                    where=trainer.directory,
                    key=f"held-out loss of {name!r}",
                    remedy=DIVERGED,
                )
            found = {
                "update": update,
                "tokens": meter.tokens,
                "corpus": name,
                "loss": losses[name],
                "unigram": trainer.unigram.get(name),
            }
            meter.evaluations.append(found)
            if trainer.is_world_process_zero():
                flops = meter.train_flops + meter.teacher_flops
                trainer.metrics.append(
                    kind="eval", flops=flops, teacher_flops=meter.teacher_flops, wall=meter.wall_seconds, **found
                )
                trainer.display.evaluation(name, losses[name], trainer.unigram.get(name), update)
        if losses:
            mean = sum(losses.values()) / len(losses)
            if meter.best is None or mean < meter.best["loss"]:
                meter.best = {"update": update, "loss": mean}
            trainer.log({f"eval_{name}_loss": loss for name, loss in losses.items()})

    def held_out_loss(self, blocks: Any) -> float:
        """The mean loss per target of the first held-out blocks, over all processes."""
        trainer, settings = self.trainer, self.trainer.settings
        accelerator = trainer.accelerator
        limit = settings.evaluate_blocks
        with evaluating(trainer.model_wrapped), accelerator.autocast():
            total, targets = loss_sums(
                trainer.model_wrapped,
                trainer.head,
                blocks,
                trainer.collator,
                batch=settings.evaluate_batch,
                count=len(blocks) if limit is None else min(limit, len(blocks)),
                device=trainer.args.device,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
            )
        if accelerator.num_processes > 1:
            both = torch.tensor([total, targets], dtype=torch.float64, device=trainer.args.device)
            total, targets = accelerator.reduce(both, reduction="sum").tolist()
        return total / max(1, targets)

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
