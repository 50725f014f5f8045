"""What a browser shows where the token lacks."""

from __future__ import annotations

__all__ = ["POLICY", "entrance"]

import base64
import hashlib
import html

from starlette.responses import HTMLResponse

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
"""Content-Security-Policy of every answer: https://www.w3.org/TR/CSP3/"""

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:22rem;margin:18vh auto;padding:0 1rem}"
    "h1{font-size:1.25rem}input,button{font:inherit;width:100%;box-sizing:border-box;padding:.6rem;margin-top:.5rem;"
    "border-radius:.5rem;border:1px solid #8888}button{background:#0b7a6f;color:#fff;border:0}"
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>onnxcam</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<h1>onnxcam</h1>
<p role="alert">{sentence}.</p>
<form action="/" method="get">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Open the live view</button>
</form>
<p>Came by a link with the token in it? <a href="/">Continue</a>.</p>
"""


def entrance(sentence: str) -> HTMLResponse:
    """A page that says ``sentence`` and asks for the token.

    A browser that followed a link from another site has the cookie already but may not send it yet (``SameSite``): the
    link on this page, which is of the same site, lets it.
    """
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return HTMLResponse(
        _PAGE.format(style=_STYLE, sentence=html.escape(sentence[:1].upper() + sentence[1:])),
        401,
        {
            "Content-Security-Policy": f"{POLICY}; style-src 'sha256-{digest}'; img-src data:",
            "WWW-Authenticate": 'Bearer realm="onnxcam"',
        },
    )
