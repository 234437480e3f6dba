"""What to write instead of an argument that a verb does not have."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_OPT_HPARAMS = ("lr", "learning_rate", "weight_decay", "momentum", "betas")
_DATALOADER = ("shuffle", "num_workers", "drop_last", "pin_memory", "sampler", "collate_fn")
_SETUP = ("loss", "loss_fn", "criterion", "optimizer", "backward", "unpack")
_EPOCHS = ("num_epochs", "n_epochs", "max_epochs", "nb_epoch", "epoch")
_DEVICE = ("device", "gpus", "gpu", "cuda")
_TARGET = ("y", "y_train", "target", "targets", "labels")
_WEIGHTS = ("class_weight", "class_weights", "sample_weight", "sample_weights")

# What other libraries call it → what to write here.
_INSTEAD: dict[str, str] = {
    **{name: f"model.set_opt_hparams({name}=...)" for name in _OPT_HPARAMS},
    "learning_rate": "model.set_opt_hparams(lr=...)",
    **{name: f'dataloader_options={{"{name}": ...}}' for name in _DATALOADER},
    **{name: f"luz.setup(module, {name}=...)" for name in _SETUP},
    **dict.fromkeys(("loss_fn", "criterion"), "luz.setup(module, loss=...)"),
    **dict.fromkeys(_EPOCHS, "epochs=..."),
    **dict.fromkeys(_DEVICE, "accelerator=luz.Accelerator(device=...)"),
    **dict.fromkeys(_TARGET, "the input and the target as one argument, (x, y)"),
    **dict.fromkeys(_WEIGHTS, "a loss with weights: nn.CrossEntropyLoss(weight=...)"),
    "validation_split": "valid_data=0.2",
    "val_split": "valid_data=0.2",
    "validation_data": "valid_data=(x, y)",
    "val_data": "valid_data=(x, y)",
    "eval_set": "valid_data=(x, y)",
    "random_state": "seed=...",
    "patience": "callbacks=[luz.callbacks.EarlyStopping(patience=...)]",
    "num_steps": "steps=...",
    "num_iter": "steps=...",
    "min_lr": "start_lr=...",
    "max_lr": "end_lr=...",
}
_BY_NAME = {
    "set_hparams": "set_hparams(n_hidden=64)",
    "set_opt_hparams": "set_opt_hparams(lr=0.1)",
}


def with_hints(verb: F) -> F:
    """`verb`, with a message for an argument that it does not have, or that is given twice.

    Raises:
        TypeError: If an argument cannot be taken; it says what to write.
    """
    parameters = inspect.signature(verb).parameters
    known = list(parameters)
    takes_any = parameters[known[-1]].kind is inspect.Parameter.VAR_KEYWORD
    takes_data = known[1:2] == ["data"]

    @wraps(verb)
    def checked(*args: object, **kwargs: object) -> object:
        for name in kwargs:
            if name not in parameters and not takes_any:
                raise TypeError(hint_for(name, verb.__name__, known))
        if len(args) > 1 and verb.__name__ in _BY_NAME:
            raise TypeError(
                f"`{verb.__name__}` takes its arguments by name: {_BY_NAME[verb.__name__]}."
            )
        twice = [name for name in known[1 : len(args)] if name in kwargs]
        if twice and takes_data:
            raise TypeError(
                f"`{twice[0]}` is given twice, by position and by name. The input and the target "
                f"are one argument: {verb.__name__}((x, y), {twice[0]}=...)."
            )
        return verb(*args, **kwargs)

    return cast(F, checked)


def hint_for(name: str, verb: str, known: list[str]) -> str:
    """The message for an argument that a verb does not have."""
    text = f"`{name}` is not an argument of `{verb}`"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        return f"{text}: write {close[0]}=..."
    if verb == "lr_finder" and name in (*_EPOCHS, "epochs"):
        return f"{text}: write steps=..., or steps=None for one epoch."
    if name in _INSTEAD:
        return f"{text}: write {_INSTEAD[name]}."
    return f"{text}, which takes {', '.join(known)}."
