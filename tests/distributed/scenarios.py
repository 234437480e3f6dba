"""What the tests of this folder run: as one process, or as a rank of several.

    python scenarios.py FOLDER NAME...
    torchrun --nproc_per_node 2 scenarios.py FOLDER NAME...

Each rank writes what it found to FOLDER/rank-R.pt. Ranks take batches that together have `ROWS`
rows, so that a run's results are those of one process.
"""

import contextlib
import io
import os
import shutil
import signal
import sys
import traceback
import unittest.mock
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import luzpy as luz

SIZE = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
ROWS = 12
B = ROWS // SIZE
N = 101  # rows: the last group is short, and has no batch for the last rank
FOLDER = Path()


def place(**options):
    return luz.Accelerator(cpu=True, distributed=True, **options)


def rows(n=N):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 3, generator=generator)
    return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(n, 1, generator=generator)


class Rows(Dataset):
    def __init__(self, n=N):
        self.x, self.y = rows(n)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    def __init__(self, n=N):
        self.x, self.y = rows(n)

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


class Doubling(DataLoader):
    """A DataLoader with a way of its own to go through the data."""

    def __iter__(self):
        return ((2 * x, y) for x, y in super().__iter__())


class RowsByTen:
    """A batch sampler of a user's own: batches of several sizes in an order of its own."""

    def __iter__(self):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist()
        return (order[start : start + B] for start in range(0, 8 * ROWS, B))

    def __len__(self):
        return 8 * SIZE


def net():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def setup(module=net, loss=None, optimizer=torch.optim.SGD, lr=0.1, metrics=None, seed=1):
    loss = nn.MSELoss() if loss is None else loss
    return luz.setup(module, loss, optimizer, metrics, seed=seed).set_opt_hparams(lr=lr)


def options(drop_last=True, **more):
    return {"batch_size": B, "drop_last": drop_last, **more}


def weights(fitted):
    tensors = filter(torch.is_tensor, fitted.model.state_dict().values())
    return torch.cat([p.detach().flatten().double() for p in tensors])


def values(fitted):
    return torch.tensor(fitted.get_metrics()["value"].tolist(), dtype=torch.float64)


def found(fitted, **more):
    assert type(fitted.model) is not nn.parallel.DistributedDataParallel
    return {"metrics": values(fitted), "weights": weights(fitted), "stopped": fitted.stopped} | more


def fit(data, model=None, epochs=2, *, accelerator=None, loader=None, callbacks=None, valid=None):
    torch.manual_seed(11)
    return (setup() if model is None else model).fit(
        data,
        epochs,
        callbacks,
        valid,
        place() if accelerator is None else accelerator,
        verbose=False,
        dataloader_options=loader,
    )


# What data may be


def in_memory():
    model = setup(optimizer=torch.optim.Adam, lr=0.05, metrics=[luz.metrics.MAE()])
    fitted = fit(rows(), model, 3, valid=0.2, loader=options())
    evaluation = fitted.evaluate(
        rows(), accelerator=place(), verbose=False, dataloader_options={"batch_size": B}
    )
    preds = fitted.predict(rows()[0], accelerator=place(), dataloader_options={"batch_size": B})
    alone = luz.Accelerator(cpu=True, distributed=False)
    path = FOLDER / f"fitted-{RANK}.luz"
    luz.save(fitted, path)
    loaded = luz.load(path, module=net)
    listed = fitted.predict(
        rows()[0], accelerator=place(), stack=False, dataloader_options={"batch_size": B}
    )
    return found(
        fitted,
        evaluation=values(evaluation),
        preds=preds,
        alone=fitted.predict(rows()[0], accelerator=alone),
        loaded=loaded.predict(rows()[0], accelerator=alone),
        listed=[len(batch) for batch in listed],
        names=list(fitted.model.state_dict()),
        type=type(fitted.model).__name__,
    )


def ragged():
    fitted = fit(rows(), valid=0.2, loader=options(drop_last=False))
    return found(fitted)


def dataset():
    return found(fit(Rows(), valid=0.2, loader=options(drop_last=False)))


def dataset_with_worker():
    fitted = fit(Rows(), epochs=1, valid=0.2, loader=options(drop_last=False, num_workers=1))
    evaluation = fitted.evaluate(
        Rows(),
        accelerator=place(),
        verbose=False,
        dataloader_options={"batch_size": B, "num_workers": 1},
    )
    return found(fitted, evaluation=values(evaluation))


def weighted_sampler():
    generator = torch.Generator().manual_seed(2)
    sampler = WeightedRandomSampler(torch.arange(N) + 1.0, 60, generator=generator)
    return found(fit(DataLoader(Rows(), B, sampler=sampler)))


def own_batch_sampler():
    return found(fit(DataLoader(Rows(), batch_sampler=RowsByTen())))


def own_loader():
    return found(fit(Doubling(Rows(), B, shuffle=True)))


