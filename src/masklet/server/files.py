"""Files in and out: uploads, results, and the streams of predictions, which Replicate puts among the files."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from masklet.jobs import StoredFile
from masklet.server import schemas
from masklet.server.bodies import StrictRoute
from masklet.server.doors import ALWAYS, Here, Id, Name, Owner, bearer, refusals, signature
from masklet.server.multipart import UNKNOWN_TYPE, receive_upload
from masklet.server.problems import Refusal, not_found
from masklet.server.schemas import describe_file
from masklet.server.service import Service
from masklet.server.sources import as_data_uri
from masklet.server.stream import stream

SEALED = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=3600"}
"""A stored file is never shown as a page of this server, whatever is in it."""

router = APIRouter(
    prefix="/v1", route_class=StrictRoute, responses=ALWAYS, dependencies=[Depends(bearer)], tags=["Files"]
)


class Signed:
    """The query that stands for a token."""

    def __init__(
        self,
        owner: str = "",
        expiry: str = "",
        signature: Annotated[str | None, Query(description="Stands for a token, with `owner` and `expiry`.")] = None,
    ) -> None:
        self.query = {"owner": owner, "expiry": expiry, "signature": signature or ""}
        self.given = signature is not None


Signature = Annotated[Signed, Depends()]
SIGNED = [Depends(signature)]
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["content"],
                    "properties": {
                        "content": {"type": "string", "format": "binary", "description": "The file."},
                        "metadata": {"type": "string", "description": "A JSON object, kept with the file."},
                        "filename": {"type": "string", "description": "Its name, if the part has none."},
                        "type": {"type": "string", "description": "Its type, if the part has none."},
                    },
                }
            }
        },
    }
}


@router.post(
    "/files",
    status_code=201,
    response_model=schemas.FileAnswer,
    responses=refusals(400, 408, 413, 415, 422, 429, 503, 507),
    openapi_extra=UPLOAD,
)
async def upload(request: Request, here: Here, owner: Owner) -> Response:
    """Upload a file, to name its address as an input."""
    with here.upload_places.taken(owner):
        file = await _receive(request, here, owner)
    return JSONResponse(describe_file(file, here.addresses(request)), 201)


@router.get("/files", response_model=schemas.Page[schemas.FileAnswer])
async def list_files(here: Here, owner: Owner, request: Request) -> Response:
    """List your newest uploads."""
    files = await run_in_threadpool(here.store.uploads.list, owner=owner)
    results = [describe_file(file, here.addresses(request)) for file in files]
    return JSONResponse({"previous": None, "next": None, "results": results})


@router.get("/files/{id}", response_model=schemas.FileAnswer, responses=refusals(404, 422))
async def get_file(id: Id, here: Here, owner: Owner, request: Request) -> Response:
    """Get an upload's description."""
    return JSONResponse(describe_file(await _find(here, id, owner), here.addresses(request)))


@router.delete("/files/{id}", status_code=204, responses=refusals(404, 422, 503))
async def delete_file(id: Id, here: Here, owner: Owner) -> Response:
    """Delete an upload; predictions that need it keep it until they end."""
    if not await run_in_threadpool(here.store.uploads.delete, id, owner=owner):
        raise not_found("file")
    return Response(status_code=204)


@router.get("/files/{id}/download", response_class=Response, dependencies=SIGNED, responses=refusals(404, 422))
@router.head("/files/{id}/download", include_in_schema=False)
async def download_file(id: Id, here: Here, request: Request, signed: Signature) -> Response:
    """Download an upload."""
    file = await _find(here, id, _whose(here, request, signed, id))
    # Whatever the uploader called it: nothing may take it for a page or a script.
    return _file_response(str(file.path), UNKNOWN_TYPE, file.name, file.sha256)


@router.get("/files/{id}/stream", response_class=StreamingResponse, dependencies=SIGNED, responses=refusals(404, 422))
async def stream_prediction(
    id: Id,
    here: Here,
    request: Request,
    signed: Signature,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Hear of a prediction's outputs and logs as they come (server-sent events)."""
    whose = _whose(here, request, signed, f"{id}/stream")
    prediction = await here.get(id, whose)
    addresses = here.addresses(request)

    def url(name: str) -> str:
        output = here.store.find_output(id, name)
        if output is None:
            return ""
        if here.settings.outputs == "data":
            return as_data_uri(output.content_type, output.path.read_bytes())
        return addresses.output(prediction, output)

    async def events() -> AsyncIterator[str]:
        with here.feed.listen(id) as news:
            async for text in stream(news, _seq(last_event_id), lambda after: here.read_events(id, whose, after), url):
                yield text

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/outputs/{id}/{name}", response_class=Response, dependencies=SIGNED, responses=refusals(404, 416, 422))
@router.head("/outputs/{id}/{name}", include_in_schema=False)
async def get_output(id: Id, name: Name, here: Here, request: Request, signed: Signature) -> Response:
    """Download a result."""
    whose = _whose(here, request, signed, f"{id}/{name}")
    if not signed.given:
        await here.get(id, whose)
    output = await run_in_threadpool(here.store.find_output, id, name)
    if output is None or not output.path.exists():
        raise not_found("output")
    return _file_response(str(output.path), output.content_type, output.name, output.sha256)


def _whose(here: Service, request: Request, signed: Signed, what: str) -> str:
    """Return whose a file is: a signature says it, or else the token."""
    if signed.given:
        return here.signer.owner(what, signed.query)
    found: str | None = request.scope["state"]["owner"]
    if found is None:
        raise Refusal(403, "The address has no signature. Take it whole from the prediction.")
    return found


async def _receive(request: Request, here: Service, owner: str) -> StoredFile:
    uploads, settings = here.store.uploads, here.settings
    path = uploads.temporary()
    try:
        here.store.folder.check_room(settings.room_bytes)
        content_type = request.headers.get("content-type", "")
        received = await receive_upload(request.stream(), content_type, path, settings.upload_bytes)
        return await run_in_threadpool(
            uploads.add,
            owner,
            path,
            name=received.name,
            content_type=received.content_type,
            metadata=received.metadata,
            keep_s=settings.upload_keep_s,
        )
    finally:
        path.unlink(missing_ok=True)


async def _find(here: Service, id: str, owner: str) -> StoredFile:
    file = await run_in_threadpool(here.store.uploads.get, id, owner=owner)
    if file is None:
        raise not_found("file")
    return file


def _file_response(path: str, content_type: str, name: str, sha256: str) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    headers = SEALED | {"Content-Disposition": disposition, "ETag": f'"{sha256}"'}
    return FileResponse(path, media_type=content_type, headers=headers)


def _seq(last_event_id: str | None) -> int:
    text = (last_event_id or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
