"""What `speed.py`, `libraries.py` and `growth.py` measured, as pictures: needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def overheads(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Each ratio of `speed.py` with its quartiles, and its aim as a bar behind it: maps at the last layer on the left,
    gradients through half of a model or all of it on the right."""
    pyplot = _pyplot()
    lines = list(dict.fromkeys((row["what"], row["model"]) for row in rows))
    settings = list(dict.fromkeys((row["threads"], row["batch"]) for row in rows))
    far = {key for key in lines if any((row["what"], row["model"]) == key and row["ratio"] > 1.25 for row in rows)}
    panels = [keys for keys in ([key for key in lines if key not in far], [key for key in lines if key in far]) if keys]
    size = 6.5 * len(panels), 0.75 * max(map(len, panels)) + 1.4
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axis, keys in zip(axes[0], panels, strict=True):
        for row in rows:
            key = row["what"], row["model"]
            if key not in keys:
                continue
            i = settings.index((row["threads"], row["batch"]))
            y = keys.index(key) + 0.16 * (i - (len(settings) - 1) / 2)
            low, high = row["quartiles"]
            axis.plot(
                [row["limit"]] * 2, [y - 0.09, y + 0.09], color="grey", linewidth=4, alpha=0.4, solid_capstyle="butt"
            )
            axis.errorbar(row["ratio"], y, xerr=[[max(row["ratio"] - low, 0)], [max(high - row["ratio"], 0)]], fmt="o",
                          markersize=4, capsize=2, color=COLORS[i % len(COLORS)])  # fmt: skip
        axis.set_yticks(range(len(keys)), [f"{what}\n{model}" for what, model in keys], fontsize=8)
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("time with the explanation over time without")
    handles = [
        pyplot.Line2D([], [], marker="o", linestyle="", color=COLORS[i % len(COLORS)], label=f"{threads} thread"
                      f"{'s' if threads > 1 else ''}, batch {batch}")
        for i, (threads, batch) in enumerate(settings)
    ]  # fmt: skip
    handles.append(pyplot.Line2D([], [], color="grey", linewidth=4, alpha=0.4, label="aim"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=90)


def beside(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The time of each library of `libraries.py` for a map, one group of bars for each model and number of threads."""
    pyplot = _pyplot()
    groups = list(dict.fromkeys((row["model"], row["threads"]) for row in rows))
    libraries = list(dict.fromkeys(row["library"] for row in rows))
    figure, axes = pyplot.subplots(1, len(groups), figsize=(2.6 * len(groups) + 2, 3.4), layout="constrained",
                                   sharey=True, squeeze=False)  # fmt: skip
    for axis, (model, threads) in zip(axes[0], groups, strict=True):
        mine = {row["library"]: row for row in rows if (row["model"], row["threads"]) == (model, threads)}
        for i, library in enumerate(libraries):
            if library not in mine:
                continue
            row = mine[library]
            axis.barh(i, row["ms"], color=COLORS[0] if i == 0 else "#c7c7c7")
            note = f" {row['ms']:.3g} ms" + (f", {row['over_ours']:.1f}×" if i else "")
            axis.text(row["ms"], i, note, va="center", fontsize=8)
        axis.set_xlim(0, 1.75 * max(row["ms"] for row in mine.values()))
        axis.set_xticks([])
        axis.set_yticks(range(len(libraries)), libraries)
        axis.set_title(f"{model}\n{threads} thread{'s' if threads > 1 else ''}", fontsize=9)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=90)


def growth(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Times and ratios of `growth.py`, by what grows."""
    pyplot = _pyplot()
    from matplotlib import ticker

    lines = list(dict.fromkeys(row["line"] for row in rows))
    figure, axes = pyplot.subplots(2, len(lines), figsize=(4 * len(lines), 6), sharex="col", layout="constrained")
    for (upper, lower), line in zip(axes.T, lines, strict=True):
        mine = [row for row in rows if row["line"] == line]
        sizes = [row["size"] for row in mine]
        upper.loglog(sizes, [row["explained_ms"] for row in mine], "o-", label="explained")
        upper.loglog(sizes, [row["plain_ms"] for row in mine], "s--", label="plain")
        power = 2 if line == "picture's side" else 1
        if line != "classes":
            linear = [mine[0]["explained_ms"] * (size / sizes[0]) ** power for size in sizes]
            upper.loglog(sizes, linear, ":", color="grey", label="linear")
        upper.set_xticks(sizes, [f"{size:g}" for size in sizes])
        upper.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter("{x:g}")
        upper.minorticks_off()
        low, high = upper.get_ylim()
        middle, reach = math.sqrt(low * high), max(math.sqrt(high / low), math.sqrt(10))
        upper.set_ylim(middle / reach, middle * reach)  # a power of ten at least
        upper.set_title(line)
        upper.grid(alpha=0.3)
        lower.errorbar(sizes, [row["ratio"][1] for row in mine], fmt="o-", capsize=3,
                       yerr=[[r["ratio"][1] - r["ratio"][0] for r in mine],
                             [r["ratio"][2] - r["ratio"][1] for r in mine]])  # fmt: skip
        lower.axhline(1, color="grey", linestyle=":")
        reached = [end for row in mine for end in row["ratio"]]
        lower.set_ylim(min(0.9, *reached) - 0.01, max(1.2, *reached) + 0.01)
        lower.set_xlabel(line)
        lower.grid(alpha=0.3)
    axes[0, 0].set_ylabel("ms for one run")
    axes[1, 0].set_ylabel("explained over plain")
    axes[0, 0].legend()
    figure.savefig(path, dpi=90)
