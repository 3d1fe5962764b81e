"""The command line: reads arguments, shows progress, prints results. Decides nothing; `segment_video` does the work.

Imports what it needs when it needs it, so that `--help` does not wait for torch. Results go to stdout, all else to
stderr. Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 bad prompt, 4 bad video, 5 bad weights, 6 no space, 130 stopped.
"""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from masklet.errors import Cancelled, Problem
from masklet.request import Option, Request, options

if TYPE_CHECKING:
    from masklet.segment import Advance, Made, Note, Segmented

NOTHING_TO_INSTALL = "nano"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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


@cli.command()
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

    with _Progress() as progress:
        made = segment_video(request, report=progress)
    click.echo(_as_json(made) if as_json else _as_text(made))
    speed = made.frame_count / made.seconds if made.seconds else 0.0
    click.echo(
        f"{made.frame_count} frames, {len(made.objects)} objects ({', '.join(made.objects)}) in {made.seconds:.1f} s "
        f"({speed:.1f} frames/s) with model {made.model} on {made.device}",
        err=True,
    )
    if request.model == NOTHING_TO_INSTALL:
        click.echo("nano is the small embedded model; more exact ones: see 'masklet models'", err=True)


class _Progress:
    """A progress line on stderr; Ctrl-C stops after the frame under way, a second one at once."""

    def __init__(self) -> None:
        from tqdm import tqdm

        # Where nobody watches, a line every ten seconds says enough.
        self._bar = tqdm(unit="frame", file=sys.stderr, mininterval=0.1 if sys.stderr.isatty() else 10, leave=False)
        self._stop = False
        self._old_handler: Any = None

    def __enter__(self) -> "Callable[[Note | Advance | Made], None]":
        self._old_handler = signal.signal(signal.SIGINT, self._interrupt)
        return self._hear

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._old_handler)
        self._bar.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def _hear(self, event: "Note | Advance | Made") -> None:
        from masklet.segment import Advance, Note

        if isinstance(event, Note):
            self._bar.write(event.text, file=sys.stderr)
        elif isinstance(event, Advance):
            self._bar.total = event.total
            self._bar.update(event.done - self._bar.n)
        if self._stop:
            raise Cancelled("stopped")


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
        click.echo(json.dumps([asdict(row) for row in rows], default=str))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        click.echo(f"{row.name:<{width}}  {row.size_mb:>5.0f} MB  {row.path or 'from ' + row.source}")
    click.echo("Use one with --model NAME: it is fetched on first use. A file or a hub id works too.", err=True)


@models.command()
@click.argument("model", default=NOTHING_TO_INSTALL)
def verify(model: str) -> None:
    """Check a model's file: its SHA-256 where it is known, and that every tensor fits."""
    from masklet.weights import verify_model

    click.echo(verify_model(model))


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
@click.option("--out", type=click.Path(file_okay=False), help="Folder for scores.json and a strip of each sequence.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(dataset: str, model: str, prompt: Any, rounds: int, out: str | None, as_json: bool) -> None:
    """Measure a model on a dataset with true masks: J, F and J&F as DAVIS counts them, and frames a second."""
    from masklet.evaluate import evaluate as run
    from masklet.evaluate import save, summary
    from masklet.weights import load_network, model_hash

    network = load_network(model)
    name = f"{model} {model_hash(network)}"
    report = run(dataset, network, prompt=prompt, rounds=rounds, report=lambda line: click.echo(line, err=True))
    if out is not None:
        save(report, out, name=name, prompt=prompt)
    click.echo(json.dumps(summary(report, name=name, prompt=prompt)) if as_json else report.table(name, prompt))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this installation: versions, devices, codecs, the embedded model, room for results."""
    from masklet.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            click.echo(f"{'ok' if finding.ok else 'PROBLEM':<8}{finding.subject:<16}{finding.detail}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Problem as problem:
        click.echo(f"masklet: {problem}", err=True)
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("masklet: stopped at once; nothing half-written is left", err=True)
        sys.exit(Cancelled.exit_code)
