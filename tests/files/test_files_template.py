"""Names of files: `str.format` over three fields, and nothing that is evaluated."""

import pytest

from luzpy.files.template import PathTemplate


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("model.pt", "model.pt"),
        ("m-{epoch}.pt", "m-7.pt"),
        ("m-{epoch:03d}-{monitor_name}-{monitor:.2f}.pt", "m-007-valid_loss-0.12.pt"),
        ("{{epoch}}-{epoch}", "{epoch}-7"),
        ("{monitor:+.1e}", "+1.2e-01"),
        ("{monitor_name:>12}", "  valid_loss"),
    ],
)
def test_fields_are_filled_in(template, expected):
    path = PathTemplate(template).fill(epoch=7, monitor_name="valid_loss", monitor=0.123)
    assert path == expected


@pytest.mark.parametrize(
    "template",
    [
        "{loss}",
        "{}",
        "{0}",
        "{epoch.__class__}",
        "{epoch.real}",
        "{monitor_name[0]}",
        "{epoch:{monitor}}",
        "{epoch:{loss}}",
        "{epoch:{epoch}}",
        "{epoch:{epoch.real}}",
        "{epoch!x}",
        "{epoch",
        "epoch}",
        "{epoch:.2q}",
        "{ctx.model}",
        "",
    ],
)
def test_anything_else_is_refused_at_once(template):
    with pytest.raises(ValueError, match=r"`path` .*got"):
        PathTemplate(template)


def test_code_is_not_evaluated(tmp_path):
    # R luz's templates, glue::glue(), evaluate what is in the braces
    sentinel = tmp_path / "ran"
    with pytest.raises(ValueError, match="`path`"):
        PathTemplate("{__import__('os').mkdir('" + str(sentinel) + "')}")
    assert not sentinel.exists()