def shuffled_loader():
    loader = DataLoader(Rows(), B, shuffle=True, generator=torch.Generator().manual_seed(4))
    return found(fit(loader))


def iterable():
    return found(fit(Stream(), valid=Stream(30), loader=options(drop_last=False)))


def iterable_drop_last():
    fitted = fit(Stream(), valid=Stream(30), loader=options())
    preds = fitted.predict(Stream(), accelerator=place(), dataloader_options={"batch_size": B})
    return found(fitted, preds=preds)


def in_batches_already():
    """Without a batch size: items of the dataset are batches."""
    x, y = rows(8 * ROWS)
    pairs = list(zip(x.split(B), y.split(B), strict=True))
    return found(fit(DataLoader(pairs, batch_size=None)))


def parts_of_other_lengths():
    """The first tensor in a batch does not have its rows."""
    x, y = rows(8 * ROWS - 5)
    parts = zip(x.split(B), y.split(B), strict=True)
    pairs = [({"edges": torch.zeros(2, 7), "x": part}, target) for part, target in parts]

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, batch):
            return self.net(batch["x"])

    return found(fit(DataLoader(pairs, batch_size=None), setup(Graph)))


def without_bad_rows(items):
    """A user's `collate_fn`."""
    kept = [item for item in items if item[1] > -1] or items[:1]
    return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])


def collated_by_hand():
    loader = DataLoader(Rows(), B, collate_fn=without_bad_rows)
    return found(fit(loader, valid=loader))


def dict_batches():
    x, y = rows()
    return found(fit({"x": x, "y": y}, valid=0.2, loader=options(drop_last=False)))


def few_rows():
    fitted = fit(rows(3), valid=rows(2), loader=options(drop_last=False))
    preds = fitted.predict(rows(1)[0], accelerator=place())
    return found(fitted, preds=preds)


def seedless():
    torch.manual_seed(100 + RANK)
    seen = []
    note = luz.Callback.from_functions(on_train_batch_begin=lambda ctx: seen.append(ctx.target))
    x, _ = rows(96)
    model = luz.setup(net, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.01)
    fitted = model.fit(
        (x, torch.arange(96.0).reshape(-1, 1)),
        1,
        note,
        0.25,
        place(),
        verbose=False,
        dataloader_options=options(),
    )
    return found(fitted, seen=torch.cat(seen).flatten())


# Steps of several batches


def accumulated():
    model = setup(optimizer=torch.optim.Adam, lr=0.05)
    loader = options(drop_last=False)
    return found(fit(rows(), model, accelerator=place(accumulate=4), loader=loader))


def large_batch():
    model = setup(optimizer=torch.optim.Adam, lr=0.05)
    return found(fit(rows(), model, loader=options(drop_last=False) | {"batch_size": 4 * B}))


def accumulated_and_clipped():
    """What a hand-written loop in the tests does, too."""
    torch.manual_seed(3)
    loader = DataLoader(Rows(), B)
    norms = []

    def note(ctx):
        parts = [p.grad.flatten() for p in ctx.model.parameters()]
        norms.append(torch.cat(parts).norm())

    callbacks = [luz.callbacks.GradientClip(0.5)]
    callbacks.append(luz.Callback.from_functions(on_train_batch_after_step=note))
    fitted = fit(loader, setup(net()), accelerator=place(accumulate=4), callbacks=callbacks)
    return found(fitted, norms=torch.stack(norms))


def clipped():
    torch.manual_seed(3)
    clip = luz.callbacks.GradientClip(0.5)
    return found(fit(DataLoader(Rows(), B), setup(net()), callbacks=clip))


def accumulated_own_loss():
    fitted = fit(
        rows(),
        luz.setup(OwnLoss, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1),
        accelerator=place(accumulate=4),
        loader=options(drop_last=False),
    )
    return found(fitted)


def accumulation_refused():
    said = []
    for module in (OwnStep, Gan):
        model = luz.setup(
            module, optimizer=None if module is Gan else torch.optim.SGD, seed=1
        ).set_opt_hparams(lr=0.1)
        try:
            fit(rows(), model, accelerator=place(accumulate=2))
        except ValueError as err:
            said.append(str(err))
    return {"said": said}


# What models may be


class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def loss(self, input, target):
        return nn.functional.huber_loss(input, target) + 0.01 * self.net[0].weight.square().sum()


class OwnStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def step(self):
        ctx = self.ctx
        ctx.pred = self(ctx.input)
        loss = nn.functional.mse_loss(ctx.pred, ctx.target)
        if ctx.training:
            optimizer = ctx.optimizers["opt"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ctx.loss = {"opt": loss.detach()}


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker, self.judge = net(), nn.Linear(4, 1)

    def set_optimizers(self, lr):
        return {
            "maker": torch.optim.SGD(self.maker.parameters(), lr),
            "judge": torch.optim.Adam(self.judge.parameters(), lr),
        }

    def forward(self, x):
        return x, self.maker(x)

    def loss(self, input, target):
        x, made = input
        like = nn.functional.softplus
        if self.ctx.opt_name == "maker":
            return like(-self.judge(torch.cat((x, made), 1))).mean()
        true = like(-self.judge(torch.cat((x, target), 1))).mean()
        return true + like(self.judge(torch.cat((x, made.detach()), 1))).mean()


class Wide(OwnLoss):
    """Parameters of two dtypes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return (self.net(x) * self.scale).float()


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 1)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


class Stranger(nn.Module):
    """A parameter that is optimized, but is not the model's."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.outside = [nn.Parameter(torch.ones(1))]

    def set_optimizers(self, lr):
        return torch.optim.SGD([*self.parameters(), *self.outside], lr)

    def forward(self, x):
        return self.net(x) * self.outside[0]


def own_loss():
    model = luz.setup(OwnLoss, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)
    return found(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


def own_step():
    model = luz.setup(OwnStep, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)
    return found(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


def two_optimizers():
    model = luz.setup(Gan, seed=1).set_opt_hparams(lr=0.05)
    return found(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


class OverRows(OwnLoss):
    """A loss that counts its rows itself."""

    def loss(self, input, target):
        assert len(target) == self.ctx.batch_size
        return (input - target).square().sum() / self.ctx.batch_size


def loss_over_rows():
    model = luz.setup(OverRows, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)
    return found(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


class WithExtraState(OwnLoss):
    def get_extra_state(self):
        return {"kind": "of a user's own", "sizes": [1, 2]}

    def set_extra_state(self, state):
        assert state["sizes"] == [1, 2]


def extra_state():
    model = luz.setup(WithExtraState, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)
    return found(fit(rows(), model, 1, loader=options()))


class Searching(OwnLoss):
    """An optimizer that evaluates the loss as often as it likes."""

    def step(self):
        def closure():
            optimizer.zero_grad()
            loss = self.loss(self(self.ctx.input), self.ctx.target)
            loss.backward()
            return loss

        optimizer = self.ctx.optimizers["opt"]
        self.ctx.loss = optimizer.step(closure).detach()


def closure_refused():
    model = luz.setup(Searching, optimizer=torch.optim.LBFGS, seed=1).set_opt_hparams(lr=0.1)
    try:
        return {"said": "", "stopped": fit(rows(), model, 1, loader=options()).stopped}
    except luz.LuzError as err:
        return {"said": str(err)}


def two_dtypes():
    model = luz.setup(Wide, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)
    return found(fit(rows(), model, loader=options()))


def frozen():
    fitted = fit(rows(), setup(TwoParts), loader=options())
    return found(fitted, body=fitted.model.body.weight.detach())


def unfrozen():
    """Parts that are trained from the second epoch on."""

    def thaw(ctx):
        if ctx.epoch == 2:
            for parameter in ctx.model.parameters():
                parameter.requires_grad_(True)

    callback = luz.Callback.from_functions(on_epoch_begin=thaw)
    return found(fit(rows(), setup(TwoParts), 3, callbacks=callback, loader=options()))


def stranger():
    model = luz.setup(Stranger, nn.MSELoss(), seed=1).set_opt_hparams(lr=0.02)
    fitted = fit(rows(), model, loader=options(drop_last=False))
    return found(fitted, outside=fitted.model.outside[0].detach())


def dropout():
    def noisy():
        return nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1))

    masks = []

    def look(ctx):
        inner = getattr(ctx.model, "module", ctx.model)
        inner[1].register_forward_hook(lambda m, args, out: masks.append(out == 0))

    callback = luz.Callback.from_functions(on_fit_begin=look)
    fitted = fit(rows(), setup(noisy), 1, callbacks=callback, loader=options())
    return found(fitted, masks=torch.stack(masks[:5]))


def batch_norm():
    """Statistics are each rank's own while it trains; what is validated and returned is one."""

    def normed():
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    return found(fit(rows(), setup(normed), 1, loader=options()))


def batch_norm_own_loss():
    class Normed(OwnLoss):
        def __init__(self):
            super().__init__()
            self.net.insert(1, nn.BatchNorm1d(8))

    model = luz.setup(Normed, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)
    return found(fit(rows(), model, 1, loader=options()))


def sync_batch_norm():
    def normed():
        plain = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        return nn.SyncBatchNorm.convert_sync_batchnorm(plain)

    try:
        return found(fit(rows(), setup(normed), loader=options()))
    except ValueError as err:  # torch has it for GPUs only
        return {"refused": str(err)}


# Metrics


class Echo(nn.Module):
    """Predicts its input."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + self.nothing


class Largest(luz.metrics.Metric):
    """Without `merge`."""

    abbrev = "Largest"

    def reset(self):
        self.value, self.count = float("-inf"), 0

    def update(self, preds, target):
        self.value = max(self.value, float(preds.max()))
        self.count += len(preds)

    def compute(self):
        return {"value": self.value, "rows": self.count}


class Distinct(luz.metrics.Metric):
    """With `merge`, and things that are neither tensors nor plain values."""

    abbrev = "Distinct"

    def __init__(self):
        self.bag = Bag()
        self.squared = lambda x: x.square()

    def reset(self):
        self.bag.clear()
        vars(self).pop("rows", None)
        self.longest = None
        self.squares = np.zeros(2)

    def update(self, preds, target):
        for value in preds.flatten().tolist():
            self.bag.add(value)
        self.rows = getattr(self, "rows", 0) + len(target)
        self.longest = max(self.longest or 0, len(target))
        self.squares += [float(self.squared(preds).sum()), len(target)]

    def merge(self, others):
        for other in others:
            if hasattr(other, "rows"):  # it has seen a batch
                self.bag.values |= other.bag.values
                self.rows = getattr(self, "rows", 0) + other.rows
                self.longest = max(self.longest or 0, other.longest)
                self.squares += other.squares

    def compute(self):
        total, n = self.squares
        return {"seen": len(self.bag.values), "rows": self.rows, "square": total / n}


class Bag:
    """Something of a user's own, emptied in place."""

    def __init__(self):
        self.values = set()

    def add(self, value):
        self.values.add(value)

    def clear(self):
        self.values.clear()


class Within(luz.metrics.Metric):
    """Without `merge`, on a metric of torchmetrics."""

    abbrev = "Within"

    def __init__(self):
        import torchmetrics  # which takes long: only where it is needed

        self.parts = [torchmetrics.SumMetric()]

    def reset(self):
        self.parts[0].reset()

    def update(self, preds, target):
        self.parts[0].update(target.float())

    def compute(self):
        return self.parts[0].compute()


def absolute(preds, target):
    return (preds.flatten() - target.flatten()).abs().mean()


def binary_rows():
    """Sorted by class: a rank may have one class only."""
    generator = torch.Generator().manual_seed(8)
    target = torch.arange(N) >= 60
    return (0.25 * target + 0.7 * torch.rand(N, generator=generator)), target.float()


def class_rows():
    generator = torch.Generator().manual_seed(9)
    target = torch.arange(N) // 34
    logits = torch.randn(N, 3, generator=generator) + nn.functional.one_hot(target, 3)
    return logits.softmax(1), target


def evaluated(data, metrics, loss, n=N, accelerator=None):
    model = setup(Echo, loss, lr=0.0)
    fitted = fit(data, model, 1, loader=options(drop_last=False))
    part = tuple(tensor[:n] for tensor in data)
    evaluation = fitted.evaluate(
        part,
        metrics,
        accelerator=place() if accelerator is None else accelerator,
        verbose=False,
        dataloader_options={"batch_size": B},
    )
    return evaluation.records["metrics"]["valid"][0]


def binary_metrics(accelerator=None):
    import torchmetrics

    exact = luz.metrics.BinaryAUROC(num_thresholds=None)
    exact.abbrev = "exact"
    metrics = [
        luz.metrics.BinaryAUROC(),
        exact,
        luz.metrics.MAE(),
        luz.metrics.RMSE(),
        luz.metrics.BinaryAccuracy(),
        absolute,
        Largest(),
        Distinct(),
        Within(),
        torchmetrics.MeanAbsoluteError(),
        torchmetrics.MetricCollection(
            {
                "tm_auc": torchmetrics.AUROC(task="binary"),
                "tm_mse": torchmetrics.MeanSquaredError(),
            }
        ),
    ]
    return evaluated(binary_rows(), metrics, nn.MSELoss(), accelerator=accelerator)


def one_class_a_rank():
    """Six rows of one class, then six of the other."""
    scores, _ = binary_rows()
    data = scores, (torch.arange(N) // 6 % 2).float()
    exact = luz.metrics.BinaryAUROC(num_thresholds=None)
    exact.abbrev = "exact"
    return evaluated(data, [luz.metrics.BinaryAUROC(), exact], nn.MSELoss(), 96)


def class_metrics(n=N):
    import torchmetrics

    metrics = [luz.metrics.Accuracy()]
    metrics.append(torchmetrics.classification.MulticlassAccuracy(3, average="micro"))
    for average in ("micro", "macro", "weighted", "none"):
        for thresholds in (200, None):
            metric = luz.metrics.MulticlassAUROC(num_thresholds=thresholds, average=average)
            metric.abbrev = f"{average}_{thresholds}"
            metrics.append(metric)
    return evaluated(class_rows(), metrics, nn.functional.nll_loss, n)


def class_metrics_of_few():
    """Most ranks have not one row."""
    return class_metrics(2)


def metrics_in_training():
    model = setup(Echo, nn.MSELoss(), lr=0.0, metrics=[Largest(), Distinct(), Within(), absolute])
    fitted = fit(binary_rows(), model, 2, loader=options(drop_last=False))
    return {"epochs": fitted.records["metrics"]["train"]}


def main_rank_alone():
    """After a run of all ranks the main one goes on by itself; nobody waits for anybody."""
    fit(rows(), loader=options())
    if RANK:
        return {}
    return binary_metrics_alone()


def binary_metrics_alone():
    import torchmetrics

    alone = luz.Accelerator(cpu=True, distributed=False)
    model = setup(Echo, lr=0.0)
    x, y = binary_rows()
    fitted = fit((x, y), model, 1, accelerator=alone)
    metrics = [luz.metrics.BinaryAUROC(), torchmetrics.MeanSquaredError(), Within()]
    evaluation = fitted.evaluate((x, y), metrics, accelerator=alone, verbose=False)
    return evaluation.records["metrics"]["valid"][0]


# Callbacks, output and files


def printed():
    said = io.StringIO()
    folder = FOLDER / f"out-{SIZE}"
    csv = luz.callbacks.CSVLogger(folder / "log.csv")
    events = luz.callbacks.TFEvents(folder / "events", histograms=True)
    checkpoint = luz.callbacks.ModelCheckpoint(f"{folder}/models/", monitor="train_loss")
    torch.manual_seed(11)
    writes = []
    audit = {"on": True}

    def note(event, args):  # what this rank opens for writing, below the folder
        if (
            event == "open"
            and audit["on"]
            and (args[1] or "r")[0] in "wxa"
            and str(folder) in str(args[0])
        ):
            writes.append(str(args[0]))

    sys.addaudithook(note)
    with contextlib.redirect_stdout(said):
        fitted = setup().fit(
            rows(), 2, [csv, events, checkpoint], 0.2, place(), True, dataloader_options=options()
        )
        fitted.evaluate(rows(), accelerator=place(), verbose=True)
        fitted.predict(rows()[0], accelerator=place(), verbose=True)
        setup().lr_finder(rows(), 5, accelerator=place(), verbose=True)
        stop = luz.callbacks.EarlyStopping("train_loss", min_delta=100)
        setup().fit(rows(), 3, stop, None, place(), True, dataloader_options=options())
    audit["on"] = False
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return {"said": said.getvalue(), "files": files, "writes": writes}


def resumed_from_checkpoint():
    folder = FOLDER / f"checkpoints-{SIZE}"
    checkpoint = luz.callbacks.ModelCheckpoint(f"{folder}/{{epoch}}.pt", monitor="train_loss")
    model = setup(optimizer=torch.optim.Adam, lr=0.01)
    loader = DataLoader(Rows(), B)
    fit(loader, model, 2, callbacks=checkpoint)
    resume = luz.callbacks.ResumeFromCheckpoint(
        folder, restore_records=True, restore_optimizer_state=True
    )
    fitted = fit(loader, model, 4, callbacks=resume)
    return found(fitted, unbroken=weights(fit(loader, model, 4)))


def no_checkpoint():
    resume = luz.callbacks.ResumeFromCheckpoint(FOLDER / "nothing.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(rows(), callbacks=resume, loader=options())
    said = [str(w.message) for w in caught if "no checkpoint" in str(w.message)]
    return found(fitted, said=said)


def schedules():
    rates = []
    note = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: rates.append(ctx.optimizers["opt"].param_groups[0]["lr"])
    )
    schedulers = torch.optim.lr_scheduler
    callbacks = [
        luz.callbacks.LRScheduler(schedulers.StepLR, 3, call_on="on_train_batch_end"),
        luz.callbacks.LRScheduler(schedulers.ReduceLROnPlateau, patience=0, threshold=0.5),
        note,
    ]
    return found(fit(rows(), None, 4, callbacks=callbacks, valid=0.2, loader=options()), lr=rates)


def stopped_by_a_number_of_each_rank():
    """One of which says that it grows better, and all others that it grows worse."""
    own = luz.Callback.from_functions(
        on_train_end=lambda ctx: ctx.log_metric("gap", ctx.epoch if RANK else -ctx.epoch)
    )
    stop = luz.callbacks.EarlyStopping("train_gap")
    fitted = fit(rows(), None, 4, callbacks=[own, stop], loader=options())
    return {"weights": weights(fitted), "stopped": fitted.stopped}


def stopped_early():
    callbacks = [
        luz.callbacks.EarlyStopping(min_delta=0.05),
        luz.callbacks.KeepBestModel(),
    ]
    fitted = fit(rows(), setup(lr=0.3), 50, callbacks=callbacks, valid=0.2, loader=options())
    return found(fitted)


def one_rank_interrupted():
    """Ctrl-C reaches the last rank only."""
    at = []

    def press(ctx):
        if ctx.epoch == 2 and ctx.iter == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGINT)

    callbacks = luz.Callback.from_functions(
        on_train_batch_begin=press, on_interrupt=lambda ctx: at.append((ctx.epoch, ctx.iter))
    )
    fitted = fit(rows(24 * ROWS), None, 5, callbacks=callbacks, loader=options())
    return found(fitted, at=at)


def one_rank_interrupted_in_finder():
    def press(ctx):
        if ctx.epoch == 1 and ctx.iter == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGINT)

    callback = luz.Callback.from_functions(on_train_batch_begin=press)
    return finder(rows(24 * ROWS), steps=100, callbacks=callback)


# Going on after a kill


def trained(path, on_epoch_begin=None, batch_size=6):
    """Six rows a batch and rank on any number of ranks: it is one and the same script."""

    def noisy():
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1))

    begun = {}

    def note(ctx):
        inner = getattr(ctx.model, "module", ctx.model)
        begun[ctx.epoch] = {k: v.clone() for k, v in inner.state_dict().items()}

    callbacks = [
        luz.callbacks.AutoResume(path),
        luz.callbacks.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, 0.9),
        luz.Callback.from_functions(on_epoch_begin=on_epoch_begin or note),
    ]
    model = setup(noisy, optimizer=torch.optim.Adam, lr=0.01)
    fitted = fit(
        rows(), model, 4, callbacks=callbacks, valid=0.2, loader={"batch_size": batch_size}
    )
    return found(fitted, begun=begun, kept=path.exists())


