"""One nano of several trainings."""

from types import ModuleType

import pytest
import torch
from script import load_script

from masklet import load_network


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("average_nano")


def test_every_weight_is_the_mean_of_all_trainings(script: ModuleType) -> None:
    trained = [load_network("nano", device="cpu") for _ in range(3)]
    for network, change in zip(trained, (0.25, -1.0, 0.0), strict=True):
        for parameter in network.parameters():
            parameter.add_(change)
    averaged = dict(script.mean(trained).named_parameters())
    for name, before in load_network("nano", device="cpu").named_parameters():
        torch.testing.assert_close(averaged[name], before - 0.25, rtol=0, atol=1e-5)


def test_one_training_is_its_own_mean(script: ModuleType) -> None:
    alone = load_network("nano", device="cpu").state_dict()
    averaged = script.mean([load_network("nano", device="cpu")]).state_dict()
    assert all(torch.equal(weights, averaged[name]) for name, weights in alone.items())


def test_what_is_the_same_in_both_is_left_out(script: ModuleType) -> None:
    nano, trained = (load_network("nano", device="cpu") for _ in range(2))
    trained.sam_mask_decoder.iou_token.weight.add_(1)
    assert list(script.what_differs(trained, nano)) == ["sam_mask_decoder.iou_token.weight"]
