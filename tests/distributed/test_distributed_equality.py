"""What every scenario is held against: one process, and the other ranks."""

import pytest
import torch
from scenarios import all_scenarios, check_same

pytestmark = pytest.mark.slow


def launched(expectation):
    return [
        pytest.param(launch, scenario, id=f"{launch}-{scenario.function.__name__}")
        for launch in ("two", "three", "accelerate")
        for scenario in all_scenarios()
        if launch in scenario.launches and getattr(scenario, expectation)
    ]


def compared(result):
    # The batches in a list of predictions, and the statements of errors, are of each size's own.
    return {key: item for key, item in result.items() if key not in ("listed", "said")}


@pytest.mark.parametrize(("launch", "scenario"), launched("like_one"))
def test_each_rank_finds_what_one_process_finds(ranks, launch, scenario):
    (expected,) = ranks(scenario.function, "one")
    for result in ranks(scenario.function, launch):
        check_same(compared(result), compared(expected), **scenario.like_one)


@pytest.mark.parametrize(("launch", "scenario"), launched("agree"))
def test_all_ranks_agree(ranks, launch, scenario):
    first, *others = ranks(scenario.function, launch)
    for other in others:
        if scenario.agree == "weights":
            assert torch.equal(other["weights"], first["weights"])
        else:
            check_same(other, first, rtol=0, atol=0)
