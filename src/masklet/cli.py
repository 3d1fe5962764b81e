"""The command line: reads arguments, shows progress, prints results. Decides nothing; `segment_video` does the work.

Imports what it needs when it needs it, so that `--help` does not wait for torch. Results go to stdout, all else to
stderr; `EXIT_CODES` says how it ends.
"""

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from masklet.errors import BadPrompt, BadVideo, BadWeights, Cancelled, NoSpace, Problem
from masklet.request import Option, Request, options
from masklet.server.lazily import LazyCommand

if TYPE_CHECKING:
    from masklet.segment import Advance, Made, Note, Segmented

NOTHING_TO_INSTALL = "nano"
TRAININGS = ("nano", "nano-trunk", "nano-memory", "finetune")
"""Names of the recipes; a test compares them with those there are."""
NOTED_STEPS = 50
"""A training says so often what its losses are."""
LOG_EVERY_S = 10.0
"""Where nobody watches, a line of progress so often says enough."""
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
BY_SIGNAL = 128
"""Added to a signal's number to make an exit code, as shells do."""
EXIT_CODES = {
    0: "done",
    1: "a bug; or 'doctor' found a problem",
    2: "wrong usage",
    BadPrompt.exit_code: "a click, box, mask or option that cannot be meant",
    BadVideo.exit_code: "the video, or the dataset, is missing, damaged or not one that masklet opens",
    BadWeights.exit_code: "the model or the device is unknown, unreachable or does not fit",
    NoSpace.exit_code: "results cannot be written: no room, or no permission",
    BY_SIGNAL + 2: "stopped by Ctrl-C; finished frames are kept",
    BY_SIGNAL + 13: "nobody reads stdout any more",
    BY_SIGNAL + 15: "stopped by SIGTERM; finished frames are kept",
}
EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())


class Interrupt(BaseException):
    """A signal that is to end the process at once, by way of everybody's clean-up."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = BY_SIGNAL + number


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.version_option(package_name="masklet")
def cli() -> None:
    """Click on things in a video, get each thing's mask on every frame (SAM 2)."""


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each field of `Request`."""
    for option in reversed(options()[1:]):
        command = _flag(option)(command)
    return command


def _flag(option: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    if option.kind is bool:
        return click.option(option.flag, option.name, is_flag=True, help=option.help)
    if option.kind is tuple:
        return click.option(option.flag, option.name, multiple=True, metavar="TEXT", help=option.help)
    kind: click.ParamType[Any] = click.Choice(option.choices) if option.choices else click.STRING
    if option.limits is not None:
        kind = click.IntRange(*option.limits)
    return click.option(
        option.flag, option.name, type=kind, default=option.default, show_default=option.default != "", help=option.help
    )


@cli.command(epilog=EPILOG)
@click.argument("input_video", metavar="VIDEO")
@_with_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything that was made.")
def segment(as_json: bool, **fields: Any) -> None:
    """Segment a video (or a folder of pictures, or one picture) and write masks, pictures and a manifest.

    \b
    Example: one dog by one click on frame 0, then one correction on frame 40
      masklet segment dog.mp4 --click-coordinates "[320,180],[400,90]" --click-labels 1,0 \\
          --click-frames 0,40 --click-object-ids dog --mask-type highlighted --output-video
    """
    request = Request(**fields)
    from masklet.segment import segment_video

    progress = _Progress()
    try:
        with progress:
            made = segment_video(request, report=progress.hear)
    except Cancelled as stopped:
        _chat(f"masklet: {stopped}")
        sys.exit(BY_SIGNAL + progress.stopped_by)
    _print(_as_json(made) if as_json else _as_text(made))
    speed = made.frame_count / made.seconds if made.seconds else 0.0
    _chat(
        f"{made.frame_count} frames, {len(made.objects)} objects ({', '.join(made.objects)}) in {made.seconds:.1f} s "
        f"({speed:.1f} frames/s) with model {made.model} on {made.device}"
    )
    if request.model == NOTHING_TO_INSTALL:
        _chat("nano is the small embedded model; more exact ones: see 'masklet models'")


class _Progress:
    """A progress line on stderr. A first Ctrl-C stops after the frame under way, a second one at once."""

    def __init__(self, unit: str = "frame") -> None:
        from tqdm import tqdm

        watched = sys.stderr.isatty()
        self._bar = tqdm(
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]",
            unit=f" {unit}s",
            file=sys.stderr if watched else _Log(),
            mininterval=0.1 if watched else LOG_EVERY_S,
            delay=0 if watched else LOG_EVERY_S,
            leave=False,
        )
        self._unit = unit
        self.stopped_by = 0
        """Number of the signal that asked to stop."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup, and scripts in the background, leave them
                self._before[number] = signal.signal(number, self._interrupt)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        with suppress(OSError):
            self._bar.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by or not self._bar.n:  # before the first frame there is nothing to finish
            raise Interrupt(number)
        self.stopped_by = number
        with suppress(OSError):  # not by way of sys.stderr, in whose middle this may be
            line = f"masklet: stopping after this {self._unit}; once more stops at once\n"
            os.write(2, f"\n{line}".encode() if os.isatty(2) else line.encode())  # below the bar, or as a line of a log

    def hear(self, event: "Note | Advance | Made") -> None:
        """Show an event, or stop before the next frame if a person asked for it."""
        from masklet.segment import Advance, Note

        with suppress(OSError):  # nobody listens any more, which is no reason to stop
            if isinstance(event, Note):
                self._bar.clear()
                _chat(f"note: {event.text}")
            elif isinstance(event, Advance):
                self._bar.total = event.total
                self._bar.update(event.done - self._bar.n)
        if self.stopped_by and isinstance(event, Advance):
            raise Cancelled(f"stopped by {signal.Signals(self.stopped_by).name}")


