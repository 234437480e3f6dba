"""Two networks against each other: a generator every third batch; and WGAN-GP's penalty."""

import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 2


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        self.critic = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def set_optimizers(self, lr):
        return {
            "d": torch.optim.Adam(self.critic.parameters(), lr, betas=(0.5, 0.999)),
            "g": torch.optim.Adam(self.generator.parameters(), lr, betas=(0.5, 0.999)),
        }

    def losses(self, real, index):
        """The loss of the critic, then of the generator where it is its turn."""
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = self.generator(torch.randn(len(real), 2))
        logits = F.binary_cross_entropy_with_logits
        yield "d", logits(self.critic(real), ones) + logits(self.critic(fake.detach()), zeros)
        if index % 3 == 0:
            yield "g", logits(self.critic(fake), ones)

    def step(self):
        ctx = self.ctx
        for name, loss in self.losses(ctx.input, ctx.iter):
            optimizer = ctx.optimizers[name]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ctx.loss[name] = loss.detach()


class WassersteinGan(Gan):
    def losses(self, real, index):
        fake = self.generator(torch.randn(len(real), 2))
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
        yield "d", self.critic(fake.detach()).mean() - self.critic(real).mean() + penalty
        if index % 5 == 0:
            yield "g", -self.critic(fake).mean()


def check(kind):
    generator = torch.Generator().manual_seed(3)
    data = DataLoader(TensorDataset(torch.randn(58, 3, generator=generator)), 4, shuffle=True)
    model = luz.setup(kind).set_opt_hparams(lr=1e-2)

    module = by_hand(model)
    optimizers = module.set_optimizers(1e-2)
    means = {"d": [], "g": []}
    for _ in range(EPOCHS):
        epoch = {"d": Mean(), "g": Mean()}
        for index, (real,) in enumerate(data, start=1):
            for name, loss in module.losses(real, index):
                optimizers[name].zero_grad()
                loss.backward()
                optimizers[name].step()
                epoch[name].add(loss, len(real))
        for name, mean in epoch.items():
            means[name].append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, means["d"], "loss_d")
    assert_reported(fitted, means["g"], "loss_g")


def test_gan():
    check(Gan)


def test_wgan_gp():
    check(WassersteinGan)
