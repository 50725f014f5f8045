"""The lightweight half: runs artifacts on pictures and video with ONNX Runtime, NumPy and OpenCV alone.

::

    pictures ──► preprocess ──► session ──► explanation ──► render
                     └── geometry: which pixels the model saw ──┘
"""
