"""scikit-learn takes the estimators as its own, and they fit what luz fits."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_diabetes, load_iris, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import luzpy as luz
from luzpy.sklearn import N_FEATURES, N_OUTPUTS, Classifier, Regressor

IRIS = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
TWO = make_blobs(120, 2, centers=[(-2, 0), (2, 0)], random_state=1)


class MLP(nn.Sequential):
    """With what makes a fit depend on the order of rows and on dropout."""

    def __init__(self, inputs, outputs, width=16):
        super().__init__(
            nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, outputs)
        )


class OneNumber(nn.Module):
    """Gives (N), not (N, 1)."""

    def __init__(self, inputs):
        super().__init__()
        self.linear = nn.Linear(inputs, 1)

    def forward(self, x):
        return self.linear(x).squeeze(-1)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def mlp(loss=None, lr=0.02):
    model = luz.setup(MLP, loss or nn.CrossEntropyLoss(), torch.optim.Adam, seed=1)
    return model.set_hparams(inputs=N_FEATURES, outputs=N_OUTPUTS).set_opt_hparams(lr=lr)


def linear(loss, lr=0.1, **hparams):
    sizes = {"in_features": N_FEATURES, "out_features": N_OUTPUTS, **hparams}
    model = luz.setup(nn.Linear, loss, torch.optim.Adam, seed=1)
    return model.set_hparams(**sizes).set_opt_hparams(lr=lr)


def one_number(loss, lr=0.1):
    model = luz.setup(OneNumber, loss, torch.optim.Adam, seed=1)
    return model.set_hparams(inputs=N_FEATURES).set_opt_hparams(lr=lr)


def fitted_by_luz(model, data, seed, epochs, batch_size=32, valid_data=None):
    """The same fit without the estimator."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    options = {"batch_size": batch_size}
    fitted = model.fit(
        data, epochs, valid_data=valid_data, verbose=False, dataloader_options=options
    )
    torch.set_rng_state(before)
    return fitted


# scikit-learn's own checks --------------------------------------------------------------------

# Without a seed `check_fit_idempotent` would fail: two fits shuffle the rows differently.
CHECKED = [
    Classifier(mlp(), epochs=30, seed=1),
    Regressor(mlp(nn.MSELoss()), epochs=30, seed=1),
]


@parametrize_with_checks(CHECKED)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# The same fit ---------------------------------------------------------------------------------


def test_a_classifier_is_luzs_fit_to_the_bit():
    X, y = IRIS
    classifier = Classifier(mlp(), epochs=5, batch_size=16, valid_data=0.2, seed=3)
    classifier.fit(X, NAMES[y])
    x = torch.tensor(X, dtype=torch.float32)
    model = mlp().set_hparams(inputs=4, outputs=3)
    fitted = fitted_by_luz(model, (x, torch.tensor(y)), 3, 5, 16, valid_data=0.2)
    logits = fitted.predict(x, verbose=False, dataloader_options={"batch_size": 16})
    assert classifier.fitted_.records["metrics"] == fitted.records["metrics"]
    assert np.array_equal(classifier.predict_proba(X), logits.double().softmax(1).numpy())
    assert np.array_equal(classifier.predict(X), NAMES[logits.argmax(1).numpy()])
    assert list(classifier.classes_) == list(NAMES)
    assert classifier.n_features_in_ == 4


def test_a_regressor_is_luzs_fit_to_the_bit():
    X, y = load_diabetes(return_X_y=True)
    y = y / 100
    regressor = Regressor(mlp(nn.MSELoss()), epochs=5, seed=3).fit(X, y)
    x = torch.tensor(X, dtype=torch.float32)
    data = x, torch.tensor(y, dtype=torch.float32)[:, None]
    fitted = fitted_by_luz(mlp(nn.MSELoss()).set_hparams(inputs=10, outputs=1), data, 3, 5)
    expected = fitted.predict(x, verbose=False)
    assert np.array_equal(regressor.predict(X), expected[:, 0].double().numpy())


