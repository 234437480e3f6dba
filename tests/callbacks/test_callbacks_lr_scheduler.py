"""`LRScheduler` against torch's schedulers, stepped by hand."""

import gc
import weakref

import pytest
import torch
from models import TwoParts, regression
from torch import nn
from torch.optim import lr_scheduler

import luzpy as luz

DATA = (torch.ones(12, 2), torch.ones(12, 1))
LRScheduler = luz.callbacks.LRScheduler


def rates_of(callback, epochs, model=None, each="on_train_batch_begin", **kwargs):
    """The learning rates in force, by optimizer; three batches an epoch."""
    seen = {}

    def look(ctx):
        for name, opt in ctx.optimizers.items():
            seen.setdefault(name, []).append(opt.param_groups[0]["lr"])

    if model is None:
        model = regression(2)
    spy = luz.Callback.from_functions(**{each: look})
    model.set_opt_hparams(lr=0.5).fit(
        DATA,
        epochs,
        callbacks=[callback, spy],
        verbose=False,
        **{"dataloader_options": {"batch_size": 4}} | kwargs,
    )
    return seen


def by_hand(make, steps):
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(opt)
    rates = []
    for _ in range(steps):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return rates


SCHEDULES = [
    (lr_scheduler.StepLR, (2,), {"gamma": 0.1}),
    (lr_scheduler.CosineAnnealingLR, (), {"T_max": 4}),
    (lr_scheduler.MultiplicativeLR, (), {"lr_lambda": lambda epoch: 0.5}),
]


@pytest.mark.parametrize(("kind", "args", "kwargs"), SCHEDULES)
def test_by_epoch_the_rate_is_torchs(kind, args, kwargs):
    # R: test-callbacks.R, "callback lr scheduler"
    rates = rates_of(LRScheduler(kind, *args, **kwargs), 4)
    expected = by_hand(lambda opt: kind(opt, *args, **kwargs), 4)
    assert rates == {"opt": [rate for rate in expected for _ in range(3)]}


@pytest.mark.parametrize(("kind", "args", "kwargs"), SCHEDULES)
def test_by_batch_the_rate_is_torchs(kind, args, kwargs):
    rates = rates_of(LRScheduler(kind, *args, call_on="on_train_batch_end", **kwargs), 2)
    assert rates == {"opt": by_hand(lambda opt: kind(opt, *args, **kwargs), 6)}


def test_a_function_may_make_the_scheduler():
    def warmed(opt, start):
        warmup = lr_scheduler.LinearLR(opt, start, total_iters=2)
        return lr_scheduler.SequentialLR(opt, [warmup, lr_scheduler.ConstantLR(opt)], [2])

    rates = rates_of(LRScheduler(warmed, 0.1, call_on="on_train_batch_end"), 2)
    assert rates == {"opt": by_hand(lambda opt: warmed(opt, 0.1), 6)}


def test_opt_name_chooses_the_optimizer():
    # R luz's `opt_name` always aborts
    rates = rates_of(
        LRScheduler(lr_scheduler.StepLR, 1, opt_name="two"), 3, regression(TwoParts(2), None)
    )
    assert rates["one"] == [0.5] * 9
    assert rates["two"] == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005] * 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "`opt_name` must say which optimizer to schedule, one of 'one', 'two', got None"),
        ("three", "`opt_name` must be one of 'one', 'two', got 'three'"),
    ],
)
def test_several_optimizers_need_one_of_their_names(name, text):
    with pytest.raises(luz.LuzError, match=text):
        rates_of(
            LRScheduler(lr_scheduler.StepLR, 1, opt_name=name),
            1,
            regression(TwoParts(2), None),
        )


# Which hook, where none is given ------------------------------------------------------------------

ONE_CYCLE = {"max_lr": 0.1, "total_steps": 6}
CYCLIC = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 2, "cycle_momentum": False}


@pytest.mark.parametrize(
    ("kind", "kwargs"), [(lr_scheduler.OneCycleLR, ONE_CYCLE), (lr_scheduler.CyclicLR, CYCLIC)]
)
@pytest.mark.parametrize("wrap", [lambda kind: kind, lambda kind: lambda o, **kw: kind(o, **kw)])
def test_schedules_that_go_by_batch_step_by_batch(kind, kwargs, wrap):
    callback = LRScheduler(wrap(kind), **kwargs)
    rates = rates_of(callback, 2)
    assert rates == {"opt": by_hand(lambda opt: kind(opt, **kwargs), 6)}
    assert rates_of(callback, 2) == rates
    assert callback.call_on == "on_train_batch_end"


def test_a_function_that_makes_another_steps_by_epoch():
    rates = rates_of(LRScheduler(lambda opt: lr_scheduler.StepLR(opt, 1)), 2)
    assert rates["opt"] == pytest.approx([0.5] * 3 + [0.05] * 3)


