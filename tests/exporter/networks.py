"""Small PyTorch networks of each kind whose graphs are attached to, and their export."""

from __future__ import annotations

__all__ = ["Plain", "Transformer", "Windows", "dynamo", "torchscript"]

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIZE = (20, 12)
"""Height and width of the pictures: patches of 4×4 give a grid of 5×3."""


class Plain(nn.Module):
    """Two stages of convolutions; global average pooling, or max pooling and all that is left (``pool="max"``)."""

    def __init__(self, *, pool: str = "average") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(4, 6, 3, 1, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1) if pool == "average" else nn.MaxPool2d(2)
        self.fc = nn.Linear(6 if pool == "average" else 6 * 5 * 3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.stage(self.stem(x))).flatten(1))


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, channels = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, channels))


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = _Attention(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A ViT with ``extra`` tokens in front; the first of them gives the scores, or the mean of the others."""

    def __init__(self, *, extra: int = 1, mean: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.extra = nn.Parameter(torch.randn(1, extra, 8)) if extra else None
        self.position = nn.Parameter(torch.randn(1, 15 + extra, 8))
        self.blocks = nn.Sequential(_Block(8), _Block(8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.mean, self.skipped = mean, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.extra is not None:
            x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        return self.head(x[:, self.skipped :].mean(1) if self.mean else x[:, 0])


class Windows(nn.Module):
    """As Swin: maps are [N, H, W, C], and attention looks within windows of 3×2 places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attn = _Attention(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm1(x), (-1, -1), (1, 2))
        y = y.reshape(n, h // 3, 3, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, c)
        y = self.attn(y).reshape(n, h // 3, w // 2, 3, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean((1, 2)))


def torchscript(net: nn.Module, path: Path, *, opset: int = 13, size: tuple[int, int] = SIZE, **more: Any) -> Path:
    """The graph of ``net`` by torch's TorchScript exporter, the batch dynamic."""
    return _export(net, path, size, dynamo=False, opset_version=opset, **({"dynamic_axes": {"image": {0: "N"}}} | more))


def dynamo(net: nn.Module, path: Path, *, opset: int = 18, size: tuple[int, int] = SIZE) -> Path:
    """The same by torch.export."""
    shapes = ({0: torch.export.Dim("batch")},)
    return _export(net, path, size, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False)


def _export(net: nn.Module, path: Path, size: tuple[int, int], **how: Any) -> Path:
    picture = torch.randn(2, 3, *size)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (picture,), path, **({"input_names": ["image"], "output_names": ["logits"]} | how)
        )
    return path
