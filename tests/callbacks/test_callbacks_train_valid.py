"""`TrainValid`: the module's mode, and what depends on it."""

import torch
from torch import nn

import luzpy as luz

X, Y = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(64, 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.fc = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1)
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, self.norm.training, self.drop.training))
        return self.fc(self.drop(self.norm(x)))


def fit(epochs=2, **kwargs):
    model = luz.setup(Net, nn.MSELoss(), torch.optim.SGD, seed=0).set_opt_hparams(lr=0.01)
    return model.fit((X, Y), epochs, verbose=False, **kwargs)


def test_training_is_in_train_mode_and_validation_in_eval_mode():
    modes = fit(valid_data=(X, Y)).model.modes
    assert modes == ([(True,) * 3] * 2 + [(False,) * 3] * 2) * 2


def test_validation_does_not_change_what_training_does():
    models = []
    for valid_data in (None, (X[:7], Y[:7])):
        torch.manual_seed(1)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=16)
        model = luz.setup(Net, nn.MSELoss(), torch.optim.SGD, seed=0).set_opt_hparams(lr=0.01)
        fitted = model.fit(loader, 1, valid_data=valid_data, verbose=False)
        models.append(fitted.model.state_dict())
    for name, tensor in models[0].items():
        assert torch.equal(tensor, models[1][name]), name


def test_evaluate_and_predict_keep_the_users_mode():
    fitted = fit(1)
    fitted.model.train()
    fitted.model.norm.eval()
    fitted.model.modes.clear()
    fitted.evaluate((X, Y), verbose=False)
    fitted.predict(X, verbose=False)
    assert set(fitted.model.modes) == {(False, False, False)}
    modes = {name: part.training for name, part in fitted.model.named_modules()}
    assert modes == {"": True, "norm": False, "drop": True, "fc": True}


def test_losses_of_training_are_forgotten_in_validation():
    seen = []

    class Silent(nn.Linear):
        def step(self):
            if self.ctx.training:
                self.ctx.loss = {
                    "opt": nn.functional.mse_loss(self(self.ctx.input), self.ctx.target)
                }
            else:
                seen.append(dict(self.ctx.loss))

    model = luz.setup(lambda: Silent(3, 1), optimizer=torch.optim.SGD)
    fitted = model.fit((X, Y), 1, valid_data=(X, Y), verbose=False)
    assert seen == [{}] * 3  # of these the first before the epoch
    assert fitted.records["metrics"]["train"][0]["loss"] > 0