def goes_on():
    """After `one_rank_dies`."""
    return trained(FOLDER / "state.pt")


def goes_on_with_larger_batches():
    """After `one_rank_dies`: one process takes the batches of two."""
    shutil.copy(FOLDER / "state.pt", FOLDER / "larger.pt")
    return trained(FOLDER / "larger.pt", batch_size=12)


def unbroken():
    return trained(FOLDER / "fresh.pt")


# lr_finder


def finder(data, model=None, accelerator=None, **more):
    torch.manual_seed(11)
    chosen = {"steps": 25, "end_lr": 1.0, "dataloader_options": options()} | more
    if isinstance(data, DataLoader):
        chosen.pop("dataloader_options")
    records = (setup() if model is None else model).lr_finder(
        data, accelerator=place() if accelerator is None else accelerator, verbose=False, **chosen
    )
    kept = {name: torch.tensor(records[name].tolist()) for name in records.columns}
    return kept | {"stopped": records.stopped}


def finder_plain():
    return finder(rows())


def finder_one_epoch():
    return finder(rows(), steps=None)


def finder_ragged():
    return finder(rows(), dataloader_options=options(drop_last=False))


def finder_validated():
    return finder(rows(), valid_data=0.3, valid_batches=None)


def finder_several_runs():
    return finder(rows(), runs=2)


