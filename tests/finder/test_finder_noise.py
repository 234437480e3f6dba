"""Sweeps too noisy to judge by themselves: each batch is compared with itself at the start."""

import numpy as np
import pytest
import torch

import luzpy as luz
from luzpy.finder.noise import needs_close_look
from luzpy.finder.suggest import DEFAULT_METHOD, suggest_lr

N = 100
LR = np.geomspace(1e-6, 1, N)
X = np.log10(LR)
SHARE = np.arange(1, N + 1) / N


def records(loss, initial=None):
    columns = {"lr": LR, "loss": loss}
    if initial is not None:
        columns["initial_loss"] = initial
    return luz.LRRecords(columns)


def refused(draw, times=200):
    count = 0
    for seed in range(times):
        try:
            draw(np.random.default_rng(seed)).suggest()
        except luz.NoSuggestionError:
            count += 1
    return count / times


def growing(decades):
    """Noise whose spread grows by so many decades from the first rung to the last."""
    return 10.0 ** (decades * (SHARE - 1))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: records(2 + 0.1 * rng.normal(size=N)),
        lambda rng: records(2 + 0.1 * rng.standard_t(3, size=N)),
        lambda rng: records(2 + 0.1 * rng.normal(size=N), 2 + 0.1 * rng.normal(size=N)),
        lambda rng: records(*paired_noise(rng, 0.6)),
        lambda rng: records(*paired_noise(rng, 3)),
        lambda rng: records(*paired_noise(rng, 6)),
    ],
    ids=["even", "heavy tails", "of two", "growing", "growing fast", "growing from nothing"],
)
def test_pure_noise_is_refused(draw):
    assert refused(draw) >= 0.95


def paired_noise(rng, decades):
    """The same batches twice, and what steps do to them, which is noise as well."""
    batch = 2 + 0.3 * rng.normal(size=N)
    return batch + 0.1 * growing(decades) * rng.normal(size=N), batch


def descent():
    return -0.3 / (1 + np.exp(-6 * (X + 3))) + np.expm1(3 * np.clip(X + 1, 0, 5))


def test_what_noise_hides_is_seen_beside_the_same_batches():
    rates = []
    for seed in range(50):
        batch = 2 + 0.5 * np.random.default_rng(seed).normal(size=N)
        rates.append(records(batch + descent(), batch).suggest())
    # Without noise: the rate at which four fifths of the way are done, over 2.5.
    expected = records(2 + descent()).suggest()
    assert np.array(rates) == pytest.approx(expected)
    hidden = 0
    for seed in range(50):
        alone = records(2 + 0.5 * np.random.default_rng(seed).normal(size=N) + descent())
        hidden += any("Noise hides the descent" in warning for warning in alone.warnings)
    assert hidden > 25


def test_a_doubtful_suggestion_is_given_with_its_doubt():
    noisy = [
        records(2 + 0.1 * np.random.default_rng(seed).normal(size=N) - 0.12 * (X > -2))
        for seed in range(60)
    ]
    doubt = "The loss falls by little more than its noise"
    given = []
    for one in noisy:
        try:
            one.suggest()
        except luz.NoSuggestionError:
            continue
        given.append(any(doubt in warning for warning in one.warnings))
    assert 0.2 < np.mean(given) < 1
    assert not any(doubt in warning for warning in records(2 + descent()).warnings)


# ---------------------------------------------------------------- the second look of the finder


def noisy_data(n=1600):
    """A target of which little can be explained: one batch is far from the next."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    y = 4 * x.sum(1, keepdim=True) + 8 * torch.randn(n, 1, generator=generator)
    return x, y


def clear_data(n=1600):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return x, 3 * x.sum(1, keepdim=True)


class Net(torch.nn.Module):
    """With a buffer that training changes, and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(16, 1),
        )

    def forward(self, x):
        return self.layers(x)


def sweep(data=None, optimizer=torch.optim.SGD, module=Net, **options):
    model = luz.setup(module, torch.nn.MSELoss(), optimizer, seed=1)
    given = {"start_lr": 1e-5, "end_lr": 1e-1, "batch_size": 16, "verbose": False} | options
    torch.manual_seed(3)
    return model.lr_finder(noisy_data() if data is None else data, **given)


def test_what_would_be_refused_for_its_noise_gets_a_second_look():
    # Late and sudden: it falls by many times the noise before it, and explodes beside the minimum.
    lr = np.geomspace(1e-6, 1, 100)
    refused = 0
    for draw in range(200):
        rng = np.random.default_rng(draw)
        loss = 1.62 + 0.015 * rng.standard_normal(100)
        loss[83:88] += rng.choice([-0.4, 0.7], 5)
        loss[88:] += np.geomspace(0.1, 4, 12)
        try:
            suggest_lr(lr, loss, DEFAULT_METHOD)
        except luz.NoSuggestionError:
            refused += 1
            assert needs_close_look(loss)
    assert refused > 10


