"""A specification as a scikit-learn estimator; `luz.sklearn`, imported on first use."""

# scikit-learn has no types.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Self, cast, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from luzpy.core.callback import Callback
from luzpy.distributed.accelerator import Accelerator
from luzpy.finder.lr_records import LRRecords
from luzpy.ground.arguments import check_count, is_number
from luzpy.ground.random_state import preserved_random_state
from luzpy.ground.types import Values
from luzpy.module import LuzModule

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as err:
    raise ImportError(
        "luz.sklearn needs scikit-learn, 1.6 or newer: pip install 'luzpy[sklearn]'."
    ) from err

__all__ = ["N_FEATURES", "N_OUTPUTS", "Classifier", "Regressor"]

Array = npt.NDArray[Any]
Proba = Callable[[torch.Tensor], torch.Tensor]

# The parameters of a specification that a grid can vary, as `opt_hparams__lr`.
_NESTED = ("hparams", "opt_hparams")
_ONE_SCORE = (nn.BCEWithLogitsLoss, nn.BCELoss)
_SCORE_PER_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)


class FromData(Enum):
    """An argument of the module that is known only with the data."""

    N_FEATURES = "columns of X"
    N_OUTPUTS = "classes or columns of y"

    def __repr__(self) -> str:
        return self.name


N_FEATURES = FromData.N_FEATURES
"""As an hparam, the number of columns of X."""
N_OUTPUTS = FromData.N_OUTPUTS
"""As an hparam, the number of classes (1 for a BCE loss), or of a regressor's columns of y."""