def finder_accumulated():
    return finder(rows(), accelerator=place(accumulate=2), steps=None)


def finder_iterable():
    return finder(Stream())


def finder_one_rank_diverges():
    """A value that is not a number among the last rank's rows of the seventh rung."""
    data = Rows()
    data.x[6 * ROWS + ROWS - 1] = float("nan")
    return finder(DataLoader(data, B))


def finder_diverges():
    model = setup(lambda: nn.Linear(3, 1))
    return finder(rows(), model, steps=60, start_lr=1e-2, end_lr=1e2, stop_div=2.0)


def finder_loss_raises():
    """A loss that cannot be computed once the predictions are no numbers."""

    def loss(preds, target):
        if not preds.isfinite().all():
            raise RuntimeError("no numbers")
        return (preds - target).square().mean()

    model = setup(lambda: nn.Linear(3, 1), loss)
    return finder(rows(), model, steps=60, start_lr=10.0, end_lr=1e6)


def finder_loss_raises_on_one_rank():
    """A value among the last rank's rows of the seventh rung that the loss cannot bear."""

    def loss(preds, target):
        if not preds.isfinite().all():
            raise RuntimeError("no numbers")
        return (preds - target).square().mean()

    data = Rows()
    data.x[6 * ROWS + ROWS - 1] = float("inf")
    return finder(DataLoader(data, B), setup(loss=loss))


