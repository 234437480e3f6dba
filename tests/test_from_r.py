"""Everything that R luz exports has a name here, and the table says so."""

import re
from functools import reduce
from pathlib import Path

import pytest

import luzpy as luz
from luzpy.ground.r_names import FROM_R

# The exports of R luz 0.5.0, from its NAMESPACE.
EXPORTS = """
    %>% accelerator as_dataloader as_dataset evaluate fit get_metrics lr_finder luz_callback
    luz_callback_auto_resume luz_callback_csv_logger luz_callback_early_stopping
    luz_callback_gradient_clip luz_callback_interrupt luz_callback_keep_best_model
    luz_callback_lr_scheduler luz_callback_metrics luz_callback_mixed_precision luz_callback_mixup
    luz_callback_model_checkpoint luz_callback_profile luz_callback_progress
    luz_callback_resume_from_checkpoint luz_callback_tfevents luz_callback_train_valid luz_load
    luz_load_checkpoint luz_load_model_weights luz_metric luz_metric_accuracy
    luz_metric_binary_accuracy luz_metric_binary_accuracy_with_logits luz_metric_binary_auroc
    luz_metric_mae luz_metric_mse luz_metric_multiclass_auroc luz_metric_rmse luz_metric_set
    luz_save luz_save_model_weights nn_mixup_loss nnf_mixup predict set_hparams set_opt_hparams
    setup
""".split()  # noqa: SIM905
TABLE = Path(__file__).parent.parent / "docs" / "from-r.md"


def table():
    """R name → luzpy name, as the documentation has it."""
    rows = re.findall(r"^\| `([^`]+)` \| (?:`([^`]+)`|methods) \|", TABLE.read_text(), re.M)
    return dict(rows)


def lookup(name):
    return reduce(getattr, name.split(".")[1:], luz)


def test_the_table_has_every_export_once_and_nothing_else():
    assert sorted(table()) == sorted(EXPORTS)


@pytest.mark.parametrize("name", [name for name in EXPORTS if name != "%>%"])
def test_every_export_exists_here_under_its_name_in_the_table(name):
    assert callable(lookup(table()[name]))


@pytest.mark.parametrize("name", sorted(FROM_R))
def test_an_r_name_says_what_it_is_called_here(name):
    assert FROM_R[name] == table()[name]
    with pytest.raises(AttributeError, match=re.escape(f"{name} is {FROM_R[name]}")):
        getattr(luz, name)


def test_names_that_stay_the_same_are_there():
    same = set(EXPORTS) - set(FROM_R) - {"%>%"}
    assert all(hasattr(luz, name) for name in same)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'luz_nothing'"):
        luz.luz_nothing  # noqa: B018
