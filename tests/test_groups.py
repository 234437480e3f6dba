"""Parameter groups by name, and what the finder makes of groups."""

import pytest
import torch
from models import line
from torch import nn

import luzpy as luz

X, Y = line(64, 4)
OPTIONS = {"batch_size": 16, "shuffle": False}


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.neck = nn.Linear(8, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


def spec(optimizer=torch.optim.SGD, module=Parts, **opt_hparams):
    return luz.setup(module, nn.MSELoss(), optimizer, seed=2).set_opt_hparams(**opt_hparams)


def groups_of(model, epochs=1):
    """The groups of a run's optimizer, with the names of their parameters."""
    found = []

    def look(ctx):
        names = {id(p): name for name, p in ctx.model.named_parameters()}
        for group in ctx.opt.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            found.append(([names[id(p)] for p in group["params"]], options))

    callbacks = luz.Callback.from_functions(on_train_begin=look)
    model.fit((X, Y), epochs=epochs, callbacks=callbacks, verbose=False)
    return found


def test_groups_by_name_train_as_groups_of_torch_do():
    groups = {"backbone.*": {"lr": 1e-3}, "*.bias": {"weight_decay": 0.0, "lr_scale": 0.5}}
    model = spec(lr=0.05, weight_decay=0.1, momentum=0.9, groups=groups)
    net = model()
    optimizer = torch.optim.SGD(
        [
            {"params": [*net.backbone.parameters()], "lr": 1e-3},
            {"params": [net.neck.bias, net.head.bias], "weight_decay": 0.0, "lr": 0.025},
            {"params": [net.neck.weight, net.head.weight]},
        ],
        lr=0.05,
        weight_decay=0.1,
        momentum=0.9,
    )
    for _ in range(2):
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            optimizer.zero_grad()
            nn.MSELoss()(net(x), y).backward()
            optimizer.step()
    fitted = model.fit((X, Y), epochs=2, verbose=False, dataloader_options=OPTIONS)
    for a, b in zip(fitted.model.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_first_pattern_that_matches_counts_and_the_rest_is_the_last_group():
    found = groups_of(spec(lr=0.1, groups={"head.weight": {"lr": 0.3}, "head.*": {}}))
    assert [names for names, _ in found] == [
        ["head.weight"],
        ["head.bias"],
        ["backbone.0.weight", "backbone.0.bias", "neck.weight", "neck.bias"],
    ]
    assert [options["lr"] for _, options in found] == [0.3, 0.1, 0.1]


def test_there_is_no_group_of_nothing_left_over():
    found = groups_of(spec(lr=0.1, groups={"*": {"lr": 0.3}}))
    assert [len(names) for names, _ in found] == [6]


def test_a_share_is_one_of_the_optimizers_default():
    found = groups_of(spec(torch.optim.Adam, groups={"head.*": {"lr_scale": 10}}))
    assert [options["lr"] for _, options in found] == [1e-2, 1e-3]


@pytest.mark.parametrize(
    ("groups", "kind", "message"),
    [
        ({"body.*": {"lr": 1}}, ValueError, r"'body\.\*', which matches no parameter"),
        (
            {"head.*": {"lr": 1}, "head.weight": {"lr": 2}},
            ValueError,
            r"'head\.weight', which matches no parameter that an earlier pattern has left",
        ),
        ({"head.*": {"lr": 1, "lr_scale": 2}}, ValueError, r"`lr` or `lr_scale`, got both"),
        ({"head.*": {"lr_scale": -1}}, ValueError, "`lr_scale` must be"),
        ({"head.*": {"speed": 1}}, TypeError, r"'speed'"),
        ({"head.*": 1e-3}, TypeError, r"`groups` must be a dict pattern -> options"),
        ([("head.*", {})], TypeError, r"`groups` must be a dict pattern -> options"),
    ],
)
def test_groups_that_cannot_be_made(groups, kind, message):
    with pytest.raises(kind, match=message):
        groups_of(spec(lr=0.1, groups=groups))


def test_a_share_needs_a_rate_beside_it():
    def maker(params, lr):
        return torch.optim.SGD(params, lr=lr)

    with pytest.raises(ValueError, match=r"`lr_scale` .* needs an `lr`"):
        groups_of(spec(maker, groups={"head.*": {"lr_scale": 2}}))


def test_groups_are_an_argument_of_set_optimizers_if_it_takes_one():
    class Own(Parts):
        def set_optimizers(self, lr=0.1, groups=None):
            return torch.optim.SGD(self.parameters(), lr=groups)

    model = luz.setup(Own, nn.MSELoss()).set_opt_hparams(groups=0.7)
    assert [options["lr"] for _, options in groups_of(model)] == [0.7]

    class Without(Parts):
        def set_optimizers(self, lr=0.1):
            return torch.optim.SGD(self.parameters(), lr=lr)

    with pytest.raises(TypeError, match="groups"):
        groups_of(luz.setup(Without, nn.MSELoss()).set_opt_hparams(groups={}))


# The finder -----------------------------------------------------------------------------------


def rates_in_finder(model, **options):
    """What the finder records, and the rates of all groups at each rung."""
    seen = []

    def look(ctx):
        seen.append([group["lr"] for group in ctx.opt.param_groups])

    callbacks = luz.Callback.from_functions(on_train_batch_before_step=look)
    records = model.lr_finder(
        (X, Y), steps=4, start_lr=1e-4, end_lr=1e-2, callbacks=callbacks, verbose=False, **options
    )
    return records["lr"].tolist(), seen


def test_the_finder_varies_what_shares_the_rate_and_leaves_a_groups_own():
    groups = {"backbone.*": {"lr": 1e-3}, "neck.*": {"lr_scale": 0.1}}
    for given in ({"lr": 0.5}, {}):  # SGD's own default is no other case
        recorded, seen = rates_in_finder(spec(groups=groups, **given))
        for rate, (own, share, rest) in zip(recorded, seen, strict=True):
            assert own == 1e-3
            assert share == pytest.approx(rate * 0.1)
            assert rest == rate


class Discriminative(Parts):
    def set_optimizers(self, lr=1e-2):
        return torch.optim.SGD(
            [
                {"params": self.backbone.parameters(), "lr": lr / 10},
                {"params": [*self.neck.parameters(), *self.head.parameters()]},
            ],
            lr=lr,
        )


@pytest.mark.parametrize("given", [{}, {"lr": 3e-3}])
def test_the_finder_records_the_rate_that_is_set_not_the_first_groups(given):
    model = luz.setup(Discriminative, nn.MSELoss(), seed=2).set_opt_hparams(**given)
    recorded, seen = rates_in_finder(model)
    assert recorded[-1] == 1e-2
    for rate, (first, second) in zip(recorded, seen, strict=True):
        assert first == pytest.approx(rate / 10)
        assert second == pytest.approx(rate)
    # A fit at a recorded rate has the groups' rates of that rung.
    found = groups_of(model.set_opt_hparams(lr=recorded[2]))
    assert [options["lr"] for _, options in found] == pytest.approx(seen[2])


def test_the_finder_of_a_functions_groups():
    def maker(params, lr=1e-2):
        first, *others = params
        return torch.optim.SGD([{"params": [first], "lr": lr / 10}, {"params": others}], lr=lr)

    recorded, seen = rates_in_finder(spec(maker))
    for rate, (first, second) in zip(recorded, seen, strict=True):
        assert (first, second) == pytest.approx((rate / 10, rate))


def test_groups_that_no_rate_is_set_for_keep_their_ratios_to_the_first():
    class Fixed(Parts):
        def set_optimizers(self):
            return torch.optim.SGD(
                [
                    {"params": self.backbone.parameters(), "lr": 1e-3},
                    {"params": [*self.neck.parameters(), *self.head.parameters()], "lr": 1e-2},
                ]
            )

    recorded, seen = rates_in_finder(luz.setup(Fixed, nn.MSELoss(), seed=2))
    for rate, (first, second) in zip(recorded, seen, strict=True):
        assert (first, second) == pytest.approx((rate, 10 * rate))


def test_the_finder_needs_a_group_to_vary():
    with pytest.raises(luz.LuzError, match=r"`groups` must leave a group without its own `lr`"):
        rates_in_finder(spec(groups={"*": {"lr": 0.1}}))


# Unfreezing -----------------------------------------------------------------------------------


def by_hand(epochs, at_epoch):
    net = spec(lr=0.05, momentum=0.9)()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(1, epochs + 1):
        net.backbone.requires_grad_(epoch >= at_epoch)
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            optimizer.zero_grad()
            nn.MSELoss()(net(x), y).backward()
            optimizer.step()
    return net


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_is_unfrozen_trains_from_its_epoch_on():
    unfreeze = luz.callbacks.Unfreeze("backbone.*", at_epoch=3)
    model = spec(lr=0.05, momentum=0.9)
    options = {"verbose": False, "dataloader_options": OPTIONS}
    start = model()
    two = model.fit((X, Y), epochs=2, callbacks=unfreeze, **options)
    assert torch.equal(two.model.backbone[0].weight, start.backbone[0].weight)
    assert not torch.equal(two.model.head.weight, start.head.weight)
    four = model.fit((X, Y), epochs=4, callbacks=unfreeze, **options)
    assert same_weights(four.model, by_hand(4, 3))


@pytest.mark.parametrize("killed_in", [1, 2, 3, 4])
@pytest.mark.parametrize("every_n_batches", [None, 1])
def test_a_run_that_unfreezes_ends_bit_for_bit_wherever_it_was_killed(
    tmp_path, killed_in, every_n_batches
):
    class Killed(Exception):
        pass

    def kill(ctx):
        if ctx.epoch == killed_in and ctx.iter == 3:
            raise Killed

    def callbacks(*more):
        resume = luz.callbacks.AutoResume(tmp_path / "state.pt", every_n_batches=every_n_batches)
        return [luz.callbacks.Unfreeze("backbone.*", at_epoch=3), resume, *more]

    model = spec(lr=0.05, momentum=0.9)
    options = {"epochs": 4, "verbose": False, "dataloader_options": OPTIONS}
    kill_it = luz.Callback.from_functions(on_train_batch_begin=kill)
    with pytest.raises(Killed):
        model.fit((X, Y), callbacks=callbacks(kill_it), **options)
    fitted = model.fit((X, Y), callbacks=callbacks(), **options)
    assert same_weights(fitted.model, by_hand(4, 3))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("body.*", 2), ValueError, r"`pattern` must match .*got 'body\.\*'"),
        (("backbone.*", 0), ValueError, "`at_epoch` must be"),
        (("backbone.*", 1.5), TypeError, "`at_epoch` must be"),
        ((3, 2), TypeError, "`pattern` must be"),
    ],
)
def test_what_cannot_be_unfrozen(arguments, kind, message):
    with pytest.raises(kind, match=message):
        spec(lr=0.1).fit(
            (X, Y), epochs=1, callbacks=luz.callbacks.Unfreeze(*arguments), verbose=False
        )


def test_what_no_optimizer_has_is_not_unfrozen():
    class Head(Parts):
        def set_optimizers(self, lr=0.1):
            return torch.optim.SGD(self.head.parameters(), lr=lr)

    with pytest.raises(ValueError, match=r"backbone\.0\.weight.*no optimizer"):
        luz.setup(Head, nn.MSELoss()).fit(
            (X, Y), epochs=1, callbacks=luz.callbacks.Unfreeze("backbone.*", 2), verbose=False
        )