def test_a_seed_repeats_a_fit_and_leaves_the_random_state_alone():
    classifier = Classifier(mlp(), epochs=2, seed=3)
    first = classifier.fit(*IRIS).predict_proba(IRIS[0])
    before = torch.get_rng_state()
    classifier.fit(*IRIS)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(classifier.predict_proba(IRIS[0]), first)
    other = classifier.set_params(seed=4).fit(*IRIS).predict_proba(IRIS[0])
    assert not np.array_equal(first, other)


def test_separable_classes_are_told_apart_as_by_scikit_learn():
    X, y = TWO
    expected = LogisticRegression().fit(X, y).score(X, y)
    assert expected == 1
    for loss in (nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()):
        assert Classifier(linear(loss), seed=1).fit(X, y).score(X, y) == expected


@pytest.mark.parametrize("model", [linear(nn.MSELoss()), one_number(nn.MSELoss())])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_least_squares_are_scikit_learns_for_each_shape_of_output_and_target(model, shape):
    generator = np.random.default_rng(1)
    X = generator.normal(size=(96, 3))
    y = X @ [1, -2, 3] + 1 + 0.1 * generator.normal(size=96)
    expected = LinearRegression().fit(X, y)
    regressor = Regressor(model, epochs=300, batch_size=96, seed=1).fit(X, y.reshape(shape))
    predictions = regressor.predict(X)
    assert predictions.shape == y.reshape(shape).shape
    assert predictions.ravel() == pytest.approx(expected.predict(X), abs=0.01)
    assert regressor.score(X, y.reshape(shape)) == pytest.approx(expected.score(X, y), abs=1e-4)


def test_several_targets_are_several_outputs():
    X = np.random.default_rng(1).normal(size=(96, 3))
    y = X @ [[1, 0], [2, 1], [0, -1]]
    regressor = Regressor(linear(nn.MSELoss()), epochs=300, batch_size=96, seed=1).fit(X, y)
    assert regressor.predict(X) == pytest.approx(y, abs=0.01)


def test_fewer_rows_than_a_batch_are_one_batch():
    X, y = IRIS[0][::15], IRIS[1][::15]  # 10 rows, of which 8 are trained on
    classifier = Classifier(mlp(), epochs=2, batch_size=32, valid_data=0.2, seed=3).fit(X, y)
    x = torch.tensor(X, dtype=torch.float32)
    model = mlp().set_hparams(inputs=4, outputs=3)
    fitted = fitted_by_luz(model, (x, torch.tensor(y)), 3, 2, 8, valid_data=0.2)
    expected = fitted.predict(x, verbose=False)
    assert torch.equal(classifier.fitted_.predict(x, verbose=False), expected)


def test_the_finder_sees_what_fit_sees():
    X, y = IRIS
    classifier = Classifier(mlp(), batch_size=16)
    torch.manual_seed(5)
    records = classifier.lr_finder(X, NAMES[y], steps=10)
    torch.manual_seed(5)
    x = torch.tensor(X, dtype=torch.float32)
    model = mlp().set_hparams(inputs=4, outputs=3)
    options = {"batch_size": 16}
    expected = model.lr_finder(
        (x, torch.tensor(y)), steps=10, verbose=False, dataloader_options=options
    )
    assert records.equals(expected)
    assert not hasattr(classifier, "classes_")


# Probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [linear(nn.BCEWithLogitsLoss()), one_number(nn.BCEWithLogitsLoss())]
)
def test_one_logit_is_the_second_class(model):
    X, y = TWO
    names = np.array(["no", "yes"])
    classifier = Classifier(model, seed=1).fit(X, names[y])
    x = torch.tensor(X, dtype=torch.float32)
    logits = classifier.fitted_.predict(x, verbose=False).double().numpy().ravel()
    yes = 1 / (1 + np.exp(-logits))
    assert classifier.predict_proba(X) == pytest.approx(np.column_stack([1 - yes, yes]), rel=1e-12)
    assert np.array_equal(classifier.predict(X), names[(logits > 0).astype(int)])


