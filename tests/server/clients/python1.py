"""`replicate` 1.0.7 for Python acts out scenes against a server; talk.py starts this."""

import hashlib
import json
import os
import sys
from urllib.parse import urlsplit

from replicate.client import Client
from replicate.helpers import FileOutput
from replicate.webhook import InvalidSecretKeyError, Webhooks, WebhookValidationError

about = json.load(sys.stdin)
client = Client(api_token=about["token"], base_url=about["url"])
client.poll_interval = 0.05


def inputs(**more):
    return {**about["input"], **more}


def frames(output):
    output = list(output)
    return {
        "files": all(isinstance(item, FileOutput) for item in output),
        "sha256": [hashlib.sha256(item.read()).hexdigest() for item in output if isinstance(item, FileOutput)],
        "names": [urlsplit(item.url).path.rpartition("/")[2] for item in output if isinstance(item, FileOutput)],
    }


def run(ref=None, wait=True, **more):
    with open(about["video"], "rb") as video:
        return client.run(ref or about["version"], input=inputs(input_video=video, **more), wait=wait)


def run_version():
    return frames(run())


def run_model():
    return frames(run("meta/sam-2-video"))


def run_inline():
    with open(about["video"], "rb") as video:
        return frames(client.run(about["version"], input=inputs(input_video=video), file_encoding_strategy="base64"))


def run_polling():
    output = run(wait=False)
    return frames(output) | {"generator": hasattr(output, "__next__")}


def run_longer_than_the_wait():
    return frames(run(wait=1, click_object_ids="fault-slow"))


def run_film():
    return frames(run(output_video=True))


def upload():
    return client.files.create(about["video"], metadata={"take": 2})


def create_get_list_cancel():
    version = about["version"].partition(":")[2]
    video = upload().urls["get"]
    made = client.predictions.create(version=version, input=inputs(input_video=video, click_object_ids="fault-slow"))
    got = client.predictions.get(made.id)
    listed = [each.id for each in client.predictions.list().results]
    cancelled = client.predictions.cancel(made.id)
    made.wait()
    return {
        "created": made.id == got.id and got.input["input_video"] == video,
        "listed": made.id in listed,
        "cancelled": cancelled.status,
        "end": made.status,
    }


def wait_for_what_runs_out_of_time():
    prediction = client.predictions.get(about["expired"])
    prediction.wait()
    return {"end": prediction.status}


def stream():
    video = upload().urls["get"]
    kinds, data = [], []
    for event in client.stream(about["version"], input=inputs(input_video=video)):
        kinds.append(event.event.value)
        data.append(event.data)
    return {
        "kinds": kinds,
        "outputs": [str(each) for kind, each in zip(kinds, data, strict=True) if kind == "output"],
        "logs": "".join(each for kind, each in zip(kinds, data, strict=True) if kind == "logs"),
    }


def files():
    made = upload()
    got = client.files.get(made.id)
    listed = [each.id for each in client.files.list()]
    client.files.delete(made.id)
    return {
        "name": got.name,
        "size": got.size,
        "sha256": got.checksums["sha256"],
        "metadata": got.metadata,
        "listed": made.id in listed,
        "gone": made.id not in [each.id for each in client.files.list()],
    }


def catalogue():
    model = client.models.get("meta/sam-2-video")
    version = model.versions.get(about["version"].partition(":")[2])
    return {
        "models": [f"{each.owner}/{each.name}" for each in client.models.list().results],
        "found": [each.name for each in client.models.search("nano").results],
        "version": version.id,
        "inputs": list(version.openapi_schema["components"]["schemas"]["Input"]["properties"]),
        "account": client.accounts.current().username,
        "hardware": [each.sku for each in client.hardware.list()],
        "collections": [each.slug for each in client.collections.list().results],
    }


def find_by_environment():
    os.environ |= {"REPLICATE_BASE_URL": about["url"], "REPLICATE_API_TOKEN": about["token"]}
    return {"account": Client().accounts.current().username}


def bad_input():
    run(video_fps=99)


def bad_token():
    Client(api_token="wrong-" * 4, base_url=about["url"]).predictions.list()


def nothing_there():
    client.predictions.get("a" * 26)


def bad_version():
    client.predictions.create(version="0" * 64, input={})


def failed():
    run(click_frames="77")


def webhook():
    secret = client.webhooks.default.secret()
    message = about["webhook"]
    good = Webhooks.validate(headers=message["headers"], body=message["body"], secret=secret)
    try:
        Webhooks.validate(headers=message["headers"], body=message["body"] + " ", secret=secret)
    except (WebhookValidationError, InvalidSecretKeyError):
        return {"good": good is None, "tampered": False}
    return {"good": good is None, "tampered": True}


for scene in about["scenes"]:
    try:
        line = {"scene": scene, "value": globals()[scene]()}
    except Exception as error:
        line = {"scene": scene, "raised": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(line) + "\n")
