"""The page `/docs`, as a person reads it."""

import re

import pytest

from masklet.server.app import openapi_document
from masklet.server.docs_page import docs_page


@pytest.fixture(scope="module")
def page():
    return docs_page(openapi_document())


def test_a_body_is_shown_with_all_that_it_holds(page):
    assert "$ref" not in page
    shown = page.split("<code>/predictions/{prediction_id}</code>")[1].split("</details>")[0]
    assert "&quot;webhook_events_filter&quot;: {" in shown


def test_what_a_description_means_as_code_is_set_as_code(page):
    assert "`" not in re.sub("<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert "<code>wait</code> or <code>wait=N</code>: answer when done" in page


def test_a_description_is_text_and_never_markup():
    operation = {"description": "`a<b>` & <i>c</i>", "responses": {}}
    document = {"info": {"title": "t"}, "paths": {"/x": {"get": operation}}, "components": {"schemas": {}}}
    assert "<p><code>a&lt;b&gt;</code> &amp; &lt;i&gt;c&lt;/i&gt;</p>" in docs_page(document)


def test_what_is_wider_than_a_phone_is_broken_and_needs_no_scrolling_which_keys_cannot_do_everywhere(page):
    assert re.search("code, pre {[^}]*overflow-wrap: break-word;", page)
    assert re.search("pre {[^}]*white-space: pre-wrap;", page)
    assert "overflow-x" not in page
