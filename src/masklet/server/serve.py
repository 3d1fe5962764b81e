"""A server from its start to its end: the store, those who work for it, the application, the socket."""

import asyncio
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from threading import Thread

import click
import structlog

from masklet.jobs import Delivery, JobStore, Limits, Retention, Surroundings
from masklet.server.app import create_app
from masklet.server.cog import SOURCE, describe_cog
from masklet.server.crashpoints import crash_point
from masklet.server.decode import sandbox
from masklet.server.duty import Intake, Patience
from masklet.server.egress import Egress
from masklet.server.listen import listening_socket, make_server
from masklet.server.ops import set_up_logs
from masklet.server.postman import Send
from masklet.server.service import Service
from masklet.server.settings import Settings
from masklet.server.supervisor import Plan, Supervisor
from masklet.server.webhooks import Message, compose, sender

log = structlog.get_logger()


def run(settings: Settings) -> None:
    """Serve until a signal says to stop; raises a `Problem` if it cannot start."""
    gate = settings.gate()
    set_up_logs()
    reach = crash_point()
    limits = Limits(settings.waiting, settings.waiting_per_owner, settings.room_bytes)
    store = JobStore(settings.data_dir, server=True, limits=limits, surroundings=Surroundings(reach=reach))
    with store, listening_socket(settings) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        service = Service.open(settings, store)
        supervisor = Supervisor(store, _plan(settings), send=_sender(service), reach=reach)
        stopping = Thread(target=supervisor.stop, name="stop")

        def stop() -> None:
            service.feed.close()
            stopping.start()

        server = make_server(
            create_app(service, gate, supervisor, sandbox=sandbox, stop=lambda: server.stop()),
            settings,
            on_stop=stop,
            on_hurry=supervisor.stop_now,
        )
        supervisor.start()
        Thread(target=_look_at_sandbox, name="sandbox", daemon=True).start()
        try:
            _greet(service, protected=bool(gate.tokens))
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            supervisor.stop()
            log.info("stopped")


def _plan(settings: Settings) -> Plan:
    return Plan(
        workers=settings.workers,
        engine=settings.engine,
        weights=settings.model,
        device=settings.device,
        dtype=settings.dtype,
        run_s=settings.run_s,
        load_s=settings.load_s,
        cancel_s=settings.cancel_s,
        stop_s=settings.stop_s,
        sweep_every_s=settings.sweep_s,
        patience=Patience(settings.lease_s, settings.stall_s),
        retention=Retention(settings.data_keep_s, settings.row_keep_s),
        intake=Intake(
            private_urls=settings.allow_private_urls,
            fetch_s=settings.fetch_s,
            most_bytes=settings.upload_bytes,
            most_pixels=settings.frame_pixels,
            most_pixels_in_all=settings.video_pixels,
            most_frames=settings.video_frames,
            most_s=settings.video_s,
            decode_s=settings.decode_s,
            decode_cpu_s=settings.decode_cpu_s,
            decode_bytes=settings.decode_bytes,
        ),
    )


def _look_at_sandbox() -> None:
    """Try it before anybody asks, and say so if strangers' files are not locked in as well as they could be."""
    if sandbox() != "bubblewrap":
        log.warning("videos are decoded under limits only", advice="install bubblewrap, and allow user namespaces")


def _sender(service: Service) -> Send:
    settings = service.settings
    door = Egress(private=settings.allow_private_urls)

    def post(message: Message) -> int:
        return door.post(message.url, message.headers, message.body, within_s=settings.webhook_s)

    return sender(message_of(service), post)


def message_of(service: Service) -> Callable[[Delivery], Message]:
    """Return what writes and signs webhooks: in Cog's shape for who came by that door."""

    def write(delivery: Delivery) -> Message:
        about = delivery.prediction
        addresses = service.addresses_for(about)
        body = describe_cog(about) if about.source == SOURCE else service.describe(about, addresses)
        return compose(delivery, body, service.webhook_secret(about.owner), time.time())

    return write


def _greet(service: Service, *, protected: bool) -> None:
    """Say where the service is: to a person in words, to a program in the log."""
    base, settings = service.base(), service.settings
    log.info("listening", url=base, model=settings.model, data_dir=str(settings.data_dir), masklet=version("masklet"))
    if not sys.stderr.isatty():
        return
    token = "a token" if protected else "no token (this machine only)"
    click.echo(
        f"masklet serves {settings.model} on {base}, with {token}. What it answers: {base}/docs. Ctrl-C stops it.",
        err=True,
    )
