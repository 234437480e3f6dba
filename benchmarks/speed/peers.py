"""The same training by other packages, each as its own documentation tells a user to.

They compute no metric, and draw a bar where that is their default.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.speed.raw import Go, loader_of
from benchmarks.speed.workloads import BATCH_SIZE, SWEEP, SWEEP_STEPS, Data, Workload


def lightning_module(work: Workload) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss, self.lr = work.model(), work.make_loss(), work.lr

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            loss = self.loss(self.model(x), y)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return work.make_optimizer(self.parameters(), lr=self.lr)

    return Module()


def lightning_trainer(epochs: int) -> Any:
    import lightning

    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False
    )


def lightning(work: Workload, data: Data) -> Go:
    module, trainer, loader = (
        lightning_module(work),
        lightning_trainer(work.epochs),
        loader_of(data),
    )

    def go() -> nn.Module:
        trainer.fit(module, loader)
        return module.model

    return go


def fabric(work: Workload, data: Data) -> Go:
    from lightning.fabric import Fabric

    runner = Fabric(accelerator="cpu")
    runner.launch()
    plain = work.model()
    model, optimizer = runner.setup(plain, work.make_optimizer(plain.parameters(), lr=work.lr))
    loader, loss_fn = runner.setup_dataloaders(loader_of(data)), work.make_loss()

    def go() -> nn.Module:
        for _ in range(work.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                runner.backward(loss)
                optimizer.step()
        return plain

    return go


def accelerate(work: Workload, data: Data) -> Go:
    from accelerate import Accelerator

    runner = Accelerator(cpu=True)
    plain, loss_fn = work.model(), work.make_loss()
    model, optimizer, loader = runner.prepare(
        plain, work.make_optimizer(plain.parameters(), lr=work.lr), loader_of(data)
    )

    def go() -> nn.Module:
        for _ in range(work.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                runner.backward(loss)
                optimizer.step()
        return plain

    return go


def fastai_learner(work: Workload, data: Data) -> Any:
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    valid = loader_of((data[0][:BATCH_SIZE], data[1][:BATCH_SIZE]))
    return Learner(
        DataLoaders(loader_of(data), valid, device=torch.device("cpu")),
        work.model(),
        loss_func=work.make_loss(),
        opt_func=partial(OptimWrapper, opt=work.make_optimizer),
        lr=work.lr,
    )


def fastai(work: Workload, data: Data) -> Go:
    learner = fastai_learner(work, data)

    def go() -> nn.Module:
        learner.fit(work.epochs)
        return learner.model

    return go


def skorch(work: Workload, data: Data) -> Go:
    from skorch import NeuralNet

    net = NeuralNet(
        work.model(),
        criterion=type(work.make_loss()),
        optimizer=work.make_optimizer,
        lr=work.lr,
        max_epochs=work.epochs,
        batch_size=BATCH_SIZE,
        train_split=None,
        iterator_train__drop_last=True,
    )

    def go() -> nn.Module:
        net.fit(*data)
        return net.module_

    return go


def ignite_trainer(work: Workload) -> tuple[Any, nn.Module, torch.optim.Optimizer]:
    from ignite.engine import create_supervised_trainer

    model = work.model()
    optimizer = work.make_optimizer(model.parameters(), lr=work.lr)
    return create_supervised_trainer(model, optimizer, work.make_loss()), model, optimizer


def ignite(work: Workload, data: Data) -> Go:
    trainer, model, _ = ignite_trainer(work)
    loader = loader_of(data)

    def go() -> nn.Module:
        trainer.run(loader, max_epochs=work.epochs)
        return model

    return go


def poutyne(work: Workload, data: Data) -> Go:
    from poutyne import Model

    network = work.model()
    optimizer = work.make_optimizer(network.parameters(), lr=work.lr)
    model, loader = Model(network, optimizer, work.make_loss()), loader_of(data)

    def go() -> nn.Module:
        model.fit_generator(loader, epochs=work.epochs)
        return network

    return go


def pytorch_accelerated(work: Workload, data: Data) -> Go:
    from pytorch_accelerated import Trainer

    model = work.model()
    optimizer = work.make_optimizer(model.parameters(), lr=work.lr)
    trainer = Trainer(model, loss_func=work.make_loss(), optimizer=optimizer)
    in_process = {"shuffle": False, "drop_last": True, "num_workers": 0}

    def go() -> nn.Module:
        trainer.train(
            TensorDataset(*data),
            num_epochs=work.epochs,
            per_device_batch_size=BATCH_SIZE,
            train_dataloader_kwargs=in_process,
        )
        return model

    return go


def keras(work: Workload, data: Data) -> Go:
    """With Keras' own optimizer and loss: those of W1, its only work."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    plain = work.model()
    model = keras.Sequential(
        [keras.Input(data[0].shape[1:]), keras.layers.TorchModuleWrapper(plain)]
    )
    model.compile(optimizer=keras.optimizers.SGD(work.lr), loss=keras.losses.MeanSquaredError())
    loader = loader_of(data)

    def go() -> nn.Module:
        model.fit(loader, epochs=work.epochs)
        return plain

    return go


# ---------------------------------------------------------------- learning rate finders


def lightning_finder(work: Workload, data: Data) -> Go:
    from lightning.pytorch.tuner import Tuner

    module, tuner, loader = lightning_module(work), Tuner(lightning_trainer(1)), loader_of(data)
    sweep = {"min_lr": SWEEP["start_lr"], "max_lr": SWEEP["end_lr"], "num_training": SWEEP_STEPS}
    return lambda: tuner.lr_find(module, loader, **sweep, early_stop_threshold=None).results


def fastai_finder(work: Workload, data: Data) -> Go:
    import fastai.callback.schedule  # noqa: F401  # adds lr_find

    learner = fastai_learner(work, data)
    return lambda: learner.lr_find(**SWEEP, num_it=SWEEP_STEPS, stop_div=False, show_plot=False)


def torch_lr_finder(work: Workload, data: Data) -> Go:
    from torch_lr_finder import LRFinder

    model = work.model()
    optimizer = work.make_optimizer(model.parameters(), lr=SWEEP["start_lr"])
    finder = LRFinder(model, optimizer, work.make_loss(), device="cpu")
    loader = loader_of(data)

    def go() -> Any:
        finder.range_test(
            loader, end_lr=SWEEP["end_lr"], num_iter=SWEEP_STEPS, diverge_th=float("inf")
        )
        finder.reset()
        return finder.history

    return go


def ignite_finder(work: Workload, data: Data) -> Go:
    from ignite.handlers import FastaiLRFinder

    trainer, model, optimizer = ignite_trainer(work)
    finder, loader = FastaiLRFinder(), loader_of(data)
    saved = {"model": model, "optimizer": optimizer}

    def go() -> Any:
        with finder.attach(
            trainer, saved, num_iter=SWEEP_STEPS, diverge_th=1e30, **SWEEP
        ) as attached:
            attached.run(loader)
        return finder.get_results()

    return go
