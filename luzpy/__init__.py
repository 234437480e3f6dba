"""luzpy: train torch modules without a hand-written training loop. A port of R's luz."""

from importlib import import_module
from typing import TYPE_CHECKING

from luzpy import callbacks, metrics, nn
from luzpy._version import __version__
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.data.dataset import as_dataset
from luzpy.data.loader import as_dataloader
from luzpy.distributed.accelerator import Accelerator
from luzpy.files.saving import load_checkpoint, load_model_weights, save, save_model_weights
from luzpy.finder.finder import lr_finder
from luzpy.fitted import FittedModule, load
from luzpy.ground.errors import LuzError, NoSuggestionError
from luzpy.ground.r_names import FROM_R as _FROM_R
from luzpy.ground.records import get_metrics
from luzpy.metrics import Metric
from luzpy.module import LuzModule, set_hparams, set_opt_hparams, set_seed, setup
from luzpy.verbs.evaluate import Evaluation, evaluate
from luzpy.verbs.fit import fit
from luzpy.verbs.plot import plot
from luzpy.verbs.predict import predict

if TYPE_CHECKING:
    from luzpy import sklearn as sklearn
    from luzpy.finder.lr_records import LRRecords

__all__ = [
    "Accelerator",
    "Callback",
    "Context",
    "Evaluation",
    "FittedModule",
    "LRRecords",
    "LuzError",
    "LuzModule",
    "Metric",
    "NoSuggestionError",
    "__version__",
    "as_dataloader",
    "as_dataset",
    "callbacks",
    "evaluate",
    "fit",
    "get_metrics",
    "load",
    "load_checkpoint",
    "load_model_weights",
    "lr_finder",
    "metrics",
    "nn",
    "plot",
    "predict",
    "save",
    "save_model_weights",
    "set_hparams",
    "set_opt_hparams",
    "set_seed",
    "setup",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "sklearn"})


def __getattr__(name: str) -> object:
    if name == "LRRecords":  # a kind of frame: pandas is imported when it is used
        from luzpy.finder.lr_records import LRRecords

        return LRRecords
    if name == "sklearn":  # scikit-learn may be missing
        return import_module("luzpy.sklearn")
    if name in _FROM_R:
        raise AttributeError(f"R's {name} is {_FROM_R[name]} in luzpy.")
    raise AttributeError(f"module 'luzpy' has no attribute {name!r}")