def finder_leaves_no_trace():
    torch.manual_seed(40 + RANK)
    before = torch.get_rng_state()
    setup().lr_finder(rows(), 5, accelerator=place(), dataloader_options=options())
    return {"same": torch.equal(before, torch.get_rng_state())}


# Precision


def precision(callbacks=None, **more):
    dtypes, count = [], []

    def look(ctx):
        inner = getattr(ctx.model, "module", ctx.model)
        inner[0].register_forward_hook(lambda m, args, out: dtypes.append(out.dtype))
        count.append(sum(isinstance(c, luz.callbacks.MixedPrecision) for c in ctx.callbacks))
        count.append(sum(hasattr(m, "_original_forward") for m in ctx.model.modules()))

    chosen = [luz.Callback.from_functions(on_fit_begin=look), *(callbacks or [])]
    fitted = fit(rows(), None, 1, callbacks=chosen, loader=options(), **more)
    preds = fitted.predict(rows()[0], callbacks, accelerator=more["accelerator"])
    kinds = sorted({str(dtype) for dtype in dtypes})
    return found(fitted, dtypes=kinds, count=count, pred_dtype=str(preds.dtype))


def bfloat16():
    return precision(accelerator=place(mixed_precision="bf16"))


def bfloat16_by_callback():
    callback = luz.callbacks.MixedPrecision(dtype=torch.bfloat16)
    return precision([callback], accelerator=place())


