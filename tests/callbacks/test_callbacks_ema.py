import pytest
import torch
from models import Net, line
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import luzpy as luz

X, Y = line(64, 4)
OPTIONS = {"batch_size": 16, "shuffle": False}
MODEL = luz.setup(Net, nn.MSELoss(), torch.optim.Adam, seed=3).set_opt_hparams(lr=0.02)


def fit(*callbacks, epochs=3, **options):
    torch.manual_seed(11)
    return MODEL.fit(
        (X, Y),
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=False,
        dataloader_options=OPTIONS,
        **options,
    )


def by_hand(epochs=3, *, average, each="batch", from_epoch=1, bn=False, valid=False):
    """The averaged model of a loop written by hand, and its validation losses."""
    net = MODEL()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    averaged = AveragedModel(net, multi_avg_fn=average)
    torch.manual_seed(11)
    losses = []
    for epoch in range(1, epochs + 1):
        torch.empty((), dtype=torch.int64).random_()  # the DataLoader's own draw
        net.train()
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            optimizer.zero_grad()
            nn.MSELoss()(net(x), y).backward()
            optimizer.step()
            if each == "batch" and epoch >= from_epoch:
                averaged.update_parameters(net)
        if each == "epoch" and epoch >= from_epoch:
            averaged.update_parameters(net)
        if valid:
            torch.empty((), dtype=torch.int64).random_()
            copy = AveragedModel(net)
            copy.load_state_dict(averaged.state_dict())
            for own, trained in zip(copy.module.buffers(), net.buffers(), strict=True):
                own.copy_(trained)
            with torch.no_grad():
                losses.append(float(nn.MSELoss()(copy.eval()(X), Y)))
    for own, trained in zip(averaged.module.buffers(), net.buffers(), strict=True):
        own.copy_(trained)
    if bn:
        update_bn(X.split(16), averaged)
    return averaged.module, losses


def same_state(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_fitted_model_is_that_of_torchs_averaged_model():
    expected, _ = by_hand(average=get_ema_multi_avg_fn(0.9))
    assert same_state(fit(luz.callbacks.EMA(decay=0.9)).model, expected)


def test_the_average_is_validated_and_training_goes_on_from_the_weights():
    expected, losses = by_hand(average=get_ema_multi_avg_fn(0.9), valid=True)
    fitted = fit(luz.callbacks.EMA(decay=0.9), valid_data=(X, Y))
    assert same_state(fitted.model, expected)
    frame = fitted.get_metrics()
    assert frame[frame["set"] == "valid"]["value"].tolist() == pytest.approx(losses, rel=1e-6)


def test_the_average_is_written_to_checkpoints_and_kept_as_the_best(tmp_path):
    path = tmp_path / "last.pt"
    fitted = fit(luz.callbacks.EMA(decay=0.9), luz.callbacks.ModelCheckpoint(path, "train_loss"))
    other = fit(epochs=1)
    luz.load_checkpoint(other, path)
    assert same_state(other.model, fitted.model)
    best = fit(
        luz.callbacks.EMA(decay=0.9),
        luz.callbacks.KeepBestModel("valid_loss"),
        valid_data=(X, Y),
    )
    valid = best.get_metrics().query("set == 'valid'")["value"]
    assert best.evaluate((X, Y))["loss"] == pytest.approx(valid.min(), rel=1e-6)


def test_stochastic_weight_averaging_with_new_statistics_of_batch_norm():
    expected, _ = by_hand(4, average=None, each="epoch", from_epoch=2, bn=True)
    swa = luz.callbacks.EMA(decay=None, update_on="epoch", from_epoch=2, update_bn=True)
    assert same_state(fit(swa, epochs=4).model, expected)


def test_before_the_first_epoch_that_is_averaged_the_model_is_as_it_is_trained():
    assert same_state(fit(luz.callbacks.EMA(from_epoch=9)).model, fit().model)


def test_a_fit_that_is_stopped_within_an_epoch_is_averaged():
    stop = luz.Callback.from_functions(
        on_train_batch_end=lambda ctx: ctx.stop("enough") if ctx.iter == 2 else None
    )
    net = MODEL()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    torch.manual_seed(11)
    torch.empty((), dtype=torch.int64).random_()
    for x, y in list(zip(X.split(16), Y.split(16), strict=True))[:2]:
        optimizer.zero_grad()
        nn.MSELoss()(net(x), y).backward()
        optimizer.step()
        averaged.update_parameters(net)
    fitted = fit(luz.callbacks.EMA(decay=0.5), stop)
    for own, expected in zip(fitted.model.parameters(), averaged.parameters(), strict=True):
        assert torch.equal(own, expected)


class Killed(Exception):
    pass


@pytest.mark.parametrize("every_n_batches", [None, 1])
@pytest.mark.parametrize(
    "where", ["on_train_batch_begin", "on_valid_batch_begin", "on_epoch_begin"]
)
def test_a_run_that_was_killed_ends_bit_for_bit(tmp_path, where, every_n_batches):
    def kill(ctx):
        if ctx.epoch == 2 and ctx.iter in (0, 3):
            raise Killed

    def callbacks(*more):
        resume = luz.callbacks.AutoResume(tmp_path / "state.pt", every_n_batches)
        return [luz.callbacks.EMA(decay=0.9), resume, *more]

    whole = fit(luz.callbacks.EMA(decay=0.9), valid_data=(X, Y))
    with pytest.raises(Killed):
        fit(*callbacks(luz.Callback.from_functions(**{where: kill})), valid_data=(X, Y))
    again = fit(*callbacks(), valid_data=(X, Y))
    assert same_state(again.model, whole.model)
    assert again.get_metrics().equals(whole.get_metrics())


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"decay": 1}, ValueError),
        ({"decay": -0.1}, ValueError),
        ({"decay": "0.9"}, TypeError),
        ({"from_epoch": 0}, ValueError),
        ({"update_on": "step"}, ValueError),
        ({"update_bn": 1}, TypeError),
    ],
)
def test_bad_arguments(arguments, kind):
    with pytest.raises(kind, match=f"`{next(iter(arguments))}` must be"):
        luz.callbacks.EMA(**arguments)
