"""The callbacks that come with luzpy."""

from luzpy.callbacks.csv_logger import CSVLogger
from luzpy.callbacks.cutmix import CutMix
from luzpy.callbacks.early_stopping import EarlyStopping
from luzpy.callbacks.ema import EMA
from luzpy.callbacks.gradient_clip import GradientClip
from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.keep_best_model import KeepBestModel
from luzpy.callbacks.log import Log
from luzpy.callbacks.lr_scheduler import LRScheduler
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.mixed_precision import MixedPrecision
from luzpy.callbacks.mixup import Mixup
from luzpy.callbacks.model_checkpoint import ModelCheckpoint
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.callbacks.resume_from_checkpoint import ResumeFromCheckpoint
from luzpy.callbacks.stop_on_nan import StopOnNaN
from luzpy.callbacks.tfevents import TFEvents
from luzpy.callbacks.train_valid import TrainValid
from luzpy.callbacks.unfreeze import Unfreeze
from luzpy.core.callback import Callback
from luzpy.resume.auto_resume import AutoResume

__all__ = [
    "EMA",
    "AutoResume",
    "CSVLogger",
    "Callback",
    "CutMix",
    "EarlyStopping",
    "GradientClip",
    "Interrupt",
    "KeepBestModel",
    "LRScheduler",
    "Log",
    "Metrics",
    "MixedPrecision",
    "Mixup",
    "ModelCheckpoint",
    "Profile",
    "Progress",
    "ResumeFromCheckpoint",
    "StopOnNaN",
    "TFEvents",
    "TrainValid",
    "Unfreeze",
]