def test_where_the_sweep_is_clear_there_is_no_second_look():
    clear = sweep(clear_data(), module=lambda: torch.nn.Linear(4, 1), end_lr=1, batch_size=64)
    assert clear.columns.tolist() == ["lr", "loss"]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_the_initial_losses_are_those_of_the_same_batches_dropout_and_all(optimizer):
    seen = sweep(optimizer=optimizer)
    # The same sweep at rates so small that no weight changes: buffers do, and dropout draws.
    frozen = sweep(optimizer=optimizer, start_lr=1e-30, end_lr=1e-29)
    assert seen.columns.tolist() == ["lr", "loss", "initial_loss"]
    assert seen["initial_loss"].to_numpy() == pytest.approx(frozen["loss"].to_numpy(), rel=1e-5)
    assert seen["loss"][0] == pytest.approx(seen["initial_loss"][0])


def test_where_neither_look_says_anything_the_records_are_as_plain_as_ever():
    def noise(input, target):
        return target.square().mean() + 0 * input.mean()

    model = luz.setup(lambda: torch.nn.Linear(4, 1), noise, torch.optim.SGD, seed=1)
    torch.manual_seed(3)
    seen = model.lr_finder(noisy_data(), start_lr=1e-5, end_lr=1, batch_size=16, verbose=False)
    assert seen.columns.tolist() == ["lr", "loss"]
    with pytest.raises(luz.NoSuggestionError, match="never falls by more than its noise"):
        seen.suggest()


def test_the_loss_is_the_one_of_a_sweep_without_a_second_look(monkeypatch):
    seen = sweep()
    monkeypatch.setattr("luzpy.finder.finder.needs_pairs", lambda losses: False)
    plain = sweep()
    assert plain.columns.tolist() == ["lr", "loss"]
    assert seen["loss"].tolist() == plain["loss"].tolist()


@pytest.mark.parametrize("module", [Net, lambda: torch.nn.Linear(4, 1)], ids=["apart", "together"])
def test_each_of_several_runs_has_its_own_initial_losses(module):
    seen = sweep(module=module, runs=3)
    for run in (1, 2, 3):
        part = seen[seen["run"] == run]
        assert part["loss"].iloc[0] == pytest.approx(part["initial_loss"].iloc[0], rel=1e-4)
    first = seen.groupby("run")["initial_loss"].first()
    assert first.nunique() == 3


def test_nothing_of_the_users_is_disturbed():
    x, y = noisy_data()
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = luz.setup(net, torch.nn.MSELoss(), torch.optim.Adam)
    state = torch.get_rng_state()
    seen = model.lr_finder((x, y), start_lr=1e-5, end_lr=1e-1, batch_size=16, verbose=False)
    assert "initial_loss" in seen
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_step_of_ones_own_takes_no_step_in_the_second_look():
    class Own(torch.nn.Linear):
        def __init__(self):
            super().__init__(4, 1)

        def step(self):
            ctx = self.ctx
            ctx.opt.zero_grad()
            with torch.enable_grad():
                loss = torch.nn.functional.mse_loss(self(ctx.input), ctx.target)
            loss.backward()
            ctx.opt.step()
            ctx.loss = loss.detach()

    model = luz.setup(Own, optimizer=torch.optim.SGD, seed=1)
    torch.manual_seed(3)
    options = {"start_lr": 1e-5, "end_lr": 1e-1, "batch_size": 16, "verbose": False}
    seen = model.lr_finder(noisy_data(), **options)
    torch.manual_seed(3)
    frozen = model.lr_finder(noisy_data(), **options | {"start_lr": 1e-30, "end_lr": 1e-29})
    assert seen["initial_loss"].to_numpy() == pytest.approx(frozen["loss"].to_numpy(), rel=1e-5)


def test_data_that_come_otherwise_the_second_time_are_not_compared():
    class Restless(torch.utils.data.Sampler):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(torch.randperm(1600, generator=torch.Generator().manual_seed(self.passes)))

        def __len__(self):
            return 1600

    data = torch.utils.data.TensorDataset(*noisy_data())
    loader = torch.utils.data.DataLoader(data, 16, sampler=Restless())
    assert "initial_loss" not in sweep(loader, batch_size=None)


def test_a_stream_is_not_gone_through_again():
    class Stream(torch.utils.data.IterableDataset):
        passes = 0

        def __iter__(self):
            Stream.passes += 1
            return iter(zip(*noisy_data(), strict=True))

    assert "initial_loss" not in sweep(Stream())
    assert Stream.passes == 1
