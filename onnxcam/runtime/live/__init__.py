"""Live: a camera's newest frame explained, again and again, for a window, a page and a recording.

::

    camera ──► newest frame ──► explain ──► draw ──► window, page, recording
                                   ▲          ▲
                                   └─ controls ┘   what keys and page have set
"""
