"""Loading, making and saving models.

A model is loaded whole or not at all: a tensor of the backbone that a file lacks, or one that no module takes, is an
error and never a random initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.checkpoints.headers import load_config
from bequest.checkpoints.names import to_memory_names
from bequest.checkpoints.quiet import quiet
from bequest.errors import AnatomyError, InputError
from bequest.storage import disk_errors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_AUTO = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "discriminator": "AutoModelForPreTraining",
    "bare": "AutoModel",
}
#: transformers multiplies all experts of a block at once by a kernel that takes rows of whole multiples of 16 bytes:
#: of so many elements in half precision, of half as many in float32.
GROUPED_ROWS = 8


def load_model(
    path: str | Path, *, head: str | None = None, labels: list[str] | None = None, seed: int = 0
) -> PreTrainedModel:
    """Load a model in float32, in eval mode.

    Args:
        path: a model directory or a Hub id.
        head: the variant; without it, the class that the config names.
        labels: with ``sequence-classification``: the names of the labels, in order of their ids.
        seed: what a fresh classification head (and its pooler) is drawn from.

    Raises:
        InputError: no model there; a class that does not exist; a classification head of other labels.
        AnatomyError: the files lack a tensor of the backbone or of the LM head, or hold one that no module takes, or
            one of another shape; the tensor is named.
    """
    import torch

    config = _auto_config(path)
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    model_class = _model_class(config, head, path)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = _from_pretrained(model_class, path, config)
        if head == "bare" and _only_pooler(model, info["missing_keys"]):
            # A language model's file has no pooler; an untrained one must not stand in for it.
            model, info = _from_pretrained(model_class, path, config, add_pooling_layer=False)
    _judge_loading(model, info, path, fresh_head=_is_classifier(model))
    return _runnable(model)


def new_model(config: Mapping[str, Any], *, seed: int) -> PreTrainedModel:
    """A freshly initialised model of a config, float32, in train mode; ``architectures`` names its class.

    Raises:
        InputError: the config names no class, or transformers refuses it.
    """
    import torch

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = live_config(config)
        model: PreTrainedModel = _model_class(made, None, "config")(made)
    return _runnable(model.to(torch.float32))


def takes_grouped_experts(model: PreTrainedModel) -> bool:
    """Whether grouped kernels run the model's experts, if it has any, in every dtype but float64."""
    return all(one.shape[-1] % GROUPED_ROWS == 0 for one in model.parameters() if one.ndim == 3)


def meta_model(config: Mapping[str, Any], *, head: str | None = None) -> PreTrainedModel:
    """A model of a config without storage (on the meta device): for names and shapes."""
    import torch

    with quiet(), torch.device("meta"):
        made = live_config(config)
        model: PreTrainedModel = _model_class(made, head, "config")(made)
    return model


def live_config(config: Mapping[str, Any]) -> Any:
    """transformers' own config object for a mapping, validated by its class.

    Raises:
        InputError: transformers refuses it; its own words are in the message.
    """
    from transformers import AutoConfig

    values = {key: value for key, value in config.items() if key not in ("model_type", "transformers_version")}
    if values.get("id2label"):
        values["id2label"] = {int(index): label for index, label in values["id2label"].items()}
        values.pop("num_labels", None)
    try:
        made = AutoConfig.for_model(config["model_type"], **values)
    except KeyError:
        raise InputError("the config names no model_type", where="config", key="model_type") from None
    except Exception as error:
        # huggingface_hub wraps what the class's validators say in errors of its own.
        raise InputError(f"transformers refuses this config: {error}", where="config") from None
    return made


def save_model(model: PreTrainedModel, directory: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
    """Save a model as a plain ``from_pretrained`` directory (config, safetensors).

    Args:
        model: the model; it is left as it was.
        directory: written into directly; wrap it in ``storage.atomic_directory`` where a torn directory would matter.
        dtype: what the weights are stored in (``"bfloat16"``); without it, what they are in.

    Raises:
        RunError: the disk is full.
    """
    import copy

    import torch

    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if wanted is not None and wanted != model.dtype:
        model = copy.deepcopy(model).to(wanted)
    with disk_errors(Path(directory)), quiet():
        model.save_pretrained(directory)


def _runnable(model: Any) -> Any:
    """The model; its experts one by one where the grouped kernel that transformers chooses does not take them."""
    if not takes_grouped_experts(model):
        model.set_experts_implementation("eager")
    return model


def _auto_config(path: str | Path) -> Any:
    from transformers import AutoConfig

    load_config(path)  # says in one line what is wrong with the path
    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:
        raise InputError(f"transformers refuses this config: {error}", where=path) from None


def _model_class(config: Any, head: str | None, where: object) -> Any:
    import transformers

    if head is not None:
        if head not in _AUTO:
            raise InputError(f"no such head {head!r}", key="head", remedy=f"known: {', '.join(_AUTO)}")
        mapping = getattr(transformers, _AUTO[head])._model_mapping
        if type(config) not in mapping:
            raise InputError(f"{config.model_type} has no {head} class in transformers", where=where, key="head")
        found = mapping[type(config)]
        return found[0] if isinstance(found, tuple) else found
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    if found is None:
        raise InputError("the config names no class that transformers has", where=where, key="architectures")
    return found


def _from_pretrained(model_class: Any, path: str | Path, config: Any, **extra: Any) -> tuple[Any, dict[str, Any]]:
    import torch

    try:
        model, info = model_class.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told apart below, each tensor by its name
            use_safetensors=True,
            **extra,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot be loaded ({error})", where=path) from None
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise InputError(f"torn or not a safetensors file ({error})", where=path) from None
        raise
    return model, info


def _is_classifier(model: Any) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _inside_base(model: Any, name: str) -> str | None:
    """The name of a tensor inside the base model, or none where it belongs to a head."""
    base = model.base_model
    inner = name.removeprefix(f"{model.base_model_prefix}.")
    parts = {child.partition(".")[0] for child, _ in base.named_parameters()}
    return inner if inner.partition(".")[0] in parts else None


def _only_pooler(model: Any, missing: Iterable[str]) -> bool:
    names = list(missing)
    return bool(names) and all(name.startswith("pooler.") for name in names)


def _judge_loading(model: Any, info: Mapping[str, Any], path: str | Path, *, fresh_head: bool) -> None:
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, found, expected = mismatched[0]
        raise AnatomyError(
            f"the file has {tuple(found)} where the config gives {tuple(expected)}",
            where=path,
            key=name,
            remedy="the config or the number of labels belongs to another model",
        )
    missing = sorted(info["missing_keys"])
    for name in missing:
        inner = _inside_base(model, name)
        fresh = fresh_head and (inner is None or inner.startswith("pooler."))
        if not fresh:
            raise AnatomyError("the file lacks this tensor", where=path, key=name, remedy="it would start at random")
    for name, memory in to_memory_names(sorted(info["unexpected_keys"]), model).items():
        if memory is not None and _inside_base(model, name) is not None:
            raise AnatomyError("no module of the model takes this tensor", where=path, key=name)
    if info["error_msgs"]:
        raise InputError(f"cannot be loaded ({'; '.join(info['error_msgs'])})", where=path)
