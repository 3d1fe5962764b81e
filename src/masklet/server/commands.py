"""`masklet serve` and `masklet jobs`. Every setting is a flag of `serve`; both read MASKLET_* from the environment."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from masklet.errors import Problem
from masklet.jobs import JobStore, Prediction
from masklet.server.auth import BadSetup
from masklet.server.schemas import timestamp
from masklet.server.settings import Settings

SHOWN_AT_ONCE = 20

OpenStore = Callable[[], JobStore]


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each setting."""
    for name, setting in reversed(Settings.model_fields.items()):
        command = _flag(name, setting)(command)
    return command


def _flag(name: str, setting: FieldInfo) -> Callable[[Callable[..., None]], Callable[..., None]]:
    flag, kind, help = "--" + name.replace("_", "-"), setting.annotation, setting.description or ""
    if kind is bool:
        return click.option(flag, name, is_flag=True, default=None, help=help)
    if get_origin(kind) is list:
        return click.option(flag, name, multiple=True, help=help)
    choices = get_args(kind)
    text = all(isinstance(choice, str) for choice in choices) and bool(choices)
    taken: click.ParamType[Any] = click.Choice(choices) if text else _PLAIN.get(kind, click.STRING)
    default = setting.get_default(call_default_factory=True, validated_data={})
    shown = "" if default is None else f"  [default: {default}]"
    return click.option(flag, name, type=taken, default=None, help=help + shown)


_PLAIN: "dict[Any, click.ParamType[Any]]" = {  # in quotes: before click 8.4 the type had no parameter
    int: click.INT,
    float: click.FLOAT,
}


def read_settings(flags: dict[str, Any]) -> Settings:
    """Make settings of the flags that were given, and of the environment; raises `BadSetup`."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value not in (None, ())})
    except ValidationError as error:
        problems = [f"--{'-'.join(str(p) for p in e['loc']).replace('_', '-')}: {e['msg']}" for e in error.errors()]
        raise BadSetup("; ".join(problems)) from error


@click.command()
@_with_settings
def serve(**flags: Any) -> None:
    """Serve the HTTP APIs of Replicate and Cog: clients of both call masklet unchanged.

    \b
    Nothing needs to be set: it listens on this machine only and runs the embedded model. To try it:
      masklet serve
      REPLICATE_BASE_URL=http://127.0.0.1:8000 REPLICATE_API_TOKEN=none python -c "import replicate; ..."

    Each flag can also be a variable: --port is MASKLET_PORT.
    """
    from masklet.server.serve import run

    run(read_settings(flags))


@click.group(invoke_without_command=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="The server's --data-dir.")
@click.option("--status", help="Only those in this state, such as failed.")
@click.option("--limit", type=click.IntRange(1), default=SHOWN_AT_ONCE, show_default=True, help="So many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@click.pass_context
def jobs(context: click.Context, data_dir: Path | None, status: str | None, limit: int, as_json: bool) -> None:
    """Look at the predictions of a server on this machine, newest first; it may be running or not."""
    context.obj = partial(_open, context, data_dir)  # not yet: to read a command's help nothing needs to be there
    if context.invoked_subcommand is not None:
        return
    store = _open(context, data_dir)
    rows = _newest(store, status, limit)
    if as_json:
        for row in rows:
            click.echo(json.dumps(_as_json(row)))
        return
    for row in rows:
        click.echo(_line(row))
    counts = store.counts().by_status
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items()) or "no predictions", err=True)


@jobs.command()
@click.argument("id")
@click.pass_obj
def show(open_store: OpenStore, id: str) -> None:
    """Print all that is known of a prediction, as JSON."""
    found = _find(open_store(), id)
    click.echo(json.dumps(_as_json(found) | {"logs": found.logs}, indent=2))


@jobs.command()
@click.argument("id")
@click.pass_obj
def cancel(open_store: OpenStore, id: str) -> None:
    """Cancel a prediction that has not ended."""
    store = open_store()
    _find(store, id)
    cancelled = store.cancel(id, owner=None)
    click.echo(f"{id} {cancelled.status if cancelled else 'is gone'}")


@jobs.command()
@click.argument("id")
@click.pass_obj
def resend(open_store: OpenStore, id: str) -> None:
    """Send the webhook of a prediction's end again, if it could not be delivered."""
    store = open_store()
    _find(store, id)
    click.echo(f"{store.outbox.resend(id)} webhooks will be sent again")


def _open(context: click.Context, data_dir: Path | None) -> JobStore:
    settings = read_settings({"data_dir": data_dir})
    if not (settings.data_dir / "masklet.db").is_file():
        raise BadSetup(f"there are no predictions in {settings.data_dir}: give the server's --data-dir")
    return context.with_resource(JobStore(settings.data_dir))


class UnknownPrediction(Problem):
    """There is no such prediction."""

    exit_code = 2


def _find(store: JobStore, id: str) -> Prediction:
    found = store.get(id, owner=None)
    if found is None:
        raise UnknownPrediction(f"there is no prediction {id!r}: 'masklet jobs' lists them")
    return found


def _newest(store: JobStore, status: str | None, limit: int) -> list[Prediction]:
    found: list[Prediction] = []
    page = store.list(owner=None)
    while True:
        found += [row for row in page.results if status in (None, row.status)]
        if len(found) >= limit or page.next is None:
            return found[:limit]
        page = store.list(owner=None, cursor=page.next)


def _line(row: Prediction) -> str:
    end = row.completed_at or time.time()
    ran = "" if row.started_at is None else f"{end - row.started_at:.1f} s"
    why = f"{row.error_code}: {row.error}" if row.error else ""
    frames = f"{len(row.outputs)} files" if row.outputs else ""
    start = (timestamp(row.created_at) or "")[:19].replace("T", " ")
    return f"{row.id}  {row.status:<10}  {start}  {row.owner:<10}  {row.weights:<16}  {ran:>9}  {frames}{why}".rstrip()


def _as_json(row: Prediction) -> dict[str, Any]:
    return {
        "id": row.id,
        "owner": row.owner,
        "model": row.model,
        "weights": row.weights,
        "status": row.status,
        "error": row.error,
        "error_code": row.error_code,
        "input": dict(row.input),
        "outputs": [str(output.path) for output in row.outputs],
        "manifest": None if row.manifest is None else str(row.manifest.path),
        "created_at": timestamp(row.created_at),
        "started_at": timestamp(row.started_at),
        "completed_at": timestamp(row.completed_at),
        "attempts": row.attempts,
        "crashes": row.crashes,
        "metrics": dict(row.metrics),
        "data_removed": row.data_removed,
    }