class _Log:
    """A file for a progress bar that nobody watches: each of its states becomes a line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            _chat(line)

    def flush(self) -> None:
        """Nothing waits."""


def _chat(text: str) -> None:
    """Say something to a person, who may not be listening."""
    with suppress(OSError):
        click.echo(text, err=True)


def _print(text: str) -> None:
    """Write a result to stdout; if its reader went away (`| head`), end as quietly as others do then."""
    try:
        click.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes
        sys.exit(BY_SIGNAL + 13)


def _as_text(made: "Segmented") -> str:
    """One path a line: the video, or the folder of pictures; then the manifest."""
    first = made.files[0] if len(made.files) == 1 else made.out
    return f"{first}\n{made.manifest}"


def _as_json(made: "Segmented") -> str:
    return json.dumps(asdict(made), default=str)


@cli.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models: which are here, and where the others come from."""
    if context.invoked_subcommand is not None:
        return
    from masklet.weights import installed_models

    rows = installed_models()
    if as_json:
        _print(json.dumps([asdict(row) for row in rows], default=str))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        _print(f"{row.name:<{width}}  {row.size_mb:>5.0f} MB  {row.path or 'from ' + row.source}")
    _chat("Use one with --model NAME: it is fetched on first use. A file or a hub id works too.")


@models.command()
@click.argument("model", default=NOTHING_TO_INSTALL)
def verify(model: str) -> None:
    """Check a model's file: its SHA-256 where it is known, and that every tensor fits."""
    from masklet.weights import verify_model

    _print(verify_model(model))


@cli.command()
@click.option("--dataset", required=True, help="Folder laid out as DAVIS, MOSE or SA-V.")
@click.option("--model", default="nano", show_default=True, help="Name, file, or hub id.")
@click.option(
    "--prompt",
    type=click.Choice(["click", "3-clicks", "box", "mask"]),
    default="mask",
    show_default=True,
    help="What is said about each object where it is first seen.",
)
@click.option("--rounds", type=click.IntRange(0), default=0, help="Rounds of corrective clicks, one an object each.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16.")
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder for scores.json and strips of the worst and best sequences."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    dataset: str, model: str, prompt: Any, rounds: int, out: str | None, as_json: bool, **runs_on: str
) -> None:
    """Measure a model on a dataset with true masks: J, F and J&F as DAVIS counts them, and frames a second.

    Whoever stops it keeps the sequences that are done.
    """
    from masklet.evaluate import evaluations, save, summary
    from masklet.segment import Advance
    from masklet.weights import load_network, model_hash

    network = load_network(model, **runs_on)
    name = f"{model} {model_hash(network)}"
    progress, report, stopped = _Progress(), None, None

    def count(done: int, total: int) -> None:
        progress.hear(Advance(done, total))

    try:
        with progress:
            for report in evaluations(dataset, network, prompt=prompt, rounds=rounds, progress=count):
                _chat(str(report.sequences[-1]))
                if out is not None:
                    save(report, out, name=name, prompt=prompt)
    except Problem as problem:
        stopped = problem
    if report is not None and report.scores:
        _print(json.dumps(summary(report, name=name, prompt=prompt)) if as_json else report.table(name, prompt))
    done = len(report.sequences) if report is not None else 0
    if isinstance(stopped, Cancelled):
        _chat(f"masklet: {stopped}: {done} sequences were done")
        sys.exit(BY_SIGNAL + progress.stopped_by)
    if stopped is not None:
        if done:
            _chat(f"note: {done} sequences were done before it stopped")
        raise stopped


