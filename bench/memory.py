"""Peak resident memory of a long and a short run of the same clip, looped: masklet beside Meta's `sam2` package.

    python bench/memory.py [--short 300] [--long 3000]

At 256 px, so that it ends today; what is kept of a frame is smaller there, what is forgotten is the same.
"""

import argparse
import tempfile
from pathlib import Path

from clips import looped, machine, measured, random_weights

SIDE = 256


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, default=300)
    parser.add_argument("--long", type=int, default=3000)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--who", nargs="+", default=["masklet", "sam2"])
    arguments = parser.parse_args()
    print(f"Peak resident MB, sam2.1-tiny at {SIDE} px, float32\n{machine()}\n")
    print(f"{'':<10}{'objects':>8}{arguments.short:>8} frames{arguments.long:>8} frames{'growth':>12}")
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(Path(folder) / "tiny.pt", side=SIDE)
        clips = {n: looped(Path(folder) / f"{n}.mp4", n) for n in (arguments.short, arguments.long)}
        for who in arguments.who:
            for objects in arguments.objects:
                peaks = [
                    measured(who, clip, weights, side=SIDE, objects=objects, frames=n)["peak_mb"]
                    for n, clip in clips.items()
                ]
                row = "".join(f"{peak:>12.0f} MB" for peak in peaks)
                print(f"{who:<10}{objects:>8}{row}{peaks[1] - peaks[0]:>9.0f} MB", flush=True)


if __name__ == "__main__":
    main()
