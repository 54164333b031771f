"""What one training run is asked to do, and the arithmetic of its budget.  No torch: a plan reads this module.

Budgets are in tokens and end on whole updates: ``updates = ceil(tokens / (sequences per update x block))``.
A labelled task has no fixed length, so it is given in ``epochs`` and ``batch`` (samples per update) instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bequest.errors import InputError, did_you_mean
from bequest.training.prefixes import TwoStage

# Our names for the learning-rate schedules -> transformers' own (SchedulerType values).
SCHEDULES: dict[str, str] = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "wsd": "warmup_stable_decay",
    "inverse_sqrt": "inverse_sqrt",
    "polynomial": "polynomial",
    "cosine_with_min_lr": "cosine_with_min_lr",
}

# Arguments of transformers.TrainingArguments that the recipe owns, and the setting that takes their place.
OWNED: dict[str, str] = {
    "output_dir": "the run directory",
    "max_steps": "tokens",
    "num_train_epochs": "tokens",
    "resume_from_checkpoint": "running the same command again",
    "ignore_data_skip": "running the same command again",
    "per_device_train_batch_size": "micro_batch_tokens",
    "gradient_accumulation_steps": "batch_tokens",
    "auto_find_batch_size": "micro_batch_tokens",
    "learning_rate": "lr",
    "lr_scheduler_type": "schedule",
    "lr_scheduler_kwargs": "schedule",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "seed": "seed",
    "data_seed": "seed",
    "bf16": "bf16",
    "save_strategy": "checkpoint_every",
    "save_steps": "checkpoint_every",
    "save_total_limit": "keep",
    "save_only_model": "checkpoint_every",
    "load_best_model_at_end": "evaluate_every",
    "metric_for_best_model": "evaluate_every",
    "greater_is_better": "evaluate_every",
    "eval_strategy": "evaluate_every",
    "eval_steps": "evaluate_every",
    "eval_delay": "evaluate_every",
    "eval_on_start": "evaluate_every",
    "logging_strategy": "log_every",
    "logging_steps": "log_every",
    "logging_first_step": "log_every",
    "logging_nan_inf_filter": "nothing: a loss that is not a number stops the run",
    "label_smoothing_factor": "the objective",
    "label_names": "the objective",
    "average_tokens_across_devices": "nothing: the loss is always averaged over the global batch",
    "remove_unused_columns": "the corpus",
    "train_sampling_strategy": "the corpus",
    "length_column_name": "the corpus",
    "dataloader_drop_last": "tokens",
    "include_num_input_tokens_seen": "nothing: tokens are always counted",
    "ddp_find_unused_parameters": "the objective",
    "accelerator_config": "nothing: how batches reach the processes is fixed, so that runs resume exactly",
    "restore_callback_states_from_checkpoint": "running the same command again",
    "disable_tqdm": "nothing: bequest shows its own progress",
    "push_to_hub": "huggingface-hub, on the finished generation",
    "do_train": "the stage",
    "do_eval": "the stage",
    "do_predict": "the stage",
}

# Arguments of transformers 4.x that are gone, and what replaced them.
REMOVED: dict[str, str] = {
    "warmup_ratio": "warmup (a share below 1 or a number of updates)",
    "evaluation_strategy": "evaluate_every",
    "no_cuda": "training.use_cpu",
    "use_mps_device": "nothing: the device is found by itself",
    "per_gpu_train_batch_size": "micro_batch_tokens",
    "per_gpu_eval_batch_size": "training.per_device_eval_batch_size",
    "group_by_length": "nothing: corpora are packed to one length",
    "logging_dir": "the TENSORBOARD_LOGGING_DIR environment variable",
    "save_safetensors": "nothing: weights are always safetensors",
    "overwrite_output_dir": "--force",
    "fp16_backend": "nothing: torch's autocast is always used",
    "fp16_opt_level": "nothing: torch's autocast is always used",
    "half_precision_backend": "nothing: torch's autocast is always used",
    "torchdynamo": "training.torch_compile",
    "jit_mode_eval": "training.torch_compile",
    "use_ipex": "nothing: plain torch is used",
    "tpu_num_cores": "nothing: the launcher decides",
    "past_index": "nothing",
    "ray_scope": "nothing",
    "include_inputs_for_metrics": "training.include_for_metrics",
    "include_tokens_per_second": "nothing: tokens per second are always measured",
    "push_to_hub_token": "training.hub_token",
    "mp_parameters": "nothing",
    "adafactor": "training.optim = adafactor",
    "fsdp_min_num_params": "training.fsdp_config.min_num_params",
    "fsdp_transformer_layer_cls_to_wrap": "training.fsdp_config.transformer_layer_cls_to_wrap",
}

# Every argument of transformers.TrainingArguments that passes through as it is; a test compares this with the class.
PASSED: frozenset[str] = frozenset(
    {
        "optim",
        "optim_args",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "optim_target_modules",
        "bf16_full_eval",
        "fp16_full_eval",
        "fp16",
        "tf32",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "use_liger_kernel",
        "liger_kernel_config",
        "use_cache",
        "neftune_noise_alpha",
        "torch_empty_cache_steps",
        "log_on_each_node",
        "log_level",
        "log_level_replica",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "eval_accumulation_steps",
        "include_for_metrics",
        "batch_eval_metrics",
        "save_on_each_node",
        "enable_jit_checkpoint",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "full_determinism",
        "use_cpu",
        "parallelism_config",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "dataloader_in_order",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "fsdp",
        "fsdp_config",
        "deepspeed",
        "debug",
        "skip_memory_metrics",
        "local_rank",
    }
)


def check_passthrough(training: Mapping[str, Any], *, where: object = None, prefix: str = "training") -> None:
    """Check the keys that go straight to ``transformers.TrainingArguments``.

    Raises:
        InputError: a key that bequest owns, one that transformers 5 removed, or one that nobody knows.
    """
    for key in training:
        if key in OWNED:
            raise InputError("is decided by bequest", where=where, key=f"{prefix}.{key}", remedy=f"use {OWNED[key]}")
        if key in REMOVED:
            raise InputError(
                "was removed in transformers 5", where=where, key=f"{prefix}.{key}", remedy=f"use {REMOVED[key]}"
            )
        if key not in PASSED:
            raise InputError(
                "is not a training argument", where=where, key=f"{prefix}.{key}", remedy=did_you_mean(key, PASSED)
            )


@dataclass(frozen=True)
class BatchPlan:
    """How one run is cut: ``updates`` of ``sequences`` each, as ``accumulation`` micro-batches per process."""

    updates: int
    sequences: int
    micro_batch: int
    accumulation: int
    world: int
    tokens_per_update: int
    warmup_updates: int


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one training run.

    Either ``tokens`` (with ``block`` and ``batch_tokens``) or ``epochs`` (with ``batch``) gives the budget.
    """

    tokens: int | None = None
    """Token budget; rounded up to whole updates."""
    block: int = 128
    """Length of a packed sequence."""
    batch_tokens: int = 4096
    """Tokens per optimizer update, over all micro-batches and processes."""
    micro_batch_tokens: int | None = None
    """Most tokens that one process sends through the model at once; the rest is accumulated."""
    epochs: float | None = None
    """Passes over a labelled task, in place of ``tokens``."""
    batch: int = 16
    """Samples per update of a labelled task."""
    micro_batch: int | None = None
    """Most samples that one process sends through the model at once, for a labelled task."""
    lr: float = 3e-4
    """Peak learning rate."""
    schedule: str = "cosine"
    """cosine, linear, constant, wsd, inverse_sqrt or polynomial, in optimizer updates."""
    warmup: float = 0.05
    """Share of the run below 1, else a number of updates."""
    min_lr_ratio: float = 0.0
    """Where cosine and wsd end, as a share of ``lr``."""
    decay: float = 0.2
    """Share of the run that wsd decays over."""
    weight_decay: float = 0.01
    """Decoupled weight decay, not on biases and norms."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm to this; 0 leaves it alone."""
    seed: int = 0
    """Seed of the data order and of dropout."""
    bf16: bool | str = "auto"
    """bf16 autocast: yes, no, or where the device computes in bf16 itself (``auto``)."""
    evaluate_every: float | None = 0.1
    """Share of the run between evaluations; always also at the start and the end.  ``None``: only these."""
    evaluate_blocks: int | None = 256
    """Most held-out blocks evaluated per corpus while training; ``None`` for all."""
    evaluate_batch: int = 32
    """Sequences per evaluation batch."""
    checkpoint_every: int | str | None = "10min"
    """Updates, or minutes as in ``"10min"``; ``None`` leaves only the one at the end."""
    keep: int = 2
    """Complete checkpoints that stay."""
    log_every: int | None = None
    """Updates between lines of metrics.jsonl; about 400 lines per run by default."""
    two_stage: TwoStage | None = None
    """Train prefixes of the layers first (bert2BERT); ``None``: the whole model from the start."""
    keep_optimizer: bool = False
    """Give Adam's state out with the result."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Passed to ``transformers.TrainingArguments`` as it is (trackers, FSDP, DeepSpeed, workers, ...)."""

    def __post_init__(self) -> None:
        check_passthrough(self.training)
        if self.two_stage is not None:
            self.two_stage.check_training(self.training)
        if (self.tokens is None) == (self.epochs is None):
            raise InputError(
                "give either a token budget or a number of epochs", key="tokens", remedy="set tokens (for example 20M)"
            )
        if self.two_stage is not None and self.tokens is not None and self.two_stage.until > max(1, self.tokens):
            raise InputError(
                f"{self.two_stage.until:.0f} tokens are more than the stage's {self.tokens}",
                key="two_stage.until",
                remedy="use at most as many, or a share such as 25%",
            )
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"unknown schedule {self.schedule!r}", key="schedule", remedy=did_you_mean(self.schedule, SCHEDULES)
            )
        if self.bf16 not in (True, False, "auto"):
            raise InputError(f"{self.bf16!r} is not true, false or auto", key="bf16", remedy="use auto")
        for key in (
            "tokens",
            "epochs",
            "block",
            "batch_tokens",
            "batch",
            "lr",
            "keep",
            "log_every",
            "evaluate_every",
            "micro_batch",
            "micro_batch_tokens",
            "evaluate_blocks",
            "evaluate_batch",
        ):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise InputError(f"{value} is not above zero", key=key, remedy="give a positive number")
        self.checkpoint_interval()

    def checkpoint_interval(self) -> tuple[int | None, float | None]:
        """``checkpoint_every`` as (updates, seconds); the one not meant is ``None``."""
        every = self.checkpoint_every
        if every is None:
            return None, None
        if isinstance(every, int) and every > 0:
            return every, None
        text = str(every).strip().lower()
        if text.isdigit() and int(text) > 0:
            return int(text), None
        number = text.removesuffix("minutes").removesuffix("min").removesuffix("m").strip()
        try:
            minutes = float(number)
        except ValueError:
            minutes = -1.0
        if minutes < 0 or text == number:
            raise InputError(
                f"{every!r} is neither a number of updates nor of minutes",
                key="checkpoint_every",
                remedy="write 500 or 10min",
            )
        return None, minutes * 60

    def batches(self, *, samples: int | None = None, world: int = 1) -> BatchPlan:
        """Cut the budget into updates, micro-batches and processes.

        Args:
            samples: the samples of a labelled task; only needed when the budget is in ``epochs``.
            world: number of data-parallel processes.

        Raises:
            InputError: a batch that is no whole number of blocks, or that the processes cannot share equally.
        """
        if self.tokens is not None:
            if self.batch_tokens % self.block:
                low = self.batch_tokens // self.block * self.block
                raise InputError(
                    f"{self.batch_tokens} tokens are no whole number of blocks of {self.block}",
                    key="batch_tokens",
                    remedy=f"use {low or self.block} or {low + self.block}",
                )
            sequences, per_update = self.batch_tokens // self.block, self.batch_tokens
            updates = math.ceil(self.tokens / per_update)
            limit = None if self.micro_batch_tokens is None else max(1, self.micro_batch_tokens // self.block)
        else:
            if samples is None or self.epochs is None:
                raise InputError("a budget in epochs needs the number of samples", key="epochs", remedy="set tokens")
            sequences, per_update = self.batch, self.batch * self.block
            updates = max(1, math.ceil(self.epochs * samples / self.batch))
            limit = self.micro_batch
        if sequences % world:
            raise InputError(
                f"{sequences} sequences per update cannot be shared by {world} processes",
                key="batch_tokens" if self.tokens is not None else "batch",
                remedy=f"use a multiple of {world} sequences",
            )
        share = sequences // world
        micro = share if limit is None else max(size for size in range(1, min(limit, share) + 1) if share % size == 0)
        warmup = math.ceil(self.warmup * updates) if self.warmup < 1 else min(int(self.warmup), updates)
        return BatchPlan(updates, sequences, micro, share // micro, world, per_update, warmup)

    def schedule_arguments(self, plan: BatchPlan) -> tuple[str, dict[str, Any]]:
        """transformers' scheduler name and its specific arguments."""
        name = SCHEDULES[self.schedule]
        if self.schedule == "wsd":
            decay = min(plan.updates - plan.warmup_updates, max(1, round(self.decay * plan.updates)))
            return name, {"num_decay_steps": decay, "min_lr_ratio": self.min_lr_ratio}
        if self.schedule == "cosine" and self.min_lr_ratio > 0:
            return "cosine_with_min_lr", {"min_lr_rate": self.min_lr_ratio}
        if self.schedule == "cosine_with_min_lr":
            return name, {"min_lr_rate": self.min_lr_ratio}
        return name, {}

    def evaluation_updates(self, updates: int) -> frozenset[int]:
        """The updates after which held-out text is measured: the start (0), every share of the run, and the end."""
        if self.evaluate_every is None:
            return frozenset({0, updates})
        count = max(1, math.floor(1 / self.evaluate_every + 1e-9))
        shares = (i * self.evaluate_every * updates for i in range(1, count + 1))
        return frozenset({0, updates, *(min(updates, math.ceil(share - 1e-9)) for share in shares)})
