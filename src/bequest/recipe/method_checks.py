"""May a stage name these methods, with these options, together?  Answered from source: no method is imported, no torch.

What the run would refuse later is refused here: a method or option that does not exist, a value out of its range, two
methods where one works, and replay where nothing came earlier.
"""

from __future__ import annotations

from bequest.adaptation.limits import LIMITS
from bequest.errors import InputError, did_you_mean
from bequest.recipe import catalogue
from bequest.recipe.ancestry import earlier_corpora
from bequest.recipe.parts import MethodCall
from bequest.recipe.references import key_of
from bequest.recipe.sections import Adapt, Grow, Pretrain, Recipe, Recycle, Section


def check_methods(recipe: Recipe) -> None:
    """Check the methods and teachers of every stage.

    Raises:
        InputError: the first that cannot work.
    """
    for stage in recipe.stages:
        if isinstance(stage, Pretrain) and len(stage.teachers) > 1:
            raise _refused(
                recipe,
                stage,
                "teachers",
                f"a stage has one teacher, not {len(stage.teachers)}",
                "keep one, and let another stage learn from the other",
            )
        if isinstance(stage, Grow | Adapt | Recycle):
            _check_calls(recipe, stage)
        if isinstance(stage, Adapt):
            _check_replay(recipe, stage)


def _check_calls(recipe: Recipe, stage: Grow | Adapt | Recycle) -> None:
    """Every method by itself, then all of them together."""
    docs = [doc for call in stage.method if (doc := _described(recipe, stage, call)) is not None]
    if isinstance(stage, Recycle) and len(stage.method) > 1:
        named = " and ".join(call.name for call in stage.method)
        raise _refused(recipe, stage, "method", f"recycling takes one method, not {named}", "name one of them")
    changing = [doc.name for doc in docs if "prepare" in doc.defines]
    if isinstance(stage, Adapt) and len(changing) > 1:
        named = " and ".join(changing)
        raise _refused(recipe, stage, "method", f"{named} both change the model (prepare)", "use one of them")


def _described(recipe: Recipe, stage: Section, call: MethodCall) -> catalogue.MethodDoc | None:
    """The method behind a call, whose options fit it; None for ``auto``."""
    if ":" in call.name:
        return _outside(recipe, stage, call.name)
    methods = catalogue.methods(stage.kind)
    extra = {"auto"} if stage.kind == "grow" else set()
    if call.name not in methods and call.name not in extra:
        remedy = did_you_mean(call.name, {*methods, *extra})
        raise _refused(recipe, stage, "method", f"unknown method {call.name!r}", remedy)
    fields = [field.name for field in methods[call.name].fields] if call.name in methods else []
    for option in call.options:
        if option not in fields:
            remedy = did_you_mean(option, fields) if fields else f"{call.name} takes no options"
            raise _refused(recipe, stage, f"method.{option}", f"{call.name} has no such option", remedy)
    if stage.kind == "adapt" and call.name in LIMITS:
        try:
            LIMITS[call.name](**call.options)
        except InputError as error:
            raise _refused(recipe, stage, str(error.key), error.message, error.remedy) from None
    return methods.get(call.name)


def _outside(recipe: Recipe, stage: Section, name: str) -> catalogue.MethodDoc:
    """A method from outside; its class must stand in its module's source."""
    module, _, symbol = name.partition(":")
    try:
        return catalogue.outside_method(stage.kind, name)
    except ModuleNotFoundError:
        message, remedy = f"no module {module!r} for the method {name!r}", "install it, or put it on PYTHONPATH"
    except NameError as error:
        classes = [known for known in (error.name or "").split(",") if known]
        message = f"the module {module} has no class {symbol!r}"
        remedy = did_you_mean(symbol, classes) if classes else "check the part behind the colon"
    except TypeError:
        message, remedy = f"{name} is a function", "name a class"
    except SyntaxError as error:
        message, remedy = f"the module {module} cannot be read (line {error.lineno}: {error.msg})", "mend it"
    raise _refused(recipe, stage, "method", message, remedy)


def _check_replay(recipe: Recipe, stage: Adapt) -> None:
    """Replay needs something earlier than the first domain."""
    shares = [call.options.get("share", 1) for call in stage.method if call.name == "replay"]
    earlier = [name for name in earlier_corpora(recipe, stage) if name != stage.domains[0]]
    if any(shares) and not earlier:
        raise _refused(
            recipe,
            stage,
            "method",
            f"nothing came before {stage.domains[0]!r} that replay could take",
            "start from a stage that was trained on a corpus, or from a base whose lineage.json names a corpus of this "
            "recipe, or drop replay",
        )


def _refused(recipe: Recipe, stage: Section, key: str, message: str, remedy: str | None) -> InputError:
    return InputError(message, where=recipe.source, key=key_of(stage, key), remedy=remedy)
