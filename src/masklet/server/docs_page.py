"""The page `/docs`: the OpenAPI document for people, made here, so that it needs no script and no other server."""

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; overflow-wrap: break-word; }
pre { white-space: pre-wrap; padding: .75rem; border: 1px solid var(--line); border-radius: .4rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: .5rem .75rem; }
summary { cursor: pointer; } summary b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { text-align: left; padding: .2rem .75rem .2rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
"""


def docs_page(document: dict[str, Any]) -> str:
    """Return the page of a document."""
    return "".join(_page(document))


def _page(document: dict[str, Any]) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style><main><h1>{title}</h1>"
    yield f"<p>{_prose(document['info'].get('description', ''))}</p>"
    yield '<p>For programs: <a href="/openapi.json"><code>/openapi.json</code></a></p>'
    section = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["Cog"])[0]
            if tag != section:
                yield f"<h2>{escape(tag)}</h2>"
                section = tag
            yield from _operation(path, method, operation, document)
    yield "</main></html>"


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    yield f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code></summary>"
    yield f"<p>{_prose(operation.get('description') or operation.get('summary', ''))}</p>"
    if parameters := operation.get("parameters"):
        yield "<table><tr><th>Name</th><th>In</th><th>Meaning</th></tr>"
        for parameter in parameters:
            yield f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
            yield f"<td>{_prose(parameter.get('description', ''))}</td></tr>"
        yield "</table>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body, <code>{escape(kind)}</code>:</p>{_schema(content.get('schema', {}), document)}"
    yield "<table><tr><th>Status</th><th>Meaning</th></tr>"
    for status, response in sorted(operation.get("responses", {}).items()):
        yield f"<tr><td>{escape(status)}</td><td>{_prose(response.get('description', ''))}</td></tr>"
    yield "</table></details>"


def _prose(text: str) -> str:
    """Set a description; what stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _schema(schema: dict[str, Any], document: dict[str, Any]) -> str:
    """Show a schema."""
    return f"<pre>{escape(json.dumps(_whole(schema, document['components']['schemas']), indent=2))}</pre>"


def _whole(schema: Any, named: dict[str, Any]) -> Any:
    """Put each schema in the place of its name, which leads nowhere on the page; none of ours holds itself."""
    if isinstance(schema, list):
        return [_whole(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(named[schema["$ref"].rpartition("/")[2]], named)
    return {key: _whole(value, named) for key, value in schema.items()}
