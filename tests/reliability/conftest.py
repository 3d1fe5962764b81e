"""What tests of the checker share: the data and the logs of a service in which all went well."""

import shutil

import pytest
from server.patches import ask, ended, see, wait_for, write_film

from masklet.jobs import JobStore
from masklet.server.postman import Answer
from masklet.server.service import SECRET
from masklet.server.signing import Signer, derive
from masklet.server.supervisor import Plan, Supervisor
from reliability.acks import Acks, created, heard, knows, saw

FRAMES = 3


@pytest.fixture(scope="session")
def healthy(tmp_path_factory):
    """Run a small service and stop it; returns its folders and the predictions by what became of them."""
    root = tmp_path_factory.mktemp("healthy")
    (root / "acks").mkdir()
    film = write_film(root / "film.mp4", frames=FRAMES)
    acks = Acks(root / "acks" / "client.log")

    def send(delivery):
        heard(acks, delivery.id, delivery.prediction.id, delivery.kind, delivery.prediction.status)
        return Answer(True, "HTTP 200")

    with JobStore(root / "data", server=True) as store:
        supervisor = Supervisor(store, Plan(engine="stub"), send=send)
        supervisor.start()
        asked = {
            "succeeded": ask(store, film, webhook="http://127.0.0.1/hook", note="ann-canary"),
            "failed": ask(store, film, click_frames="9"),
            "canceled": ask(store, film, click_object_ids="fault-hang-1", webhook="http://127.0.0.1/hook"),
            "bobs": ask(store, film, owner="bob", note="bob-canary"),
        }
        for name, prediction in asked.items():
            owner = "bob" if name == "bobs" else "ann"
            frames = FRAMES if name in ("succeeded", "bobs") else None
            created(acks, {"id": prediction.id}, owner=owner, key=name, frames=frames, canary=f"{owner}-canary")
        wait_for(lambda: len(see(store, asked["canceled"]).outputs) == 1)
        for name in ("succeeded", "canceled"):
            knows(acks, asked[name].id, address(store, asked[name], f"frame_{0:05d}.png"))
        store.cancel(asked["canceled"].id, owner="ann")
        for prediction in asked.values():
            done = ended(store, prediction)
            saw(acks, {"id": done.id, "status": done.status, "outputs": [output.name for output in done.outputs]})
        wait_for(lambda: store.counts().webhooks_pending == 0)
        wait_for(lambda: list(store.folder.work.iterdir()) == [])
        wait_for(lambda: not (store.folder.outputs / asked["canceled"].id).exists())
        supervisor.stop()
    acks.close()
    return root, {name: prediction.id for name, prediction in asked.items()}


@pytest.fixture
def damaged(healthy, tmp_path):
    """Return a copy to damage."""
    root, ids = healthy
    shutil.copytree(root, tmp_path / "copy")
    return tmp_path / "copy", ids


def address(store, prediction, name):
    """Return an output's address, as a server of this store signs it."""
    query = Signer(derive(store.secret(SECRET), "addresses"), 86_400).query(f"{prediction.id}/{name}", prediction.owner)
    return f"http://127.0.0.1/v1/outputs/{prediction.id}/{name}?{query}"