def bfloat16_twice():
    callback = luz.callbacks.MixedPrecision(dtype=torch.bfloat16)
    return precision([callback], accelerator=place(mixed_precision="bf16"))


def float16_clipped():
    """The scaler's factor is taken out before the clipping, once over all ranks' gradients."""
    norms = []

    def note(ctx):
        norms.append(torch.cat([p.grad.flatten() for p in ctx.model.parameters()]).norm())

    callbacks = [
        luz.callbacks.MixedPrecision(dtype=torch.float16, init_scale=256.0),
        luz.Callback.from_functions(on_train_batch_before_step=note),
        luz.callbacks.GradientClip(0.1),
        luz.Callback.from_functions(on_train_batch_before_step=note),
    ]
    fitted = fit(rows(), None, 1, callbacks=callbacks, loader=options())
    return found(fitted, norms=torch.stack(norms), scale=callbacks[0].scaler.get_scale())


class TwoLines(nn.Module):
    """The first one's loss is too large once: its optimizer does not step."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 1), nn.Linear(3, 1)

    def set_optimizers(self, lr):
        parts = {"one": self.one, "other": self.other}
        return {name: torch.optim.SGD(part.parameters(), lr) for name, part in parts.items()}

    def forward(self, x):
        return x

    def loss(self, input, target):
        if self.ctx.opt_name == "other":
            return nn.functional.mse_loss(self.other(input), target)
        factor = float("inf") if self.ctx.iter == 1 else 1
        return nn.functional.mse_loss(self.one(input), target) * factor


def float16_skipped_step():
    callback = luz.callbacks.MixedPrecision(dtype=torch.float16, init_scale=4.0)
    model = luz.setup(TwoLines, seed=1).set_opt_hparams(lr=0.05)
    return found(fit(rows(), model, 1, callbacks=callback, loader=options()))


def two_precisions():
    callback = luz.callbacks.MixedPrecision(dtype=torch.float16)
    try:
        fit(rows(), callbacks=callback, accelerator=place(mixed_precision="bf16"))
    except ValueError as err:
        return {"said": str(err)}
    return {"said": ""}


def engine():
    """An Accelerator of Accelerate's own."""
    import accelerate

    given = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    result = precision(accelerator=given)
    again = precision(accelerator=place(mixed_precision="bf16", accumulate=2))
    fitted = fit(rows(), None, 1, accelerator=given, loader=options())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        fitted.predict(rows()[0], accelerator=given)
        fitted.predict(rows()[0], accelerator=place())
    opened = len(os.listdir("/proc/self/fd")) - before
    return result | {"again": again, "opened": opened, "native_amp": given.native_amp}


def launchers_precision():
    """What `accelerate launch` was told, where the program says nothing."""
    return {"dtypes": [place().dtype, place(mixed_precision="no").dtype]}


# Models that are spread over the ranks


def fsdp():
    """FSDP of version 2, which Accelerate has for GPUs only: it is told to take it here, too."""
    if SIZE == 1:
        return place()
    import accelerate

    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2)
    given = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    given.state.distributed_type = accelerate.DistributedType.FSDP
    given.state.fsdp_plugin = plugin
    return given


def spread():
    kinds = []

    def note(ctx):
        kinds.append(type(ctx.optimizers["opt"].param_groups[0]["params"][0]).__name__)

    def fail(ctx):
        if ctx.epoch == 3:
            raise RuntimeError("on purpose")

    def run(path, on_epoch_begin):
        callbacks = [
            luz.callbacks.AutoResume(path),
            luz.callbacks.GradientClip(0.5),
            luz.callbacks.KeepBestModel("valid_loss"),
            luz.callbacks.ModelCheckpoint(FOLDER / "spread/{epoch}.pt"),
            luz.Callback.from_functions(on_epoch_begin=on_epoch_begin),
        ]
        model = setup(optimizer=torch.optim.Adam, lr=0.05, metrics=[luz.metrics.MAE()])
        data = {"valid": 0.2, "loader": options(drop_last=False)}
        return fit(rows(), model, 4, accelerator=fsdp(), callbacks=callbacks, **data)

    unbroken = run(FOLDER / "unbroken.pt", note)
    with contextlib.suppress(luz.LuzError):
        run(FOLDER / "broken.pt", fail)
    resumed = run(FOLDER / "broken.pt", note)
    torch.manual_seed(11)
    records = setup().lr_finder(
        rows(), 20, end_lr=1, accelerator=fsdp(), dataloader_options=options(), verbose=False
    )
    return found(
        unbroken,
        kinds=kinds,
        names=list(unbroken.model.state_dict()),
        resumed=weights(resumed),
        losses=torch.tensor(records["loss"].tolist()),
        preds=unbroken.predict(rows()[0], accelerator=fsdp(), verbose=False),
    )


