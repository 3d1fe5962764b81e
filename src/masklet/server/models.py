"""Replicate's HTTP API beside predictions: models and versions, and the lists that clients expect to be there."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from masklet.server import schemas
from masklet.server.bodies import StrictRoute, read_json
from masklet.server.catalog import Served
from masklet.server.doors import ALWAYS, Here, Model, Name, Owner, bearer, refusals
from masklet.server.problems import Refusal, not_found
from masklet.server.schemas import describe_model, describe_version
from masklet.server.service import Service

COLLECTION = "video-segmentation"

router = APIRouter(
    prefix="/v1", route_class=StrictRoute, responses=ALWAYS, dependencies=[Depends(bearer)], tags=["Models"]
)


@router.get("/models", response_model=schemas.Page[schemas.ModelAnswer])
async def list_models(here: Here, whose: Owner, request: Request) -> Response:
    """List the models of this server."""
    return _page(await _matching(here, whose, request))


@router.api_route("/models", methods=["QUERY"], include_in_schema=False)
async def search_models(here: Here, whose: Owner, request: Request) -> Response:
    """Search the models; the body is the words, which the JavaScript client puts in quotes."""
    return _page(await _matching(here, whose, request, await _words(request)))


@router.get("/search", include_in_schema=False)
async def search(here: Here, whose: Owner, request: Request, query: str = "") -> Response:
    """Search, as the Python client 2 does."""
    found = [{"model": model, "metadata": {}} for model in await _matching(here, whose, request, query)]
    return JSONResponse({"query": query, "models": found, "collections": [], "pages": []})


@router.get("/models/{owner}/{name}", response_model=schemas.ModelAnswer, responses=refusals(404, 422))
async def get_model(here: Here, model: Model, whose: Owner, request: Request) -> Response:
    """Get a model."""
    runs = await run_in_threadpool(here.store.runs, owner=whose)
    return JSONResponse(describe_model(model, here.base(request), runs.get(model.slug, 0)))


@router.get("/models/{owner}/{name}/readme", response_class=PlainTextResponse, responses=refusals(404, 422))
async def get_readme(model: Model) -> Response:
    """Get what there is to say about a model."""
    return PlainTextResponse(f"# {model.slug}\n\n{model.description}\n")


@router.get(
    "/models/{owner}/{name}/examples", response_model=schemas.Page[dict[str, Any]], responses=refusals(404, 422)
)
async def list_examples(model: Model) -> Response:
    """List the examples of a model: none are kept."""
    return _page([])


@router.get(
    "/models/{owner}/{name}/versions", response_model=schemas.Page[schemas.VersionAnswer], responses=refusals(404, 422)
)
async def list_versions(model: Model) -> Response:
    """List the versions of a model: the one that this server has."""
    return _page([describe_version(model)])


@router.get("/models/{owner}/{name}/versions/{id}", response_model=schemas.VersionAnswer, responses=refusals(404, 422))
async def get_version(here: Here, model: Model, id: Name) -> Response:
    """Get a version of a model, also under the ids that Replicate gave it."""
    found: Served | None = here.catalogue.version(id)
    if found is None or found.slug != model.slug:
        raise not_found("version")
    return JSONResponse(describe_version(found))


@router.get("/collections", response_model=schemas.Page[schemas.Collection], tags=["Account"])
async def list_collections() -> Response:
    """List the collections: all models of this server are one."""
    return _page([_collection()])


@router.get("/collections/{slug}", response_model=schemas.Collection, responses=refusals(404, 422), tags=["Account"])
async def get_collection(slug: Name, here: Here, whose: Owner, request: Request) -> Response:
    """Get a collection with its models."""
    if slug != COLLECTION:
        raise not_found("collection")
    return JSONResponse(_collection() | {"models": await _matching(here, whose, request)})


@router.get("/account", response_model=schemas.Account, tags=["Account"])
async def get_account(owner: Owner) -> Response:
    """Get who the token belongs to."""
    return JSONResponse({"type": "user", "username": owner, "name": owner, "github_url": None})


@router.get("/hardware", response_model=list[schemas.Hardware], tags=["Account"])
async def list_hardware(here: Here) -> Response:
    """List what predictions run on: the device that the server was started for."""
    device = here.settings.device
    return JSONResponse([{"sku": device, "name": "This machine" if device == "auto" else device}])


@router.get("/webhooks/default/secret", response_model=schemas.SigningSecret, tags=["Account"])
async def get_webhook_secret(here: Here, owner: Owner) -> Response:
    """Get the secret that your webhooks are signed with."""
    return JSONResponse({"key": here.webhook_secret(owner)})


@router.get("/deployments", include_in_schema=False)
@router.get("/trainings", include_in_schema=False)
async def list_nothing() -> Response:
    """List what this server has none of, as clients ask for it."""
    return _page([])


def _collection() -> dict[str, Any]:
    return {
        "name": "Video segmentation",
        "slug": COLLECTION,
        "description": "The models of this masklet server.",
        "full_description": None,
    }


async def _matching(here: Service, whose: str, request: Request, words: str = "") -> list[dict[str, Any]]:
    wanted, runs = words.lower().split(), await run_in_threadpool(here.store.runs, owner=whose)
    return [
        describe_model(model, here.base(request), runs.get(model.slug, 0))
        for model in here.catalogue.models
        if all(word in f"{model.slug} {model.description}".lower() for word in wanted)
    ]


async def _words(request: Request) -> str:
    body = await request.body()
    if body.startswith(b'"'):
        value = read_json(body)
        return value if isinstance(value, str) else ""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "The words to search for are not UTF-8.") from None


def _page(results: list[dict[str, Any]]) -> Response:
    return JSONResponse({"previous": None, "next": None, "results": results})
