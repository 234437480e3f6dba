"""What the guides claim, checked on the executed notebooks."""

import re

import pytest
from execution import is_drawn, outputs, texts

pytestmark = pytest.mark.slow

NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"


def numbers(pattern, text):
    """Every number that stands where `{}` does in `pattern`."""
    found = re.findall(pattern.format(NUMBER), text, re.M)
    return [float(number) for number in found]


def assert_pictures(notebook, count):
    pictures = outputs(notebook, "image/png")
    assert len(pictures) == count
    assert all(map(is_drawn, pictures))


def test_get_started(executed):
    notebook = executed("get-started.md")
    text = texts(notebook)
    assert_pictures(notebook, 3)
    losses = numbers("^Valid metrics: Loss: {}", text)
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    *_, accuracy = numbers("^acc: {}$", text)
    assert accuracy > 0.75  # a guess among ten classes: 0.1
    (top3,) = numbers(r"\btop3 +{}$", text)
    assert top3 > 0.95  # three guesses: 0.3
    assert re.search(r"iteration 5: .*\n+iteration 10: .*\n+Done!", text)


def test_custom_loop(executed):
    notebook = executed("custom-loop.md")
    text = texts(notebook)
    assert_pictures(notebook, 3)
    accuracies = numbers("^acc: {}$", text)
    assert len(accuracies) == 5
    assert min(accuracies) > 0.8  # a guess among ten classes: 0.1
    plain, penalized = numbers("{}% of the first layer's weights", text)
    assert plain < 20
    assert penalized > 40
    assert "the same weights: True" in text
    hooks = re.findall(r"^on_\w+$", text, re.M)
    assert hooks == [
        *("on_fit_begin", "on_epoch_begin", "on_train_begin", "on_train_batch_begin"),
        *("on_train_batch_after_pred", "on_train_batch_after_loss"),
        *("on_train_batch_before_backward", "on_train_batch_before_step"),
        *("on_train_batch_after_step", "on_train_batch_end", "on_train_end"),
        *("on_valid_begin", "on_valid_batch_begin", "on_valid_batch_after_pred"),
        *("on_valid_batch_after_loss", "on_valid_batch_end", "on_valid_end"),
        *("on_epoch_end", "on_fit_end"),
    ]
    assert 0 < numbers("an accuracy of 90% after epoch {}", text)[0] < 50
    assert re.search("^time limit$", text, re.M)
    where = "in the callback Faulty, on_train_batch_end, at epoch 2, iteration 3 (training)."
    assert f"KeyError: 'no such thing'\nluzpy: {where}" in text


def test_checkpoints(executed):
    notebook = executed("checkpoints.md")
    text = texts(notebook)
    assert_pictures(notebook, 1)
    assert "an accident in epoch 5" in text
    assert "Resuming after epoch 4, from state.pt\nEpoch 5/10" in text
    # Once after an error in this process, once after SIGKILL and SIGTERM in another.
    equal = [("weights", "True"), ("metrics", "True")]
    assert re.findall(r"(\w+) equal to the bit: (\w+)", text) == equal * 2
    assert numbers("exit status: {}", text) == [0, -9, 143, 0]
    assert text.count("begins: Resuming after") == 2
    assert numbers("accuracy of the last epoch: {}", text)[0] > 0.9  # a guess: 0.1
    assert numbers("epochs before the accident: {}", text) == [5]
    assert numbers("epochs in the end: {}", text) == [10]
    files = re.findall(r"^checkpoints/epoch-(\d\d)-valid_loss-\d\.\d{3}\.pt$", text, re.M)
    assert files == ["01", "02", "03", "04", "05", "06"]
    accuracies = numbers(r"^epoch-\d\d: {}%$", text)
    assert len(accuracies) == 6
    assert accuracies[-1] > accuracies[0]
    assert "half.luz is truncated" in text


def test_data(executed):
    notebook = executed("data.md")
    text = texts(notebook)
    assert_pictures(notebook, 1)
    of_frames, of_stream = numbers("^mae: {}$", text)
    (of_mean,) = numbers("the mean for every diamond: {}", text)
    assert of_frames < 0.07
    assert of_stream < 0.1
    assert of_mean > 0.3
    assert "all the same: True" in text
    found = re.findall(r"^  (\w+Error): `(\w+)", text, re.M)
    assert found == [
        ("TypeError", "data"),
        ("ValueError", "data"),
        ("TypeError", "data"),
        ("ValueError", "data"),
        ("ValueError", "data"),
        ("ValueError", "dataloader_options"),
        ("TypeError", "dataloader_options"),
        ("ValueError", "valid_data"),
        ("ValueError", "valid_data"),
        ("ValueError", "steps"),
    ]
    # Row 100 of batches of 32, in order.
    note = "luzpy: in `data`, batch 4 of epoch 1."
    assert f"OSError: file 100 cannot be read\n  {note}" in text


def test_metrics(executed):
    notebook = executed("metrics.md")
    text = texts(notebook)
    assert_pictures(notebook, 1)
    (by_batches,) = numbers("^mean of the batches' recalls: {}$", text)
    by_sklearn, by_class = numbers("^recall: {}$", text)[:2]
    assert by_class == pytest.approx(by_sklearn, abs=1e-12)
    assert abs(by_batches - by_sklearn) > 0.01
    (accuracy,) = numbers("^acc: {}$", text)
    assert accuracy > 0.85  # "all benign": 0.6
    (f1,) = numbers(r"\bbinaryf1score +{}$", text)
    assert f1 > 0.85  # "all malignant": 0.57
    assert "early stopping after epoch" in text
    assert len(numbers(r"\bgap +[123] +{}$", text)) == 3
    assert len(re.findall(r"^(?:Type|Value|Luz)Error: ", text, re.M)) == 5
    assert "luzpy: in `update` of the metric 'Acc', at epoch 1, iteration 1" in text