def spread_refused():
    class OwnLoss(nn.Linear):
        def loss(self, pred, target):
            return (pred - target).square().mean()

    said = []
    for model, callbacks in (
        (luz.setup(lambda: OwnLoss(3, 1), optimizer=torch.optim.SGD), None),
        (setup(), luz.callbacks.MixedPrecision()),
        (setup(), luz.callbacks.TFEvents(FOLDER / "logs", histograms=True)),
    ):
        try:
            fit(rows(), model, 1, accelerator=fsdp(), callbacks=callbacks, loader=options())
        except (ValueError, luz.LuzError) as err:
            said.append(str(err))
    with unittest.mock.patch("luzpy.device.new_engine", return_value=fsdp()):
        try:
            place(mixed_precision="bf16")
        except ValueError as err:
            said.append(str(err))
    return {"said": said}


# What is refused


def refused():
    import accelerate

    said = {}

    def note(name, function):
        try:
            function()
            said[name] = ""
        except Exception as err:
            said[name] = f"{type(err).__name__}: {err}"

    split = accelerate.DataLoaderConfiguration(split_batches=True)
    note("split", lambda: fit(rows(), accelerator=accelerate.Accelerator(dataloader_config=split)))
    sampler = torch.utils.data.DistributedSampler(Rows(), SIZE, RANK)
    note("sampler", lambda: fit(DataLoader(Rows(), B, sampler=sampler)))
    note("default", lambda: setup().fit(rows(), 1, verbose=False))
    note("default finder", lambda: setup().lr_finder(rows(), 1))
    note("few", lambda: fit(DataLoader(Rows(5), 5, drop_last=True)))
    note(
        "batches",
        lambda: fit(rows(), callbacks=luz.callbacks.AutoResume(FOLDER / "none.pt", 2)),
    )
    note("cuda_index", lambda: luz.Accelerator(cuda_index=0, distributed=True))
    return said


def engines_refused():
    """Engines of kinds that cannot be had on a CPU: one is told that it is of that kind."""
    import accelerate

    said = []
    given = accelerate.Accelerator(cpu=True)
    own = given.state.distributed_type
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        given.state.distributed_type = accelerate.DistributedType(kind)
        try:
            fit(rows(), accelerator=given)
        except ValueError as err:
            said.append(str(err))
    given.state.distributed_type = own
    return {"said": said}


def each_alone():
    """`distributed=False`: every process trains by itself, on what it has."""
    alone = luz.Accelerator(cpu=True, distributed=False)
    torch.manual_seed(RANK)
    model = luz.setup(net, nn.MSELoss(), torch.optim.SGD, seed=RANK).set_opt_hparams(lr=0.1)
    fitted = model.fit(rows(), 1, accelerator=alone, verbose=False)
    return found(fitted)


def unused_parameter():
    """DistributedDataParallel's own rule: every parameter takes part in every step."""

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.used(x)

    try:
        return found(fit(rows(), setup(Unused), loader=options())) | {"said": ""}
    except Exception as err:
        return {"said": f"{type(err).__name__}: {err}"}


# Runs that fail


class Failing(Rows):
    def __getitem__(self, index):
        if RANK == SIZE - 1 and index > 60:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def fails_in_dataset():
    fit(Failing(), None, 50, loader=options())


def fails_in_callback():
    def fail(ctx):
        if RANK == SIZE - 1 and ctx.epoch == 2 and ctx.iter == 2:
            raise OSError("no space")

    callback = luz.Callback.from_functions(on_train_batch_end=fail)
    fit(rows(), None, 50, callbacks=callback, loader=options())


def one_rank_dies():
    def kill(ctx):
        if ctx.epoch == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(FOLDER / "state.pt", kill)


def endless():
    """Until a signal comes."""

    def say(ctx):
        if ctx.epoch == 2:
            (FOLDER / f"running-{RANK}").touch()

    callbacks = [luz.Callback.from_functions(on_epoch_begin=say)]
    callbacks.append(luz.callbacks.AutoResume(FOLDER / "endless.pt"))
    try:
        return found(fit(rows(), None, 10**6, callbacks=callbacks, loader=options()))
    except SystemExit as err:
        (FOLDER / f"ended-{RANK}").write_text(repr(err))
        raise


def main(folder, *names):
    global FOLDER
    FOLDER = Path(folder)
    results = {}
    for name in names:
        try:
            results[name] = globals()[name]()
        except Exception:
            if len(names) == 1:
                raise
            results[name] = {"failed": traceback.format_exc()}
        torch.save(results, FOLDER / f"rank-{RANK}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
