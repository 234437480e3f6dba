"""A loss and its target that do not fit: what nobody sees is found, what torch says explained."""

import math

import pytest
import torch
from models import CountingLoss, line, regression
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import luzpy as luz

X, Y = line()
LABELS = torch.randint(3, (64,), generator=torch.Generator().manual_seed(2))


class Flat(nn.Linear):
    """A module whose output has no column."""

    def __init__(self):
        super().__init__(3, 1)

    def forward(self, x):
        return super().forward(x).squeeze(1)


class Constant(nn.Module):
    """One number for every row, at first."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.bias.expand(len(x), 1)


def squared(input, target):
    return ((input - target) ** 2).mean()


def root(input, target):
    return squared(input, target).sqrt()


class Squared(nn.Module):
    def forward(self, input, target):
        return squared(input, target)


class OwnSquared(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def loss(self, input, target):
        return squared(input, target)


def fit(data=(X, Y), spec=None, epochs=1, **options):
    return (spec or regression()).fit(data, epochs, verbose=False, **options)


def said(err):
    return "\n".join([str(err), *getattr(err, "__notes__", [])])


# Shapes ----------------------------------------------------------------------------------------

CROSSED = [
    nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss(),
    nn.SoftMarginLoss(), nn.MSELoss(reduction="sum"), functional.mse_loss, functional.l1_loss,
    squared, root, Squared(), luz.nn.MixupLoss(nn.MSELoss()),
    lambda input, target: (input - target).abs().sum(),
]  # fmt: skip


@pytest.mark.parametrize("loss", CROSSED)
@pytest.mark.parametrize("module", [lambda: nn.Linear(3, 1), Flat])
def test_a_column_against_a_vector_is_an_error_at_the_first_batch(loss, module):
    target = Y if module is Flat else Y[:, 0]
    shapes = ["(32,)", "(32, 1)"] if module is Flat else ["(32, 1)", "(32,)"]
    with pytest.raises(ValueError, match=r"`loss` must get .* of one shape") as caught:
        fit((X, target), regression(module, loss=loss))
    assert f"got {shapes[0]} and {shapes[1]}" in str(caught.value)
    assert "unsqueeze(1)" in str(caught.value)


def test_so_is_one_in_the_modules_own_loss_and_of_a_model_that_is_constant():
    own = luz.setup(OwnSquared, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    for spec in (own, regression(Constant), regression(Constant, loss=squared)):
        with pytest.raises(ValueError, match=r"\(32, 1\) and \(32,\)"):
            fit((X, Y[:, 0]), spec)


def test_the_first_batch_of_validation_is_looked_at_too():
    with pytest.raises(ValueError, match=r"\(32, 1\) and \(32,\)"):
        fit(valid_data=(X, Y[:, 0]))


def test_so_is_the_first_of_evaluate():
    with pytest.raises(ValueError, match=r"\(32, 1\) and \(32,\)"):
        fit().evaluate((X, Y[:, 0]))


@pytest.mark.parametrize("runs", [1, 2])
def test_so_is_the_finders(runs):
    with pytest.raises(ValueError, match=r"\(32, 1\) and \(32,\)"):
        regression().lr_finder((X, Y[:, 0]), steps=5, runs=runs, verbose=False)


def test_so_is_a_mixed_target():
    spec = regression(loss=luz.nn.MixupLoss(nn.MSELoss()))
    with pytest.raises(ValueError, match=r"\(32, 1\) and \(32,\)"):
        fit((X, Y[:, 0]), spec, callbacks=[luz.callbacks.Mixup()])


def test_only_the_first_batch_is_looked_at():
    seen = []

    def loss(input, target):
        seen.append(len(input))
        return squared(input.flatten(), target)

    # A loss that reshapes what it gets is called three times to see that it does.
    fit((X, Y[:, 0]), regression(loss=loss), epochs=3)
    assert len(seen) == 3 * 2 + 3


def flattening(input, target):
    return squared(input.flatten(), target.flatten())


def row_means(input, target):
    return squared(input.mean(-1), target)


def like_target(input, target):
    return squared(input.view_as(target), target)


def binary(input, target):
    return functional.cross_entropy(torch.cat([-input, input], 1), (target > 0).long())


@pytest.mark.parametrize("loss", [flattening, row_means, like_target, binary])
def test_a_loss_that_wants_such_shapes_is_left_alone(loss):
    fitted = fit((X, Y[:, 0]), regression(loss=loss))
    assert math.isfinite(fitted.records["metrics"]["train"][0]["loss"])


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(), functional.cross_entropy, nn.NLLLoss(), nn.MultiMarginLoss()],
)
def test_losses_of_class_numbers_want_a_column_and_a_vector(loss):
    labels = torch.zeros(64, dtype=torch.long)
    assert len(fit((X, labels), regression(loss=loss)).records["metrics"]["train"]) == 1


def test_one_row_is_not_compared_with_others():
    spec = regression(loss=squared)
    options = {"batch_size": 1}
    assert fit((X, Y[:, 0]), spec, dataloader_options=options).stopped == "completed"


def test_looking_changes_neither_the_loss_nor_the_random_state():
    class Noisy(CountingLoss):
        def forward(self, input, target):
            return super().forward(input.flatten(), target) + 0 * torch.rand(())

    loss, copies, states = Noisy(), [], []
    look = luz.Callback.from_functions(on_fit_begin=lambda ctx: copies.append(ctx.loss_fn))
    for module in (lambda: nn.Linear(3, 1), Flat):  # of the second's output nothing is asked
        torch.manual_seed(1)
        fit((X, Y[:, 0]), regression(module, loss=loss, seed=1), callbacks=[look])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert [copied.calls for copied in copies] == [2, 2]


# No target -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [X, TensorDataset(X), (X,)])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss(), functional.l1_loss])
def test_a_missing_target_is_said(data, loss):
    with pytest.raises(ValueError, match=r"`data` must give a target .* give \(x, y\)"):
        fit(data, regression(loss=loss))


def test_a_missing_target_of_validation_is_said():
    with pytest.raises(ValueError, match=r"`valid_data` must give a target .* give \(x, y\)"):
        fit(valid_data=X)
    with pytest.raises(ValueError, match=r"`data` must give a target .* give \(x, y\)"):
        fit().evaluate(X)


def test_a_loss_of_ones_own_that_wants_a_target_keeps_its_error_and_says_what_is_missing():
    with pytest.raises(TypeError, match="NoneType") as caught:
        fit(X, regression(loss=squared))
    assert "in the loss, at epoch 1" in said(caught.value)
    assert "no target: give (x, y)" in said(caught.value)


def test_a_loss_that_wants_none_gets_none():
    def reconstruction(input, target):
        return input.square().mean()

    assert fit(X, regression(loss=reconstruction)).stopped == "completed"

    def failing(input, target):
        raise KeyError("of its own")

    with pytest.raises(KeyError) as caught:
        fit(X, regression(loss=failing))
    assert "target" not in said(caught.value)


# What torch says of targets --------------------------------------------------------------------


def classifier(loss):
    return regression(lambda: nn.Linear(3, 3), loss=loss)


@pytest.mark.parametrize(
    ("target", "spec", "parts"),
    [
        ((Y > 0).long(), regression(loss=nn.BCEWithLogitsLoss()), ["`y.float()`", "torch.int64"]),
        (LABELS.float(), classifier(nn.CrossEntropyLoss()), ["`y.long()`", "torch.float32"]),
        (LABELS.float(), classifier(nn.MultiMarginLoss()), ["`y.long()`", "torch.float32"]),
        (LABELS.int(), classifier(nn.CrossEntropyLoss()), ["`y.long()`", "torch.int32"]),
        (LABELS[:, None], classifier(nn.CrossEntropyLoss()), ["`y.squeeze(1)`", "[32, 1]"]),
        (LABELS[:, None], classifier(nn.NLLLoss()), ["`y.squeeze(1)`", "[32, 1]"]),
    ],
)
def test_the_note_says_what_to_write(target, spec, parts):
    with pytest.raises(RuntimeError) as caught:
        fit(TensorDataset(X, target), spec)
    for part in ["in the loss, at epoch 1, iteration 1 (training).", *parts]:
        assert part in said(caught.value)


def raising(err):
    def failing(input, target):
        raise err

    return failing


def test_what_cuda_says_of_int32_classes_is_known():
    said_there = "\"nll_loss_forward_reduce_cuda_kernel_2d_index\" not implemented for 'Int'"
    with pytest.raises(NotImplementedError) as caught:
        fit(TensorDataset(X, LABELS.int()), classifier(raising(NotImplementedError(said_there))))
    assert "`y.long()`" in said(caught.value)


def test_what_cuda_reports_late_is_said_to_be_late():
    late = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as caught:
        fit(TensorDataset(X, LABELS), classifier(raising(late)))
    assert "`accelerator=luz.Accelerator(cpu=True)`, in a new process" in said(caught.value)


def test_other_errors_of_a_loss_get_no_advice():
    with pytest.raises(RuntimeError) as caught:
        fit(spec=regression(loss=raising(RuntimeError("something else"))))
    assert caught.value.__notes__[0] == "luzpy: in the loss, at epoch 1, iteration 1 (training)."