def probability(inputs):
    return nn.Sequential(nn.Linear(inputs, 1), nn.Sigmoid())


def log_probabilities(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LogSoftmax(1))


def test_what_are_probabilities_already_stay_as_they_are():
    X, y = TWO
    model = luz.setup(probability, nn.BCELoss(), torch.optim.Adam, seed=1)
    classifier = Classifier(model.set_hparams(inputs=N_FEATURES), seed=1).fit(X, y)
    x = torch.tensor(X, dtype=torch.float32)
    given = classifier.fitted_.predict(x, verbose=False).double().numpy().ravel()
    assert np.array_equal(classifier.predict_proba(X)[:, 1], given)


def test_logarithms_of_probabilities_are_raised():
    model = luz.setup(log_probabilities, nn.NLLLoss(), torch.optim.Adam, seed=1)
    model = model.set_hparams(inputs=N_FEATURES, outputs=N_OUTPUTS)
    classifier = Classifier(model, seed=1).fit(*IRIS)
    x = torch.tensor(IRIS[0], dtype=torch.float32)
    given = classifier.fitted_.predict(x, verbose=False).double().numpy()
    assert classifier.predict_proba(IRIS[0]) == pytest.approx(np.exp(given), rel=1e-12)
    assert classifier.predict_proba(IRIS[0]).sum(axis=1) == pytest.approx(1, abs=1e-6)


def hinge(input, target):
    return (1 - input * (2 * target - 1)).clamp(min=0).mean()


def half_of_one_plus(margin):
    return (1 + margin.clamp(-1, 1)) / 2


def test_proba_takes_the_place_of_the_rule():
    X, y = TWO
    model = linear(hinge, out_features=1)
    classifier = Classifier(model, seed=1, proba=half_of_one_plus).fit(X, y)
    x = torch.tensor(X, dtype=torch.float32)
    margin = classifier.fitted_.predict(x, verbose=False).double().numpy().ravel()
    expected = (1 + margin.clip(-1, 1)) / 2
    assert np.array_equal(classifier.predict_proba(X)[:, 1], expected)
    with pytest.raises(ValueError, match="`proba` must give a column for each of 3 classes, got 2"):
        Classifier(mlp(), proba=lambda scores: scores[:, :2]).fit(*IRIS).predict(IRIS[0])


# Parameters -----------------------------------------------------------------------------------


def test_hyperparameters_are_parameters():
    model = mlp().set_hparams(width=4)
    classifier = Classifier(model, epochs=3)
    names = {"hparams__inputs", "hparams__outputs", "hparams__width", "opt_hparams__lr"}
    assert {name for name in classifier.get_params() if "__" in name} == names
    assert not [name for name in classifier.get_params(deep=False) if "__" in name]
    changed = classifier.set_params(hparams__width=8, opt_hparams__weight_decay=0.1, epochs=4)
    assert changed is classifier
    assert dict(classifier.model.hparams) == {
        "inputs": N_FEATURES,
        "outputs": N_OUTPUTS,
        "width": 8,
    }
    assert dict(classifier.model.opt_hparams) == {"lr": 0.02, "weight_decay": 0.1}
    assert classifier.epochs == 4
    assert model.hparams["width"] == 4
    fitted = classifier.fit(*IRIS).fitted_
    assert fitted.model[0].weight.shape == (8, 4)
    assert fitted.opt_hparams == {"lr": 0.02, "weight_decay": 0.1}


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match="Invalid parameter 'lr' for estimator Classifier"):
        Classifier(mlp()).set_params(lr=0.1)


def test_a_new_model_and_its_hyperparameters_are_set_together():
    classifier = Classifier(mlp()).set_params(model=mlp(lr=1), opt_hparams__eps=1e-3)
    assert dict(classifier.model.opt_hparams) == {"lr": 1, "eps": 1e-3}


