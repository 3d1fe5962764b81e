"""What a request says is checked in no more time than a person would wait, whatever it says."""

import time

from masklet.server.catalog import Catalogue
from masklet.server.inputs import MOST_COMPARED, Checked, check_inputs

GOOD = {"input_video": "https://masks.example/v.mp4", "click_coordinates": "[1,1]"}
[MODEL, *_] = Catalogue("nano").models
BIGGEST_BODY = 600_000
"""So many names fit into a request."""


def test_as_many_unknown_names_as_a_request_can_hold_keep_nobody_waiting():
    sent = {f"k{number:x}": 0 for number in range(BIGGEST_BODY)} | GOOD
    began = time.process_time()
    checked = check_inputs(MODEL, sent)
    assert time.process_time() - began < 5
    assert checked == Checked(GOOD)


def test_as_many_slips_as_a_request_can_hold_make_a_short_answer():
    wrong = check_inputs(MODEL, {f"click_frame{number:x}_": 0 for number in range(BIGGEST_BODY)} | GOOD)
    assert 1 <= len(wrong) <= MOST_COMPARED
    assert {each.option for each in wrong} == {"click_frames"}
