"""`replicate` 2.0.0b4 for Python acts out scenes against a server; talk.py starts this."""

import hashlib
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import replicate
from replicate import FileOutput, Replicate

about = json.load(sys.stdin)
client = Replicate(bearer_token=about["token"], base_url=about["url"] + "/v1")


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
    return frames(run(wait=False))


def run_longer_than_the_wait():
    return frames(run(wait=1, click_object_ids="fault-slow"))


def run_film():
    return frames(run(output_video=True))


def use():
    # The beta's Client.use fails; the module's own asks the environment where the server is.
    os.environ |= {"REPLICATE_BASE_URL": about["url"] + "/v1", "REPLICATE_API_TOKEN": about["token"]}
    model = replicate.use(about["version"])
    with open(about["video"], "rb") as video:
        output = list(model(**inputs(input_video=video)))
    return {
        "sha256": [hashlib.sha256(Path(item).read_bytes()).hexdigest() for item in output],
        "names": [Path(item).name for item in output],
    }


def upload():
    path = Path(about["video"])
    return client.files.create(content=path.read_bytes(), filename=path.name, metadata={"take": 2}, type="video/mp4")


def create_get_list_cancel():
    version = about["version"].partition(":")[2]
    video = upload().urls.get
    made = client.predictions.create(version=version, input=inputs(input_video=video, click_object_ids="fault-slow"))
    got = client.predictions.get(prediction_id=made.id)
    listed = [each.id for each in client.predictions.list().results]
    cancelled = client.predictions.cancel(prediction_id=made.id)
    return {
        "created": made.id == got.id and got.input["input_video"] == video,
        "listed": made.id in listed,
        "cancelled": cancelled.status,
        "end": client.predictions.wait(made.id).status,
    }


def wait_for_what_runs_out_of_time():
    return {"end": client.predictions.wait(about["expired"]).status}


def files():
    made = upload()
    got = client.files.get(file_id=made.id)
    listed = [each.id for each in client.files.list().results]
    query = dict(pair.split("=", 1) for pair in urlsplit(got.urls.model_extra["download"]).query.split("&"))
    whole = client.files.download(
        file_id=made.id, owner=query["owner"], expiry=int(query["expiry"]), signature=query["signature"]
    )
    downloaded = hashlib.sha256(whole.read()).hexdigest()
    client.files.delete(file_id=made.id)
    return {
        "name": got.name,
        "size": got.size,
        "sha256": got.checksums.sha256,
        "downloaded": downloaded,
        "metadata": got.metadata,
        "listed": made.id in listed,
        "gone": made.id not in [each.id for each in client.files.list().results],
    }


def catalogue():
    version = client.models.versions.get(
        model_owner="meta", model_name="sam-2-video", version_id=about["version"].partition(":")[2]
    )
    return {
        "models": [f"{each.owner}/{each.name}" for each in client.models.list().results],
        "found": [each.name for each in client.models.search(body="nano").results],
        "version": version.id,
        "inputs": list(version.openapi_schema["components"]["schemas"]["Input"]["properties"]),
        "account": client.account.get().username,
        "hardware": [each.sku for each in client.hardware.list()],
        "collections": [each.slug for each in client.collections.list().results],
        "readme": client.models.readme.get(model_owner="meta", model_name="sam-2-video"),
        "examples": list(client.models.examples.list(model_owner="meta", model_name="sam-2-video").results),
        "searched": [each.model.name for each in client.search(query="nano").models],
    }


def find_by_environment():
    os.environ |= {"REPLICATE_BASE_URL": about["url"] + "/v1", "REPLICATE_API_TOKEN": about["token"]}
    return {"account": Replicate().account.get().username}


def bad_input():
    run(video_fps=99)


def bad_token():
    Replicate(bearer_token="wrong-" * 4, base_url=about["url"] + "/v1").predictions.list()


def nothing_there():
    client.predictions.get(prediction_id="a" * 26)


def bad_version():
    client.predictions.create(version="0" * 64, input={})


def failed():
    run(click_frames="77")


def repeat_a_create_whose_answer_was_lost():
    """Go through a connection that loses the first answer."""
    lossy = Replicate(bearer_token=about["token"], base_url=about["lossy"] + "/v1")
    made = lossy.predictions.create(version=about["version"].partition(":")[2], input=about["input"] | about["marked"])
    return {"id": made.id}


for scene in about["scenes"]:
    try:
        line = {"scene": scene, "value": globals()[scene]()}
    except Exception as error:
        line = {"scene": scene, "raised": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(line, default=str) + "\n")
assert replicate.__version__ == "2.0.0-beta.4"
