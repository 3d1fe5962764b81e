"""Seconds per tracked frame of masklet, Meta's `sam2` package and `transformers`: same weights, same clip, one run.

    python bench/speed.py [--frames 12] [--last 4]

Counts the last frames only, when every slot of the memory is filled. Decoding, upscaling to the source's size and
storing the masks are part of masklet's time; the peers had their frames decoded before.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from clips import EXAMPLE, machine, measured, random_weights

WHO = ("masklet", "sam2", "transformers")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--last", type=int, default=4)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    print(f"Seconds per frame, sam2.1-tiny at 1024 px, float32\n{machine()}\n")
    print(f"{'objects':>8}" + "".join(f"{who:>14}" for who in WHO) + "     sam2 : masklet   transformers : masklet")
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(Path(folder) / "tiny.pt")
        for objects in arguments.objects:
            seconds = {
                who: statistics.median(
                    measured(who, EXAMPLE, weights, side=1024, objects=objects, frames=arguments.frames)["seconds"][
                        -arguments.last :
                    ]
                )
                for who in WHO
            }
            ratios = [seconds[who] / seconds["masklet"] for who in WHO[1:]]
            row = "".join(f"{seconds[who]:>14.2f}" for who in WHO)
            print(f"{objects:>8}{row}{ratios[0]:>19.2f}{ratios[1]:>25.2f}", flush=True)


if __name__ == "__main__":
    main()
