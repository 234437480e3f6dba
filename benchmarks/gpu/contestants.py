"""Who does the work: each prepares it, and gives back what is timed. Its result is a loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz
from benchmarks.gpu.workloads import LR, SWEEP, Data, Work

Go = Callable[[], float]


class ElsewhereError(Exception):
    """A package has chosen another device."""


class LeftOutError(Exception):
    """A contestant takes no part in a row, so that all of them take minutes."""


def unless_graphs(work: Work) -> None:
    if work.variant == "CUDA graphs":
        raise LeftOutError


def slices(work: Work, device: torch.device) -> list[Data]:
    """The batches of an epoch, on the device."""
    x, y = (part.to(device) for part in work.data)
    return list(zip(x.split(work.batch_size), y.split(work.batch_size), strict=True))


def loader(work: Work) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(*work.data),
        batch_size=work.batch_size,
        num_workers=work.workers or 0,
        persistent_workers=bool(work.workers),
        pin_memory=work.workers is not None,
    )


def bare_fit(work: Work, device: torch.device) -> Go:
    model = work.model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=work.is_fused or None)
    loss_fn = nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler(device.type, enabled=work.dtype is torch.float16)
    autocast = partial(torch.autocast, device.type, dtype=work.dtype or torch.bfloat16)
    source: Any = slices(work, device) if work.workers is None else loader(work)

    def go() -> float:
        loss = torch.zeros(())
        for _ in range(work.epochs):
            for batch in source:
                x, y = (part.to(device, non_blocking=True) for part in batch)
                optimizer.zero_grad()
                with autocast(enabled=work.dtype is not None):
                    loss = loss_fn(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        return float(loss.detach())

    return go


def graph_fit(work: Work, device: torch.device) -> Go:
    """A bare loop whose whole step is one CUDA graph: nothing can come between its parts."""
    if work.workers is not None or work.variant not in ("fp32", "compiled"):
        raise LeftOutError
    if device.type != "cuda":
        raise ElsewhereError("it needs CUDA")
    model, loss_fn = work.model().to(device), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, capturable=True)
    parts = slices(work, device)
    x, y = (part.clone() for part in parts[0])

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    aside = torch.cuda.Stream(device)
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def go() -> float:
        for _ in range(work.epochs):
            for own_x, own_y in parts:
                x.copy_(own_x)
                y.copy_(own_y)
                graph.replay()
        return float(loss.detach())

    return go


def bare_finder(work: Work, device: torch.device) -> Go:
    model = work.model().to(device)
    optimizer, loss_fn = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    parts = slices(work, device)
    steps, (start, end) = work.steps, SWEEP

    def go() -> float:
        losses = []
        for step in range(steps):
            x, y = parts[step % len(parts)]
            optimizer.param_groups[0]["lr"] = start * (end / start) ** ((step + 1) / steps)
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            losses.append(loss.detach())
            loss.backward()
            optimizer.step()
        return float(torch.stack(losses)[0])

    return go


def bare_predict(work: Work, device: torch.device) -> Go:
    model = work.model().to(device).eval()
    parts = slices(work, device)

    def go() -> float:
        with torch.no_grad():
            return float(torch.cat([model(x) for x, _ in parts]).cpu().abs().mean())

    return go


def specification(work: Work) -> Any:
    options = {"fused": True} if work.is_fused else {}
    model = luz.setup(work.model, nn.CrossEntropyLoss(), torch.optim.Adam)
    return model.set_opt_hparams(lr=LR, **options)


def ours_fit(work: Work, device: torch.device) -> Go:
    model = specification(work)
    callbacks = []
    if work.dtype is not None:
        callbacks = [luz.callbacks.MixedPrecision(dtype=work.dtype)]
    data, options = work.data, {"batch_size": work.batch_size, "shuffle": False}
    if work.workers is not None:
        data, options = loader(work), None

    def go() -> float:
        fitted = model.fit(
            data,
            work.epochs,
            callbacks,
            accelerator=luz.Accelerator(device=device),
            verbose=False,
            dataloader_options=options,
        )
        return fitted.records["metrics"]["train"][-1]["loss"]

    return go


def ours_finder(work: Work, device: torch.device) -> Go:
    model, (start, end) = specification(work), SWEEP
    options = {"batch_size": work.batch_size, "shuffle": False}

    def go() -> float:
        records = model.lr_finder(
            work.data,
            work.steps,
            start,
            end,
            accelerator=luz.Accelerator(device=device),
            verbose=False,
            dataloader_options=options,
        )
        return records["loss"][0]

    return go


def ours_predict(work: Work, device: torch.device) -> Go:
    x, y = work.data
    few, accelerator = work.batch_size, luz.Accelerator(device=device)
    spec = specification(work).set_opt_hparams(lr=0.0)  # the weights stay as they are
    options = {"batch_size": work.batch_size}
    fitted = spec.fit(
        (x[:few], y[:few]), 1, accelerator=accelerator, verbose=False, dataloader_options=options
    )

    def go() -> float:
        predictions = fitted.predict(
            x, accelerator=accelerator, verbose=False, dataloader_options=options
        )
        return float(predictions.abs().mean())

    return go


def accelerate_fit(work: Work, device: torch.device) -> Go:
    unless_graphs(work)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # it has one precision a process
    runner = Accelerator(mixed_precision=work.variant if work.dtype is not None else "no")
    if runner.device.type != device.type:
        raise ElsewhereError(f"it computes on {runner.device}")
    plain, loss_fn = work.model(), nn.CrossEntropyLoss()
    model, optimizer, prepared = runner.prepare(
        plain, torch.optim.Adam(plain.parameters(), lr=LR), loader(work)
    )

    def go() -> float:
        loss = torch.zeros(())
        for _ in range(work.epochs):
            for x, y in prepared:
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                runner.backward(loss)
                optimizer.step()
        return float(loss.detach())

    return go


def lightning_fit(work: Work, device: torch.device) -> Go:
    unless_graphs(work)
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = work.model(), nn.CrossEntropyLoss()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            self.last = self.loss(self.model(x), y)
            return self.last

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LR)

    precision: Any = {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(work.variant, "32-true")
    trainer = lightning.Trainer(
        max_epochs=work.epochs,
        accelerator="auto",
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if trainer.strategy.root_device.type != device.type:
        raise ElsewhereError(f"it computes on {trainer.strategy.root_device}")
    module, prepared = Module(), loader(work)

    def go() -> float:
        trainer.fit(module, prepared)
        return float(module.last)

    return go


def fastai_fit(work: Work, device: torch.device) -> Go:
    unless_graphs(work)
    import fastai.callback.fp16
    import fastai.callback.progress  # noqa: F401  (they add methods to Learner)
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    x, y = work.data
    valid = DataLoader(TensorDataset(x[: work.batch_size], y[: work.batch_size]), work.batch_size)
    learner = Learner(
        DataLoaders(loader(work), valid, device=device),
        work.model(),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam),
        lr=LR,
    )
    if work.dtype is not None:
        learner = learner.to_bf16() if work.variant == "bf16" else learner.to_fp16()

    def go() -> float:
        with learner.no_bar(), learner.no_logging(), contextlib.redirect_stdout(None):
            learner.fit(work.epochs)
        return float(learner.recorder.losses[-1])

    return go


CONTESTANTS: dict[str, dict[str, Callable[[Work, torch.device], Go]]] = {
    "fit": {
        "bare loop": bare_fit,
        "luzpy": ours_fit,
        "one graph": graph_fit,
        "Accelerate": accelerate_fit,
        "Lightning": lightning_fit,
        "fastai": fastai_fit,
    },
    "lr_finder": {"bare loop": bare_finder, "luzpy": ours_finder},
    "predict": {"bare loop": bare_predict, "luzpy": ours_predict},
}