def test_scikit_learn(executed):
    notebook = executed("scikit-learn.md")
    text = texts(notebook)
    assert_pictures(notebook, 2)
    (linear,) = numbers("^R² of a linear model: {}$", text)
    (network,) = numbers("^R² of the network: {}$", text)
    (found,) = numbers("^R² at [^:]+: {}$", text)
    (best,) = numbers("^R² of the best: {}$", text)
    assert 0.97 < linear < min(network, found, best)
    network, logistic = numbers("^area under the ROC curve, [a-z ]+: {}$", text)
    assert logistic > 0.99
    assert network == pytest.approx(logistic, abs=0.01)
    assert "'benign' 'malignant'" in text
    assert "early stopping after epoch" in text


def test_from_r_luz(executed):
    notebook = executed("from-r-luz.md")
    text = texts(notebook)
    assert_pictures(notebook, 2)
    assert "R's luz_callback_early_stopping is luz.callbacks.EarlyStopping" in text
    (error,) = numbers("^mae: {}$", text)
    assert error < 0.08  # the mean of the logarithms for every diamond: 0.38
    assert numbers("^Iteration {}$", text) == [100, 200, 300]
    assert "True\nFalse" in text


def test_from_other_libraries(executed):
    notebook = executed("from-other-libraries.md")
    text = texts(notebook)
    assert_pictures(notebook, 1)
    assert "early stopping after epoch" in text
    (accuracy,) = numbers("^acc: {}$", text)
    assert accuracy > 0.85  # a guess among ten classes: 0.1
    first, second = numbers("^  {}$", text)
    assert first == pytest.approx(second, rel=0.2)  # both begin anew, with another order of rows
    (continued,) = numbers(r"^{}$", text)[:1]
    assert continued < first / 2


def test_accelerator(executed):
    pytest.importorskip("accelerate")
    text = texts(executed("accelerator.md"))
    (large,), (accumulated,) = (
        re.findall(rf"^{title}: +(\[.+\])$", text, re.M)
        for title in ("batches of 128", "four batches of 32")
    )
    assert large == accumulated  # losses, rounded to four digits
    kinds = r"Epoch \d/3 .*?|loss: .*|acc: .*|397 predictions"
    lines = re.findall(rf"^({kinds})(?: \(\d+ms\))?$", text, re.M)
    assert len(lines) == 12  # of one process, then of two: only the first of them prints
    one, two = lines[:6], lines[6:]
    for line, other in zip(one, two, strict=True):
        assert numbers("{}", line) == pytest.approx(numbers("{}", other), abs=2e-3)
    (accuracy,) = numbers("^acc: {}$", "\n".join(two))
    assert accuracy > 0.8  # a guess among ten classes: 0.1
    assert "all weights within 0.001 of each other: True" in text
    assert "This is one of 2 processes" in text


def test_notebook_to_cluster(executed):
    notebook = executed("notebook-to-cluster.md")
    text = texts(notebook)
    assert_pictures(notebook, 2)
    assert "['metrics.csv', 'state.pt', 'train.py']" in text  # killed: no result yet
    assert "['metrics.csv', 'net.luz', 'train.py']" in text  # ended: no state any more
    assert "bit for bit the same: True" in text
    resumed, unbroken, together = numbers("^last validation loss: {}", text)
    assert resumed == unbroken
    assert together < 0.2  # of targets whose variance is 1


def test_recipes(executed):
    for package in ("transformers", "optuna", "schedulefree"):
        pytest.importorskip(package)
    text = texts(executed("recipes.md"))
    (accuracy,) = numbers(r"valid +acc +12 +{}$", text)
    assert accuracy > 0.9  # a guess among three kinds: a third
    assert "weights: [1.0, 1.0, 1.0]" in text  # of the rows that are right
    assert "`unpack` must say which part of a batch is the input" in text
    assert numbers("^loss: {}$", text)[0] < 0.1  # of the mean rating: about 0.6
    assert "30 images, boxes: [" in text
    assert "epochs: 5" in text
    total, image, kl = (numbers(rf"train +{name} +5 +{{}}$", text)[0] for name in (
        "loss", "loss_image", "loss_kl",
    ))  # fmt: skip
    assert total == pytest.approx(image + kl, abs=2e-6)
    (pair,) = re.findall(r"^\[([\d.]+), ([\d.]+)\]$", text, re.M)
    assert float(pair[1]) < float(pair[0]) / 2
    (unseen,) = numbers("^LBFGS: {}$", text)
    assert unseen < 0.05  # of targets whose variance is about 1
    assert numbers("^schedule-free: {}$", text)[0] < 0.5
    backbone, bias, rest = map(
        float, re.findall(r"^\[([\d.]+), ([\d.]+), ([\d.]+)\]$", text, re.M)[0]
    )
    assert (backbone, bias, rest) == pytest.approx((0.002, 0.02, 0.02))
    assert 1 <= numbers("^pruned: {} of 8$", text)[0] < 8
    assert "2 train_loss valid_loss" in text
    assert "exported, and the same: True" in text
    assert "ONNX: " in text or "ONNX is not installed here" in text
