"""A character model, as nanoGPT trains it: GPT-2 of Hugging Face, AdamW, warm-up, clipping."""

import pytest
import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch.utils.data import DataLoader, Dataset

import luzpy as luz

transformers = pytest.importorskip("transformers")

EPOCHS = 2
TEXT = "to be or not to be, that is the question: whether it is nobler in the mind to suffer " * 3
LETTERS = sorted(set(TEXT))
BLOCK = 12


class Windows(Dataset):
    def __init__(self):
        self.ids = torch.tensor([LETTERS.index(letter) for letter in TEXT])

    def __len__(self):
        return (len(self.ids) - 1) // BLOCK

    def __getitem__(self, index):
        ids = self.ids[index * BLOCK : (index + 1) * BLOCK]
        return {"input_ids": ids, "labels": ids}


def gpt():
    config = transformers.GPT2Config(
        vocab_size=len(LETTERS), n_positions=BLOCK, n_embd=16, n_layer=2, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def warm_up(step):
    return min(1.0, (step + 1) / 5)


def test_gpt():
    data = DataLoader(Windows(), 4)
    model = luz.setup(gpt, optimizer=torch.optim.AdamW).set_opt_hparams(lr=1e-2, weight_decay=0.1)

    module = by_hand(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for batch in data:
            optimizer.zero_grad()
            loss = module(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            mean.add(loss, len(batch["input_ids"]))
        losses.append(mean.value)

    callbacks = [
        luz.callbacks.GradientClip(1.0),
        luz.callbacks.LRScheduler(
            torch.optim.lr_scheduler.LambdaLR, warm_up, call_on="on_train_batch_end"
        ),
    ]
    fitted = fit(model, data, EPOCHS, callbacks=callbacks)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    with torch.no_grad():
        ids = next(iter(data))["input_ids"]
        expected = module.eval()(input_ids=ids).logits
    found = fitted.predict({"input_ids": ids}, verbose=False, accelerator=CPU, batch_size=4)
    assert torch.equal(found, expected)