class _Estimator(BaseEstimator):
    def __init__(
        self,
        model: LuzModule,
        *,
        epochs: int | tuple[int, int] = 10,
        batch_size: int = 32,
        valid_data: float | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = False,
        seed: int | None = None,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.valid_data = valid_data
        self.callbacks = callbacks
        self.accelerator = accelerator
        self.verbose = verbose
        self.seed = seed

    def get_params(self, deep: bool = True) -> Values:
        """The parameters by name; with `deep` also `hparams__…` and `opt_hparams__…`."""
        params = cast(Values, super().get_params(deep=False))
        if deep and isinstance(self.model, LuzModule):
            for kind in _NESTED:
                for name, value in getattr(self.model, kind).items():
                    params[f"{kind}__{name}"] = value
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `opt_hparams__lr=0.1` sets `model.set_opt_hparams(lr=0.1)`."""
        nested: dict[str, Values] = {kind: {} for kind in _NESTED}
        for key in list(params):
            kind, delimiter, name = key.partition("__")
            if delimiter and kind in nested:
                nested[kind][name] = params.pop(key)
        super().set_params(**params)
        for kind, values in nested.items():
            if values:
                self.model = getattr(self.model, f"set_{kind}")(**values)
        return self

    def fit(self, X: Any, y: Any) -> Self:
        """Train the model from its own initial weights."""
        model, data = self._prepare(X, y)
        self.fitted_ = model.fit(
            data,
            self.epochs,
            self.callbacks,
            self.valid_data,
            self.accelerator,
            self.verbose,
            seed=self.seed,
            dataloader_options=self._options(len(data[0]), self.valid_data or 0),
        )
        return self

    def lr_finder(self, X: Any, y: Any, **options: Any) -> LRRecords:
        """Vary the learning rate on the data as `fit` would see it.

        Args:
            X: The features, one row per sample, as transformed by a pipeline's earlier steps.
            y: The targets.
            **options: As in `luz.lr_finder`.

        Returns:
            The records; the estimator does not change.
        """
        model, data = cast(Self, clone(self))._prepare(X, y)
        options.setdefault("accelerator", self.accelerator)
        options.setdefault("verbose", self.verbose)
        options.setdefault("dataloader_options", self._options(len(data[0])))
        return model.lr_finder(data, **options)

    def _options(self, rows: int, held_out: float = 0) -> Values:
        """Never a batch larger than the data: it would be dropped as incomplete."""
        check_count("batch_size", self.batch_size)
        return {"batch_size": min(self.batch_size, rows - int(rows * held_out))}

    def _prepare(self, X: Any, y: Any) -> tuple[LuzModule, tuple[Array, Array]]:
        """The specification with its sizes, and the data in the form that it trains on."""
        if not isinstance(self.model, LuzModule):
            raise TypeError(f"`model` must be a specification from `setup`, got {self.model!r}.")
        if self.valid_data is not None and not is_number(self.valid_data):
            raise TypeError(
                f"`valid_data` must be a fraction or None, got {type(self.valid_data).__name__}."
            )
        x, y = self._validate(X, y)
        n_outputs, target = self._encode(y)
        sizes = {N_FEATURES: x.shape[1], N_OUTPUTS: n_outputs}
        given = {
            name: sizes[value]
            for name, value in self.model.hparams.items()
            if isinstance(value, FromData)
        }
        model = self.model.set_hparams(**given)
        return model, (x, self._shape_target(target, _output_shape(model, x)))

    def _validate(self, X: Any, y: Any, **options: Any) -> tuple[Array, Array]:
        return cast(Any, validate_data)(self, X, y, dtype=_dtype(), allow_nd=True, **options)

    def _encode(self, y: Array) -> tuple[int, Array]:
        """How many outputs the targets ask for, and the targets as numbers."""
        raise NotImplementedError

    def _shape_target(self, target: Array, output: tuple[int, ...]) -> Array:
        """The targets in the shape of what the model gives for a row."""
        raise NotImplementedError

    def _outputs(self, X: Any) -> torch.Tensor:
        check_is_fitted(self, "fitted_")
        x = cast(Any, validate_data)(self, X, dtype=_dtype(), allow_nd=True, reset=False)
        return self.fitted_.predict(
            x,
            accelerator=self.accelerator,
            verbose=self.verbose,
            dataloader_options={"batch_size": self.batch_size},
        )

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.non_deterministic = self.seed is None
        return tags


@final
class Classifier(ClassifierMixin, _Estimator):
    """A scikit-learn classifier, for pipelines, grid search and cross-validation.

    X becomes floats. The classes become 0, 1, ...: int64 for a model with one score per class, (N,
    C); floats in the shape of the output for a model with a single score, (N) or (N, 1).

    Args:
        model: A specification from `setup`. In the module's hparams, `luz.sklearn.N_FEATURES`
            becomes the number of columns of X, and `luz.sklearn.N_OUTPUTS` the number of classes (1
            for BCELoss and BCEWithLogitsLoss).
        epochs: As in `fit`.
        batch_size: Rows per batch; all of them if there are fewer.
        valid_data: A fraction in (0, 1) of the rows for validation after every epoch.
        callbacks: Callbacks in addition to the defaults.
        accelerator: Where to train and predict.
        verbose: Whether to print.
        seed: Makes shuffling and dropout repeatable. The initial weights are the model's.
        proba: Converts the model's outputs, in float64, to probabilities: of class 1, (N) or (N,
            1), or of each class, (N, C). By default the outputs themselves for BCELoss, `torch.exp`
            for NLLLoss; for any other loss, the sigmoid of one score or the softmax of several.

    `get_params` and `set_params` give access to what `set_hparams` and `set_opt_hparams` set, as
    `hparams__width` and `opt_hparams__lr`.

    After `fit`, `fitted_` is luzpy's fitted model, `classes_` are the classes, sorted, and
    `n_features_in_` and `feature_names_in_` the columns that X had.

    Examples:
        >>> import luzpy as luz, torch
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> sizes = {"in_features": luz.sklearn.N_FEATURES, "out_features": luz.sklearn.N_OUTPUTS}
        >>> model = luz.setup(torch.nn.Linear, torch.nn.CrossEntropyLoss(), torch.optim.Adam)
        >>> model = model.set_hparams(**sizes).set_opt_hparams(lr=0.1)
        >>> pipeline = make_pipeline(StandardScaler(), luz.sklearn.Classifier(model))
        >>> X, y = load_iris(return_X_y=True)
        >>> pipeline.fit(X, y).score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        model: LuzModule,
        *,
        epochs: int | tuple[int, int] = 10,
        batch_size: int = 32,
        valid_data: float | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = False,
        seed: int | None = None,
        proba: Proba | None = None,
    ) -> None:
        super().__init__(
            model,
            epochs=epochs,
            batch_size=batch_size,
            valid_data=valid_data,
            callbacks=callbacks,
            accelerator=accelerator,
            verbose=verbose,
            seed=seed,
        )
        self.proba = proba

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, (N, C), in the order of `classes_`."""
        outputs = self._outputs(X).double()
        proba = (self.proba or _proba_of(self.fitted_.spec.loss))(outputs).numpy()
        proba = proba.reshape(len(outputs), -1)
        if proba.shape[1] == 1:
            proba = np.hstack([1 - proba, proba])
        if proba.shape[1] != len(self.classes_):
            raise ValueError(
                f"`proba` must give a column for each of {len(self.classes_)} classes, got "
                f"{proba.shape[1]}."
            )
        return proba

    def predict(self, X: Any) -> Array:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def _encode(self, y: Array) -> tuple[int, Array]:
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes == 1:
            raise ValueError(f"`y` must have two classes or more, got one class, {y[0]}.")
        return 1 if isinstance(self.model.loss, _ONE_SCORE) else n_classes, target

    def _shape_target(self, target: Array, output: tuple[int, ...]) -> Array:
        n_classes = len(self.classes_)
        is_one_score = math.prod(output) == 1 and not isinstance(self.model.loss, _SCORE_PER_CLASS)
        if is_one_score and n_classes == 2:
            return target.reshape(-1, *output).astype(np.float64)
        if not output or output[0] != n_classes:
            raise ValueError(
                f"`model` must give one score for each of the {n_classes} classes of `y`, got "
                f"outputs of shape {('N', *output)}. The hparam luz.sklearn.N_OUTPUTS fits, with "
                "CrossEntropyLoss."
            )
        return target


@final
class Regressor(RegressorMixin, _Estimator):
    """A scikit-learn regressor, for pipelines, grid search and cross-validation.

    X and y become floats, y in the shape of the model's output: (N) and (N, 1) are never mixed.
    `predict` returns float64 in the shape of the y passed to `fit`. If targets are far from the
    scale of 1, use scikit-learn's `TransformedTargetRegressor` to scale them.

    Args:
        model: A specification from `setup`. In the module's hparams, `luz.sklearn.N_FEATURES`
            becomes the number of columns of X, and `luz.sklearn.N_OUTPUTS` the number of columns of
            y.
        epochs: As in `fit`.
        batch_size: Rows per batch; all of them if there are fewer.
        valid_data: A fraction in (0, 1) of the rows for validation after every epoch.
        callbacks: Callbacks in addition to the defaults.
        accelerator: Where to train and predict.
        verbose: Whether to print.
        seed: Makes shuffling and dropout repeatable. The initial weights are the model's.

    `get_params` and `set_params` give access to what `set_hparams` and `set_opt_hparams` set, as
    `hparams__width` and `opt_hparams__lr`.

    After `fit`, `fitted_` is luzpy's fitted model, and `n_features_in_` and `feature_names_in_` are
    the columns that X had.
    """

    def predict(self, X: Any) -> Array:
        """The prediction for each row, in the shape of the y of `fit`."""
        outputs = self._outputs(X).double().numpy()
        return outputs.reshape(len(outputs), *self._target_shape)

    def _validate(self, X: Any, y: Any, **options: Any) -> tuple[Array, Array]:
        return super()._validate(X, y, multi_output=True, y_numeric=True)

    def _encode(self, y: Array) -> tuple[int, Array]:
        self._target_shape = y.shape[1:]
        return math.prod(self._target_shape), y.astype(np.float64)

    def _shape_target(self, target: Array, output: tuple[int, ...]) -> Array:
        if math.prod(output) != math.prod(self._target_shape):
            raise ValueError(
                f"`model` must give as many numbers a row as `y` has, got outputs of shape "
                f"{('N', *output)} for `y` of shape {('N', *self._target_shape)}. The hparam "
                "luz.sklearn.N_OUTPUTS fits."
            )
        return target.reshape(-1, *output)

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _dtype() -> str:
    """NumPy's name of torch's default float dtype, or the nearest that it has."""
    name = str(torch.get_default_dtype()).removeprefix("torch.")
    return "float32" if name == "bfloat16" else name


def _output_shape(model: LuzModule, x: Array) -> tuple[int, ...]:
    """What the model gives for one row: the loss alone would not say, it may be any function."""
    module = model().eval()
    device = next((parameter.device for parameter in module.parameters()), None)
    rows = torch.tensor(x[:2], dtype=torch.get_default_dtype(), device=device)
    with torch.no_grad(), preserved_random_state():
        output: Any = module(rows)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"`model` must give a tensor, got {type(output).__name__}.")
    return tuple(output.shape[1:])


def _proba_of(loss: Any) -> Proba:
    if isinstance(loss, nn.BCELoss):
        return torch.nn.Identity()
    if isinstance(loss, nn.NLLLoss):
        return torch.exp
    return lambda outputs: outputs.softmax(dim=1) if outputs[0].numel() > 1 else outputs.sigmoid()
