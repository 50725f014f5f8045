"""A page with the live view, for machines without a screen: ``pip install "onnxcam[serve]"``.

::

    loop ── publish ──► Hub ──► one JPEG a frame ──► viewer, viewer, …   (each at its own pace)
                                                        ▲
    Controls ◄── POST /settings ── Guard ◄── browser ───┘

`onnxcam.runtime.server.serving.Server` puts it together.
"""