def test_one_cycle_steps_by_epoch_if_told_to():
    callback = LRScheduler(lr_scheduler.OneCycleLR, **ONE_CYCLE, call_on="on_epoch_end")
    expected = by_hand(lambda opt: lr_scheduler.OneCycleLR(opt, **ONE_CYCLE), 2)
    assert rates_of(callback, 2)["opt"] == [expected[0]] * 3 + [expected[1]] * 3


# The rates in the records ------------------------------------------------------------------------


def records_of(*callbacks, model=None, epochs=2):
    model = regression(2, lr=0.5) if model is None else model
    return model.fit(
        DATA, epochs, list(callbacks), verbose=False, dataloader_options={"batch_size": 4}
    ).records


def test_a_rate_that_stays_is_in_the_records_of_every_epoch():
    assert records_of()["lr"] == {"opt": [[0.5], [0.5]]}


def test_the_rate_of_an_epoch_is_the_one_it_was_trained_with():
    records = records_of(LRScheduler(lr_scheduler.StepLR, 1, gamma=0.5), epochs=3)
    assert records["lr"] == {"opt": [[0.5], [0.25], [0.125]]}


@pytest.mark.parametrize(
    ("call_on", "first"),
    [("on_train_batch_end", 0), ("on_train_batch_after_step", 0), ("on_train_batch_begin", 1)],
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_by_batch_every_rate_of_a_step_is_there(call_on, first):
    kind = lr_scheduler.ExponentialLR
    records = records_of(LRScheduler(kind, 0.5, call_on=call_on))
    rates = [0.5 * 0.5**power for power in range(first, first + 6)]
    assert records["lr"] == {"opt": [[rates[:3]], [rates[3:]]]}


class Groups(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def set_optimizers(self, lr):
        groups = [{"params": [self.weight]}, {"params": [self.bias], "lr": torch.tensor(lr / 2)}]
        return {"first": torch.optim.SGD(groups, lr), "second": torch.optim.SGD([self.bias], lr)}


def test_every_optimizer_and_group_is_in_the_records():
    model = regression(Groups, None, lr=0.5)
    schedule = LRScheduler(lr_scheduler.StepLR, 1, gamma=0.5, opt_name="first")
    assert records_of(schedule, model=model)["lr"] == {
        "first": [[0.5, 0.25], [0.25, 0.125]],
        "second": [[0.5], [0.5]],
    }


def test_an_optimizer_without_learning_rates_has_none():
    class Fixed(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self, closure=None):
            return None

    model = luz.setup(lambda: nn.Linear(2, 1), nn.MSELoss(), Fixed)
    assert records_of(model=model)["lr"] == {"opt": [[], []]}


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_has_every_rate_once(tmp_path):
    def run(fails, name):
        def fail(ctx):
            if fails and (ctx.epoch, ctx.iter) == (2, 2):
                raise RuntimeError("on purpose")

        return records_of(
            LRScheduler(lr_scheduler.ExponentialLR, 0.5, call_on="on_train_batch_end"),
            luz.Callback.from_functions(on_train_batch_begin=fail),
            luz.callbacks.AutoResume(tmp_path / name, every_n_batches=1),
            model=regression(2, lr=0.5, seed=1),
        )

    unbroken = run(False, "unbroken.pt")
    with pytest.raises(RuntimeError, match="on purpose"):
        run(True, "broken.pt")
    assert run(False, "broken.pt")["lr"] == unbroken["lr"]
    assert len(unbroken["lr"]["opt"][1][0]) == 3


class Spy:
    """A scheduler that notes what it is told."""

    def __init__(self, opt, told):
        self.told = told

    def step(self, metrics):
        self.told.append(metrics)


class Scripted(luz.Callback):
    def on_train_end(self, ctx):
        ctx.log_metric("score", 10.0 + ctx.epoch)

    def on_valid_end(self, ctx):
        ctx.log_metric("score", 20.0 + ctx.epoch)


def told_to(valid_data, monitor):
    told, frames = [], []
    fitted = regression(2).fit(
        DATA,
        3,
        callbacks=[Scripted(), LRScheduler(Spy, told, monitor=monitor)],
        valid_data=valid_data,
        verbose=False,
        dataloader_options={"batch_size": 5, "drop_last": False},
    )
    frames = fitted.get_metrics()
    return told, lambda split: frames.query(f"set == '{split}' and metric == 'loss'")[
        "value"
    ].tolist()


def test_a_scheduler_that_wants_metrics_gets_the_epochs_valid_loss():
    # R luz gives it the last batch's loss
    told, losses = told_to((torch.rand(12, 2), torch.rand(12, 1)), None)
    assert told == losses("valid")


def test_without_valid_data_it_gets_the_epochs_train_loss():
    told, losses = told_to(None, None)
    assert told == losses("train")


@pytest.mark.parametrize(
    ("monitor", "expected"), [("train_score", [11, 12, 13]), ("valid_Score", [21, 22, 23])]
)
def test_it_gets_the_metric_asked_for(monitor, expected):
    assert told_to(DATA, monitor)[0] == expected


def test_reduce_on_plateau_reduces_where_torch_does():
    # R: test-callbacks.R, "callback lr scheduler", its second part
    class Frozen(luz.Callback):
        def on_fit_begin(self, ctx):
            ctx.step_opt = lambda opt: None

    kwargs = {"patience": 2, "threshold": 0.1}
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, **kwargs)
    expected = []
    for _ in range(8):
        expected.append(opt.param_groups[0]["lr"])
        scheduler.step(1.0)
    plateau = LRScheduler(lr_scheduler.ReduceLROnPlateau, **kwargs)
    model = luz.setup(
        lambda: nn.Linear(2, 1), nn.MSELoss(), lambda *args, **kwargs: Still(*args, **kwargs)
    )
    assert len(set(expected)) > 2
    assert rates_of(plateau, 8, model, each="on_epoch_begin") == {"opt": expected}


class Still(torch.optim.SGD):
    """Never moves, so that the loss is on a plateau."""

    def step(self, closure=None):
        pass


def test_unknown_monitor_of_a_plateau_is_an_error():
    plateau = LRScheduler(lr_scheduler.ReduceLROnPlateau, monitor="train_acc")
    with pytest.raises(
        luz.LuzError, match="`monitor` must be one of 'train_loss', got 'train_acc'"
    ):
        rates_of(plateau, 2)
    plateau = LRScheduler(lr_scheduler.ReduceLROnPlateau, monitor="valid_loss")
    with pytest.raises(luz.LuzError, match="no `valid_data`"):
        rates_of(plateau, 2)


def test_a_plateau_by_batch_is_an_error():
    plateau = LRScheduler(lr_scheduler.ReduceLROnPlateau, call_on="on_train_batch_end")
    with pytest.raises(
        luz.LuzError, match=r"`call_on` must be 'on_epoch_end'.*'on_train_batch_end'"
    ):
        rates_of(plateau, 1)


def test_one_instance_starts_afresh_in_every_run():
    callback = LRScheduler(lr_scheduler.StepLR, 1)
    first, second = (rates_of(callback, 2) for _ in range(2))
    assert first == second == {"opt": [0.5] * 3 + [0.05] * 3}


def test_state_is_the_schedulers_and_carries_over():
    first = LRScheduler(lr_scheduler.StepLR, 5)
    rates_of(first, 3)
    assert first.state_dict()["last_epoch"] == 3
    second = LRScheduler(lr_scheduler.StepLR, 5)
    rates_of(second, 1)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert LRScheduler(lr_scheduler.StepLR, 5).state_dict() == {}


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        (("StepLR",), {}, TypeError, "`lr_scheduler` must be .*got 'StepLR'"),
        ((lr_scheduler.StepLR,), {"call_on": "on_batch"}, ValueError, "`call_on` must be one of"),
        (
            (lr_scheduler.StepLR,),
            {"call_on": "on_fit_begin"},
            ValueError,
            "`call_on` must be a hook after",
        ),
        ((lr_scheduler.StepLR,), {"monitor": "loss"}, ValueError, "`monitor` must be"),
    ],
)
def test_arguments_out_of_bounds_are_errors(args, kwargs, error, text):
    with pytest.raises(error, match=text):
        LRScheduler(*args, **kwargs)


