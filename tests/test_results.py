"""Answers on disk: what is put comes back, what is dropped leaves a gap, and a long video costs no memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from masklet.errors import NoSpace
from masklet.results import Answer, Results

HEIGHT, WIDTH = 12, 20


def answer(seed=0, *, tracked=None):
    numbers = np.random.default_rng(seed)
    logits = numbers.normal(0, 20, (8, 16)).astype(np.float32)
    return Answer(numbers.random((HEIGHT, WIDTH)) > 0.5, 3.25, 0.875, logits, tracked)


@pytest.fixture(params=[False, True], ids=["quarters", "exact"])
def results(request):
    held = Results(height=HEIGHT, width=WIDTH, exact=request.param)
    yield held
    held.close()


@pytest.mark.parametrize("tracked", [None, False, True])
def test_an_answer_comes_back_as_it_was_put(results, tracked):
    put = answer(tracked=tracked)
    results.put("dog", 7, put)
    got = results.get("dog", 7)
    assert np.array_equal(got.mask, put.mask)
    assert (got.score, got.iou, got.tracked) == (3.25, 0.875, tracked)
    assert got.logits.flags.writeable


def test_exact_logits_keep_every_bit_and_others_a_quarter_within_the_clamp():
    put = answer()
    for exact, error in ((True, 0.0), (False, 0.125)):
        held = Results(height=HEIGHT, width=WIDTH, exact=exact)
        held.put("dog", 0, put)
        got = held.get("dog", 0).logits
        assert got.dtype == np.float32
        within = put.logits if exact else put.logits.clip(-31.75, 31.75)
        assert np.abs(got - within).max() <= error
        held.close()


def test_nothing_is_known_before_it_is_put(results):
    assert results.get("dog", 0) is None
    results.put("dog", 0, answer())
    assert results.get("cat", 0) is None
    assert results.get("dog", 1) is None


def test_a_second_answer_takes_the_place_of_the_first(results):
    results.put("dog", 0, answer(1))
    results.put("dog", 0, answer(2))
    assert np.array_equal(results.get("dog", 0).mask, answer(2).mask)


@pytest.mark.parametrize(
    ("known", "frames", "gaps"),
    [
        ((), range(0, 5), [range(0, 5)]),
        ((0, 1, 2, 3, 4), range(0, 5), []),
        ((2,), range(0, 5), [range(0, 2), range(3, 5)]),
        ((0, 4), range(0, 5), [range(1, 4)]),
        ((0, 4), range(2, 4), [range(2, 4)]),
        ((1, 2, 3), range(0, 5), [range(0, 1), range(4, 5)]),
        ((9,), range(0, 5), [range(0, 5)]),
        ((1,), range(3, 3), []),
    ],
)
def test_gaps_are_the_runs_of_frames_without_an_answer(results, known, frames, gaps):
    for frame in known:
        results.put("dog", frame, answer())
    results.put("cat", 3, answer())
    assert list(results.gaps("dog", frames)) == gaps


def test_dropped_frames_are_gaps_again_and_the_others_stay(results):
    for frame in range(6):
        results.put("dog", frame, answer())
        results.put("cat", frame, answer())
    results.drop("dog", range(2, 4))
    assert list(results.gaps("dog", range(6))) == [range(2, 4)]
    assert list(results.gaps("cat", range(6))) == []


def test_thousands_of_answers_stay_on_disk():
    code = """
        import numpy as np, resource
        from masklet.results import Answer, Results
        held = Results(height=360, width=640, exact=True)
        noise = np.random.default_rng(0).normal(size=(96, 160)).astype(np.float32)  # 61 kB an answer
        def fill(frames):
            for frame in frames:
                held.put("dog", frame, Answer(noise[:1].repeat(640, 0)[:360].repeat(4, 1) > 0, 1.0, 1.0, noise, None))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        few = fill(range(200))
        print(fill(range(200, 2000)) - few)
    """
    grown_mb = float(subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True))
    assert grown_mb < 20  # 1,800 answers are 110 MB of logits


def test_a_full_disk_for_temporary_files_is_no_space_with_the_way_out():
    code = """
        import numpy as np, resource
        from masklet.errors import NoSpace
        from masklet.results import Answer, Results
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        held = Results(height=360, width=640, exact=True)
        noise = np.random.default_rng(0).normal(size=(96, 160)).astype(np.float32)
        try:
            for frame in range(2000):
                held.put("dog", frame, Answer(np.zeros((360, 640), bool), 1.0, 1.0, noise, None))
        except NoSpace as error:
            print(error)
    """
    said = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True)
    assert "TMPDIR" in said
    assert NoSpace.exit_code == 6


def test_what_was_shown_stays_so_though_it_is_dropped_until_the_object_is_forgotten(results):
    for name in ("dog", "cat"):
        results.put(name, 0, answer(tracked=None))
        results.put(name, 1, answer(tracked=False))
        results.drop(name, range(2))
    assert [results.was_shown("dog", frame) for frame in range(3)] == [False, True, False]
    results.put("dog", 2, answer())
    results.forget("dog")
    assert results.get("dog", 2) is None
    assert (results.was_shown("dog", 1), results.was_shown("cat", 1)) == (False, True)