def test_fit_changes_no_parameter():
    classifier = Classifier(mlp(), callbacks=[luz.callbacks.GradientClip()], valid_data=0.1)
    before = classifier.get_params(deep=False)
    state = pickle.dumps(before)
    classifier.fit(*IRIS)
    after = classifier.get_params(deep=False)
    assert all(after[name] is before[name] for name in before)
    assert pickle.dumps(after) == state


def test_a_clone_is_unfitted_and_fits_alike():
    classifier = Classifier(mlp(), epochs=2, seed=3).fit(*IRIS)
    copied = clone(classifier)
    assert copied.model is not classifier.model
    with pytest.raises(NotFittedError):
        copied.predict(IRIS[0])
    assert np.array_equal(
        copied.fit(*IRIS).predict_proba(IRIS[0]), classifier.predict_proba(IRIS[0])
    )


# scikit-learn's tools -------------------------------------------------------------------------


def test_a_grid_of_learning_rates_in_a_pipeline():
    X, y = IRIS
    rates = [1e-5, 0.02]
    folds = StratifiedKFold(3)
    pipeline = Pipeline([("scale", StandardScaler()), ("net", Classifier(mlp(), seed=3))])
    search = GridSearchCV(pipeline, {"net__opt_hparams__lr": rates}, cv=folds).fit(X, y)

    expected = []
    for lr in rates:
        model = mlp(lr=lr).set_hparams(inputs=4, outputs=3)
        scores = []
        for train, test in folds.split(X, y):
            mean, std = X[train].mean(axis=0), X[train].std(axis=0)
            x = torch.tensor((X - mean) / std, dtype=torch.float32)
            fitted = fitted_by_luz(model, (x[train], torch.tensor(y[train])), 3, 10)
            predicted = fitted.predict(x[test], verbose=False).argmax(1).numpy()
            scores.append((predicted == y[test]).mean())
        expected.append(np.mean(scores))
    assert search.cv_results_["mean_test_score"] == pytest.approx(expected, abs=1e-12)
    assert search.best_params_ == {"net__opt_hparams__lr": 0.02}
    assert search.best_estimator_["net"].model.opt_hparams["lr"] == 0.02


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_scores():
    pipeline = make_pipeline(StandardScaler(), Classifier(mlp(), seed=3))
    alone = cross_val_score(pipeline, *IRIS, cv=4)
    together = cross_val_score(pipeline, *IRIS, cv=4, n_jobs=2)
    assert np.array_equal(alone, together)
    assert alone.mean() > 0.85


def test_a_fitted_estimator_can_be_pickled():
    classifier = Classifier(mlp(), epochs=2).fit(*IRIS)
    loaded = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(loaded.predict_proba(IRIS[0]), classifier.predict_proba(IRIS[0]))
    assert loaded.fitted_.records == classifier.fitted_.records


def test_names_of_a_frame_are_kept():
    frame, y = load_iris(as_frame=True, return_X_y=True)
    classifier = Classifier(mlp(), epochs=2, seed=3).fit(frame, y)
    assert list(classifier.feature_names_in_) == list(frame.columns)
    expected = Classifier(mlp(), epochs=2, seed=3).fit(*IRIS).predict_proba(IRIS[0])
    assert np.array_equal(classifier.predict_proba(frame), expected)
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(frame[frame.columns[::-1]])


def test_categories_and_a_scaled_target_find_their_sizes():
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"colour": generator.choice(["r", "g", "b"], 96), "size": range(96)})
    y = 1000 * frame["colour"].map({"r": 1, "g": 2, "b": 3}) + 10 * frame["size"]
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["colour"]), (StandardScaler(), ["size"])
    )
    net = Regressor(linear(nn.MSELoss()), epochs=300, batch_size=96, seed=1)
    model = TransformedTargetRegressor(make_pipeline(columns, net), transformer=StandardScaler())
    assert model.fit(frame, y).score(frame, y) == pytest.approx(1, abs=1e-4)
    assert model.regressor_[-1].n_features_in_ == 4


