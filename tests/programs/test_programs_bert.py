"""Sentences of three kinds: BERT of Hugging Face, with padding, and weights of the classes."""

import pytest
import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luzpy as luz

transformers = pytest.importorskip("transformers")

EPOCHS = 2
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


def bert():
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def sentences():
    generator = torch.Generator().manual_seed(0)
    for _ in range(22):
        length = int(torch.randint(3, 10, (1,), generator=generator))
        ids = torch.randint(1, 30, (length,), generator=generator)
        yield ids, int(ids[0]) % 3


def padded(rows):
    ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in rows], batch_first=True)
    labels = torch.tensor([label for _, label in rows])
    return transformers.BatchEncoding(
        {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}
    )


def weighted(output, labels):
    return F.cross_entropy(output.logits, labels, weight=CLASS_WEIGHTS)


def right(output, labels):
    return (output.logits.argmax(1) == labels).float().mean()


@pytest.mark.parametrize("loss", [None, weighted], ids=["its_loss", "weighted"])
def test_bert(loss):
    data = DataLoader(list(sentences()), 5, collate_fn=padded)
    model = luz.setup(bert, loss, torch.optim.AdamW, None if loss is None else [right])
    model = model.set_opt_hparams(lr=5e-3)

    module = by_hand(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    losses, accuracies = [], []
    for _ in range(EPOCHS):
        mean, accuracy = Mean(), Mean()
        for batch in data:
            optimizer.zero_grad()
            output = module(**batch)
            value = output.loss if loss is None else loss(output, batch["labels"])
            value.backward()
            optimizer.step()
            mean.add(value, len(batch["labels"]))
            accuracy.add(right(output, batch["labels"]), len(batch["labels"]))
        losses.append(mean.value)
        accuracies.append(accuracy.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    assert_reported(fitted, [] if loss is None else accuracies, "right")
    module.eval()
    with torch.no_grad():
        outputs = [module(b["input_ids"], b["attention_mask"]) for b in data]
    found = fitted.predict(data, verbose=False, accelerator=CPU)
    expected = torch.cat([output.logits for output in outputs])
    assert torch.equal(found if loss is None else found.logits, expected)
