"""`bench/replay.py`: a dataset's sequences backward and mirrored."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import FRAMES, ball, disc, picture
from PIL import Image

from masklet.dataset import sequences
from masklet.train.prepared import write_sequence

REPLAY = Path(__file__).parents[1] / "bench" / "replay.py"


def replayed(dataset, out):
    done = subprocess.run([sys.executable, REPLAY, dataset, out], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return [sequences(out / kind)[0] for kind in ("backward", "mirrored")]


def seen(sequence, stem):
    with Image.open(sequence.pictures / f"{stem}.jpg") as image:
        return np.asarray(image).astype(int)


@pytest.fixture
def prepared(tmp_path):
    """What masklet prepares for training: masks object by object, with notes beside them."""
    masks = {"disc": [disc(i) for i in range(FRAMES)], "ball": [ball(i) for i in range(FRAMES)]}
    pictures = [Image.fromarray(picture(i)) for i in range(FRAMES)]
    write_sequence(tmp_path / "data", "two", pictures, masks, {"disc": {"area": 0.1}})
    return tmp_path / "data"


def test_prepared_data_is_replayed_without_its_notes(prepared, tmp_path):
    backward, mirrored = replayed(prepared, tmp_path / "out")
    for i, stem in enumerate(f"{frame:05d}" for frame in range(FRAMES)):
        assert np.array_equal(backward.truth(stem)["disc"], disc(FRAMES - 1 - i))
        assert np.array_equal(mirrored.truth(stem)["ball"], ball(i)[:, ::-1])
        assert np.abs(seen(backward, stem) - picture(FRAMES - 1 - i)).mean() < 3
        assert np.abs(seen(mirrored, stem) - picture(i)[:, ::-1]).mean() < 3
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".jpg", ".png"}


def test_masks_whose_pictures_are_missing_are_left_out(prepared, tmp_path):
    (prepared / f"JPEGImages/two/{FRAMES - 1:05d}.jpg").unlink()
    (prepared / "JPEGImages/two/.directory").write_text("of a file manager")
    for sequence in replayed(prepared, tmp_path / "out"):
        assert len(sequence.frames()) == FRAMES - 1
        assert len(list(sequence.truths.rglob("*.png"))) == 2 * (FRAMES - 1)