def test_images_are_taken_in_their_shape():
    generator = np.random.default_rng(1)
    y = np.arange(64) % 2
    X = generator.normal(size=(64, 1, 6, 6))
    X[y == 1] += 2
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    model = luz.setup(net, nn.CrossEntropyLoss(), torch.optim.Adam, seed=1)
    classifier = Classifier(model.set_opt_hparams(lr=0.01), seed=1).fit(X, y)
    assert classifier.score(X, y) == 1


def test_early_stopping_watches_the_rows_held_out():
    stop = luz.callbacks.EarlyStopping(patience=1)
    model = linear(nn.CrossEntropyLoss(), lr=0.0)  # never better
    classifier = Classifier(model, epochs=50, valid_data=0.2, callbacks=stop).fit(*IRIS)
    assert classifier.fitted_.stopped == "early stopping"
    assert len(classifier.fitted_.records["metrics"]["valid"]) == 2


# Errors ---------------------------------------------------------------------------------------

FIT_ERRORS = {
    "no specification": (
        Classifier(nn.Linear(4, 3)),
        TypeError,
        "`model` must be a specification from `setup`",
    ),
    "validation data": (
        Classifier(mlp(), valid_data=IRIS),
        TypeError,
        "`valid_data` must be a fraction or None, got tuple",
    ),
    "too few scores": (
        Classifier(linear(nn.CrossEntropyLoss(), out_features=2)),
        ValueError,
        "one score for each of the 3 classes of `y`, got outputs of shape ('N', 2)",
    ),
    "one score of three": (
        Classifier(linear(nn.BCEWithLogitsLoss())),
        ValueError,
        "one score for each of the 3 classes of `y`, got outputs of shape ('N', 1)",
    ),
    "too many numbers": (
        Regressor(linear(nn.MSELoss(), out_features=2)),
        ValueError,
        "got outputs of shape ('N', 2) for `y` of shape ('N',)",
    ),
    "no tensor": (
        Classifier(luz.setup(Pair(4, 3), nn.CrossEntropyLoss(), torch.optim.Adam)),
        TypeError,
        "`model` must give a tensor, got tuple",
    ),
    "no batch": (
        Classifier(mlp(), batch_size=0),
        ValueError,
        "`batch_size` must be a positive integer, got 0",
    ),
}


@pytest.mark.parametrize(("estimator", "kind", "message"), FIT_ERRORS.values(), ids=FIT_ERRORS)
def test_an_error_says_the_argument_the_rule_and_the_value(estimator, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        estimator.fit(*IRIS)


def test_one_score_for_two_classes_is_no_score_per_class():
    with pytest.raises(ValueError, match="one score for each of the 2 classes"):
        Classifier(linear(nn.CrossEntropyLoss(), out_features=1)).fit(*TWO)


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="`y` must have two classes or more, got one class, a"):
        Classifier(mlp()).fit(IRIS[0], np.full(150, "a"))


# Imports --------------------------------------------------------------------------------------


def python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True)


def test_scikit_learn_is_imported_only_when_it_is_used():
    code = "import sys, luzpy as luz; before = 'sklearn' in sys.modules; luz.sklearn.Classifier"
    done = python(f"{code}; print(before, 'sklearn' in sys.modules, 'sklearn' in dir(luz))")
    assert done.stdout == "False True True\n", done.stderr


def test_without_scikit_learn_the_error_says_what_to_install():
    done = python("import sys; sys.modules['sklearn'] = None; import luzpy; luzpy.sklearn")
    assert done.returncode == 1
    message = "ImportError: luz.sklearn needs scikit-learn, 1.6 or newer: pip install "
    assert done.stderr.splitlines()[-1] == f"{message}'luzpy[sklearn]'."