@cli.command()
@click.option("--recipe", type=click.Choice(TRAININGS), required=True, help="nano's three stages, or your own masks.")
@click.option("--data", multiple=True, required=True, metavar="DIR", help="Masks as DAVIS, MOSE, SA-V; or cutouts/.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for weights, log and curves.")
@click.option("--model", default="nano", show_default=True, help="Where to begin: name, file, or hub id.")
@click.option("--steps", type=click.IntRange(1), help="End after so many.  [default: the recipe's own]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="End after so long, resumptions included.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides on everything random.")
@click.option("--resume", is_flag=True, help="Go on with the training in --out.")
def train(
    recipe: str, data: tuple[str, ...], out: str, steps: int | None, minutes: float | None, resume: bool, **start: Any
) -> None:
    """Train nano, or fine-tune any model on videos with true masks. A folder given twice is drawn from twice as often.

    \b
    Example: teach a model your own masks, then use it
      masklet train --recipe finetune --data my-masks --model facebook/sam2.1-hiera-tiny --out trained
      masklet segment film.mp4 --model trained/model.safetensors --click-coordinates "[320,180]"
    """
    from masklet.segment import Advance, Note
    from masklet.train.curves import CURVES
    from masklet.train.loop import prepare
    from masklet.train.loop import train as run
    from masklet.train.recipes import Limits

    progress = _Progress(unit="step")

    def show(line: dict[str, Any]) -> None:
        if line["step"] % NOTED_STEPS == 0:
            numbers = ", ".join(f"{name} {line[name]}" for name in ("loss", "j_click", "j_track") if name in line)
            progress.hear(Note(f"step {line['step']}: {numbers}"))
        progress.hear(Advance(line["step"], training.limits.steps))

    training = prepare(recipe, data, out, limits=Limits(steps or 0, minutes), **start)
    with progress:
        weights = run(training, resume=resume, report=show)
    _print(str(weights))
    if not weights.with_name(CURVES).exists():
        _chat("no curves were drawn, which needs matplotlib: pip install 'masklet[train]'")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this installation: versions, devices, codecs, the embedded model, room for results."""
    from masklet.doctor import examine

    findings = examine()
    if as_json:
        _print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            _print(f"{'ok' if finding.ok else 'PROBLEM':<8}{finding.subject:<16}{finding.detail}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


cli.add_command(LazyCommand("serve", "masklet.server.commands", "Serve the HTTP APIs of Replicate and of Cog."))
cli.add_command(LazyCommand("jobs", "masklet.server.commands", "Look at the predictions of a server, newest first."))


def _end(number: int, frame: FrameType | None) -> None:
    raise Interrupt(number)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # paths are printed as the bytes they are
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _end)
    code = _run()
    for number in heard:  # nobody's clean-up is left to go by way of
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def _run() -> int | str | None:
    """Run the command line and return what to end with."""
    try:
        return cli.main(standalone_mode=False) or 0
    except SystemExit as end:
        return end.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Problem as problem:
        _chat(f"masklet: {problem}")
        return problem.exit_code
    except Interrupt as stopped:
        _chat("masklet: stopped at once; finished frames are kept, nothing half-written is left")
        return stopped.exit_code
    except Exception:
        with suppress(OSError):
            traceback.print_exc()
        _chat("masklet: this is a bug in masklet: please report it with the lines above")
        return 1
