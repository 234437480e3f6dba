"""Models of Hugging Face without a wrapper, beside their own loops."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import luzpy as luz
from luzpy.ground.nested import to_device

transformers = pytest.importorskip("transformers")
CPU = luz.Accelerator(cpu=True)


def bert():
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2():
    config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)


def sentences(rows=42, length=8, *, of_text=False):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 30, (rows, length), generator=generator)
    lengths = torch.randint(3, length + 1, (rows, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    labels = ids.masked_fill(mask == 0, -100) if of_text else ids[:, 0] % 3
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


class Rows:
    """What a `datasets.Dataset` has: a length and items, and no base class of torch."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["labels"])

    def __getitem__(self, index):
        return {name: column[index] for name, column in self.columns.items()}


def trained_by_hand(model, columns, epochs):
    """The plain loop; the mean losses of each epoch, in training and after it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    means = []
    for _ in range(epochs):
        total = 0.0
        for batch in DataLoader(Rows(columns), 5):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch["labels"])
        train = total / len(columns["labels"])
        model.eval()
        with torch.no_grad():
            total = sum(
                model(**batch).loss.item() * len(batch["labels"])
                for batch in DataLoader(Rows(columns), 5)
            )
        model.train()
        means.append((train, total / len(columns["labels"])))
    return means


@pytest.mark.parametrize("form", ["columns", "rows", "loader"])
@pytest.mark.parametrize(("maker", "of_text"), [(bert, False), (gpt2, True)])
def test_every_verb_is_what_the_plain_loop_gives(maker, of_text, form):
    columns = sentences(of_text=of_text)
    model = luz.setup(maker, optimizer=torch.optim.AdamW).set_opt_hparams(lr=1e-2)
    data = {"columns": columns, "rows": Rows(columns), "loader": DataLoader(Rows(columns), 5)}[form]
    options = None
    if form != "loader":
        options = {"batch_size": 5, "shuffle": False, "drop_last": False}
    expected = model()
    torch.manual_seed(7)
    losses = trained_by_hand(expected, columns, 2)
    torch.manual_seed(7)
    fitted = model.fit(
        data, 2, valid_data=data, verbose=False, accelerator=CPU, dataloader_options=options
    )
    expected.eval()
    for own, other in zip(fitted.model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(own, other)
    rows = fitted.get_metrics()
    assert rows[rows["set"] == "train"]["value"].tolist() == pytest.approx([x for x, _ in losses])
    assert rows[rows["set"] == "valid"]["value"].tolist() == pytest.approx([x for _, x in losses])
    options = {"batch_size": 5} if options else None
    with torch.no_grad():
        batches = DataLoader(Rows(columns), 5)
        logits = torch.cat(
            [
                expected(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits
                for b in batches
            ]
        )
    found = fitted.predict(data, verbose=False, accelerator=CPU, dataloader_options=options)
    assert torch.equal(found, logits)
    evaluation = fitted.evaluate(data, verbose=False, accelerator=CPU, dataloader_options=options)
    assert evaluation["loss"] == pytest.approx(losses[-1][1])
    curve = model.lr_finder(
        data, steps=3, verbose=False, accelerator=CPU, dataloader_options=options
    )
    assert len(curve) == 3
    assert curve["loss"].notna().all()


def test_metrics_get_the_logits_and_the_labels():
    columns = sentences()
    model = luz.setup(bert, optimizer=torch.optim.SGD, metrics=luz.metrics.Accuracy())
    fitted = model.set_opt_hparams(lr=0.1).fit(columns, 1, verbose=False, accelerator=CPU)
    logits = fitted.predict(columns, verbose=False, accelerator=CPU)
    expected = (logits.argmax(1) == columns["labels"]).float().mean().item()
    found = fitted.evaluate(columns, verbose=False, accelerator=CPU)
    assert found["acc"] == pytest.approx(expected)


def test_a_loss_of_the_users_gets_the_whole_output_and_so_do_metrics():
    seen = []

    def loss(output, labels):
        seen.append(type(output).__name__)
        return nn.functional.cross_entropy(output.logits, labels)

    def right(output, labels):
        seen.append(type(output).__name__)
        return (output.logits.argmax(1) == labels).float().mean()

    model = luz.setup(bert, loss, torch.optim.SGD, [right]).set_opt_hparams(lr=0.1)
    fitted = model.fit(sentences(), 1, verbose=False, accelerator=CPU)
    assert set(seen) == {"SequenceClassifierOutput"}
    found = fitted.predict(sentences(), verbose=False, accelerator=CPU)
    assert type(found).__name__ == "SequenceClassifierOutput"
    assert found.logits.shape == (42, 3)


def test_without_labels_there_is_no_loss_and_the_message_says_what_to_do():
    columns = sentences()
    del columns["labels"]
    model = luz.setup(bert, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    with pytest.raises(ValueError, match=r"`loss` must be given to `setup`.*\.loss` of what its"):
        model.fit(columns, 1, verbose=False, accelerator=CPU)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_encodings_and_outputs_keep_their_type_on_every_device(device):
    encoding = transformers.BatchEncoding(sentences())
    output = bert()(**sentences())
    for thing in (encoding, output):
        moved = to_device(thing, torch.device(device))
        assert type(moved) is type(thing)
        assert {part.device.type for part in moved.values()} == {device}
        assert list(moved) == list(thing)
    assert moved.logits.device.type == device
    assert output.logits.device.type == "cpu"


def test_a_collator_of_encodings():
    columns = sentences()

    def collate(rows):
        parts = {name: torch.stack([row[name] for row in rows]) for name in columns}
        return transformers.BatchEncoding(parts)

    model = luz.setup(bert, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    options = {"collate_fn": collate}
    fitted = model.fit(Rows(columns), 1, verbose=False, accelerator=CPU, dataloader_options=options)
    found = fitted.predict(
        Rows(columns), verbose=False, accelerator=CPU, dataloader_options=options
    )
    assert torch.equal(found, fitted.predict(columns, verbose=False, accelerator=CPU))