def test_wrong_arguments_of_the_scheduler_are_an_error_that_names_the_callback():
    with pytest.raises(TypeError, match="in the callback LRScheduler, on_fit_begin") as caught:
        rates_of(LRScheduler(lr_scheduler.StepLR, size=3), 1)
    assert isinstance(caught.value.__cause__, TypeError)


def test_repr_names_the_scheduler():
    assert (
        repr(LRScheduler(lr_scheduler.StepLR, 1))
        == "<luzpy.callbacks.LRScheduler: StepLR, on_epoch_end>"
    )


QUIET = {"verbose": False, "dataloader_options": {"batch_size": 4}}


def in_two_parts(opt):
    parts = [lr_scheduler.ConstantLR(opt, 0.1), lr_scheduler.ExponentialLR(opt, 0.9)]
    return lr_scheduler.SequentialLR(opt, parts, milestones=[1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (lr_scheduler.StepLR, {"step_size": 1}),
        (
            lr_scheduler.OneCycleLR,
            {"max_lr": 0.1, "total_steps": 50, "call_on": "on_train_batch_end"},
        ),
        (lr_scheduler.ReduceLROnPlateau, {}),
        (in_two_parts, {}),
    ],
)
def test_optimizer_and_model_die_with_the_fit(kind, options):
    kept = []

    def watched(opt, **kwargs):
        scheduler = kind(opt, **kwargs)
        kept.extend(map(weakref.ref, (opt, scheduler)))
        return scheduler

    callback = LRScheduler(watched, **options)
    spy = luz.Callback.from_functions(on_fit_begin=lambda ctx: kept.append(weakref.ref(ctx.model)))
    gc.collect()
    gc.disable()  # by reference count alone
    try:
        regression(2).set_opt_hparams(lr=0.5).fit(DATA, 2, callbacks=[callback, spy], **QUIET)
        del callback
        assert [reference() for reference in kept] == [None] * 3
    finally:
        gc.enable()
