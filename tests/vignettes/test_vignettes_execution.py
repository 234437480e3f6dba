"""How vignettes are executed."""

import execution
import nbformat.v4 as nb


def test_what_a_cell_prints_in_a_row_is_one_text():
    """A kernel sends it in pieces, wherever its time is up."""
    pieces = [("stdout", "Iteration"), ("stdout", " 100\n"), ("stderr", "!"), ("stdout", "end\n")]
    streams = [nb.new_output("stream", name=name, text=text) for name, text in pieces]
    picture = nb.new_output("display_data", {"image/png": ""})
    found = execution.whole_streams([*streams[:2], picture, *streams[2:]])
    assert [one.get("text") for one in found] == ["Iteration 100\n", None, "!", "end\n"]
