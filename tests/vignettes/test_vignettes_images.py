"""What the vignettes on images claim, checked on the executed notebooks."""

import re

import pytest
from execution import is_drawn, outputs, texts


def number(pattern, text):
    """The last number that the text has after `pattern`."""
    return float(re.findall(rf"{pattern} *(-?[\d.]+)", text, re.M)[-1])


def all_drawn(notebook, n):
    pictures = outputs(notebook, "image/png")
    return len(pictures) == n and all(is_drawn(picture) for picture in pictures)


@pytest.mark.slow
def test_mnist_cnn(executed):
    notebook = executed("mnist-cnn.md")
    text = texts(notebook)
    assert number("^acc:", text) > 0.78  # a guess is right in 0.1
    assert text.rstrip().endswith("True")  # the loaded model predicts the same
    assert all_drawn(notebook, 3)


@pytest.mark.slow
def test_mnist_autoencoder(executed):
    notebook = executed("mnist-autoencoder.md")
    text = texts(notebook)
    assert "torch.Size([1000, 6400])" in text  # `predict` is the encoder
    assert number("^loss:", text) < 0.03  # the mean image has 0.087
    assert number("Same kind:", text) > 60  # by chance 10
    assert all_drawn(notebook, 4)


@pytest.mark.slow
def test_mnist_mixup(executed):
    notebook = executed("mnist-mixup.md")
    rows = re.findall(
        r"^(plain|mixup) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", texts(notebook), re.M
    )
    plain, mixup = ([float(value) for value in row[1:]] for row in rows)
    assert [row[0] for row in rows] == ["plain", "mixup"]
    assert plain[0] > 0.7  # a guess is right in 0.1
    assert mixup[0] > 0.7
    assert mixup[2] < plain[2]  # less sure where it is wrong
    assert mixup[3] < plain[3]  # and so a smaller loss
    assert all_drawn(notebook, 2)


@pytest.mark.slow
def test_mnist_dcgan(executed):
    notebook = executed("mnist-dcgan.md")
    text = texts(notebook)
    unseen, made, untrained = (
        number(f"nearest real image, {what}:", text) for what in ("unseen", "made", "untrained")
    )
    assert 0.5 * unseen < made < 0.7 * untrained  # neither copies nor noise
    assert all_drawn(notebook, 5)


@pytest.mark.slow
def test_mnist_triplet(executed):
    notebook = executed("mnist-triplet.md")
    text = texts(notebook)
    assert number("Valid metrics: Loss:", text) < 0.5  # everything in one place has 1
    assert number("Same kind:", text) > 45  # by chance 10
    assert all_drawn(notebook, 2)


@pytest.mark.slow
def test_mnist_cnn_virtual_batch_size(executed):
    notebook = executed("mnist-cnn-virtual-batch-size.md")
    text = texts(notebook)
    assert "accumulated by step: the same weights" in text
    assert "accumulated by callback: the same weights" in text
    assert "accumulated by the accelerator: the same weights" in text
    assert "accumulated not at all: other weights" in text
    assert number("Valid metrics: .* Acc:", text) > 0.75  # a guess is right in 0.1
    assert all_drawn(notebook, 2)


@pytest.mark.slow
def test_dogs_vs_cats(executed):
    notebook = executed("dogs-vs-cats.md")
    text = texts(notebook)
    pretrained, from_scratch = number("^pretrained:", text), number("^from scratch:", text)
    assert pretrained > 80  # a guess is right in 50
    assert pretrained > from_scratch
    ends = re.findall(r"right on average, ([\d.]+)% to ([\d.]+)%", text)
    scratch_spread, pretrained_spread = (float(most) - float(least) for least, most in ends)
    assert pretrained_spread < scratch_spread
    assert re.search(r"^True$", text, re.M)  # the frozen features are unchanged
    assert all_drawn(notebook, 5)


@pytest.mark.slow
def test_pets_unet(executed):
    notebook = executed("pets-unet.md")
    text = texts(notebook)
    assert number("^jaccard:", text) > 0.6  # background everywhere has 0.26
    assert all_drawn(notebook, 4)
