"""Make everything that nano is trained on, from clips and cut-outs whose licences allow it.

    python scripts/make_training_data.py --clips DIR --true-masks DIR --weights nano.safetensors --out DIR

What is there already is kept, so that a run can be stopped and started again; one part alone is made with `--only`.
The same seed gives the same data, whatever was made before. Cut-outs come from the npm package that is named below,
fetched with `npm pack` unless `--emoji` says where it is, and, with `--font`, from Noto Color Emoji.

`--forbid DATASET` makes nothing: it prints the lines that keep a dataset out of training, for
`src/masklet/train/evaluation_only.txt`.
"""

import argparse
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from masklet.train.backgrounds import write_backgrounds
from masklet.train.cutouts import write_font_cutouts, write_picture_cutouts, write_teacher_cutouts
from masklet.train.guard import fingerprints, refuse_evaluation_data
from masklet.train.motion import write_motion, write_true_masks
from masklet.train.synthetic import write_returns
from masklet.train.teacher import load_teacher, write_teacher_masks

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
RUNS, TEACHER_FRAMES, MOTIONS = 4, 12, 5
"""Of each clip: films kept as backgrounds, frames that the teacher looks at, sequences that are followed."""
RETURNS, RETURN_FRAMES = 40, 24
"""Clips of the evaluation set in which a thing goes away and comes back, and their length."""
PARTS = ("cutouts", "backgrounds", "true", "teacher", "motion", "teacher-cutouts", "returns")


def main() -> None:
    """Make the parts that were asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of films, searched to any depth")
    parser.add_argument("--true-masks", type=Path, help="a dataset with true masks that may be trained on (PUMaVOS)")
    parser.add_argument("--weights", type=Path, help="the teacher: nano's first edition")
    parser.add_argument("--emoji", type=Path, help=f"{PACKAGE} as a .tgz, if it is already here")
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf (Debian fonts-noto-color-emoji)")
    parser.add_argument("--out", type=Path, help="folder for everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, action="append", help="make this part; may be repeated")
    parser.add_argument("--forbid", type=Path, metavar="DATASET")
    arguments = parser.parse_args()
    if arguments.forbid:
        for line in fingerprints(arguments.forbid / "JPEGImages", prefix=arguments.forbid.name):
            print(line)
        return
    if arguments.out is None:
        parser.error("--out is missing: name a folder for everything")
    for part in arguments.only or PARTS:
        print(f"{part} ...", flush=True)
        MAKERS[part](arguments)
    refuse_evaluation_data(arguments.out)
    print("no frame of it is evaluation-only")


def make_cutouts(arguments: argparse.Namespace) -> None:
    """Cut-outs from emoji."""
    out = arguments.out / "cutouts"
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.emoji or fetch(Path(folder))
        with tarfile.open(package) as archive:
            archive.extractall(folder, filter="data")
        pictures = Path(folder) / "package/assets"
        count = write_picture_cutouts(pictures, out, np.random.default_rng(arguments.seed), prefix="fluent")
    print(f"{count} cut-outs from {PACKAGE}")
    if arguments.font:
        print(f"{write_font_cutouts(arguments.font, out, prefix='noto')} cut-outs from {arguments.font.name}")


def make_backgrounds(arguments: argparse.Namespace) -> None:
    """Backgrounds for made clips."""
    rng = np.random.default_rng(arguments.seed)
    count = write_backgrounds(films(arguments), arguments.out / "backgrounds", rng, runs=RUNS)
    print(f"{count} backgrounds")


def make_true(arguments: argparse.Namespace) -> None:
    """Sequences with true masks."""
    write_true_masks(required(arguments, "true_masks"), arguments.out / "true")


def make_teacher(arguments: argparse.Namespace) -> None:
    """The teacher's masks of single frames."""
    write_teacher_masks(
        films(arguments),
        arguments.out / "teacher",
        load_teacher(required(arguments, "weights")),
        seed=arguments.seed,
        frames_per_clip=TEACHER_FRAMES,
        report=say,
    )


def make_motion(arguments: argparse.Namespace) -> None:
    """The teacher's masks, followed."""
    write_motion(
        films(arguments),
        arguments.out / "motion",
        load_teacher(required(arguments, "weights")),
        seed=arguments.seed,
        per_clip=MOTIONS,
        report=say,
    )


def make_teacher_cutouts(arguments: argparse.Namespace) -> None:
    """Cut-outs from the teacher's masks."""
    print(f"{write_teacher_cutouts(arguments.out / 'teacher', arguments.out / 'cutouts')} cut-outs from the teacher")


def make_returns(arguments: argparse.Namespace) -> None:
    """An evaluation set of things that go away and come back, of cut-outs that are never trained on."""
    write_returns(arguments.out, arguments.out / "returns", seed=arguments.seed, count=RETURNS, frames=RETURN_FRAMES)


MAKERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "cutouts": make_cutouts,
    "backgrounds": make_backgrounds,
    "true": make_true,
    "teacher": make_teacher,
    "motion": make_motion,
    "teacher-cutouts": make_teacher_cutouts,
    "returns": make_returns,
}


def films(arguments: argparse.Namespace) -> list[Path]:
    """Return the clips, in the order of their paths."""
    folder = required(arguments, "clips")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm"))


def required(arguments: argparse.Namespace, name: str) -> Path:
    """Return an option that some part cannot do without."""
    value: Path | None = getattr(arguments, name)
    if value is None:
        raise SystemExit(f"--{name.replace('_', '-')} is missing: give it, or leave this part out with --only")
    return value


def fetch(folder: Path) -> Path:
    """Fetch the package of emoji."""
    try:
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"npm pack {PACKAGE} failed ({error}): give the package with --emoji") from error
    return next(folder.glob("*.tgz"))


def say(line: str) -> None:
    """Report at once, also into a log."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
