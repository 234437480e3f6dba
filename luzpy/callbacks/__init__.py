"""What may be done at the hooks of a run."""

from luzpy.callback import Callback
from luzpy.callbacks.early_stopping import EarlyStopping
from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.lr_scheduler import LRScheduler
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.callbacks.train_valid import TrainValid

__all__ = [
    "Callback",
    "EarlyStopping",
    "Interrupt",
    "LRScheduler",
    "Metrics",
    "Profile",
    "Progress",
    "TrainValid",
]
