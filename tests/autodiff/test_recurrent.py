from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import (
    build,
    case,
    constant,
    differentiate,
    draw,
    each,
    equals_central_difference,
    equals_torch,
    run_onnxruntime,
    uniform,
)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}
"""Where torch's gates (LSTM: i, f, g, o; GRU: r, z, n) stand in ONNX's (i, o, f, c; z, r, c)."""


def _torch(operator: str, names: list[str], direction: str, output: str, reset_first: bool):
    """The operator by torch's kernels, of the inputs ``names``."""
    directions = 2 if direction == "bidirectional" else 1

    def gates(w):
        return torch.cat([w.chunk(GATES[operator], 0)[k] for k in ORDER[operator]], 0)

    def run(*given):
        inputs = dict(zip(names, given, strict=True))
        x, w, r, b = (inputs.get(name) for name in "xwrb")
        x = x.flip(0) if direction == "reverse" else x
        hidden = r.shape[2]
        states = [inputs.get(name, torch.zeros(directions, x.shape[1], hidden)) for name in "hc"]
        flat = []
        for d in range(directions):
            biases = torch.zeros(2, w.shape[1]) if b is None else torch.stack(b[d].chunk(2))
            flat += [gates(w[d]), gates(r[d]), gates(biases[0]), gates(biases[1])]
        options = (True, 1, 0.0, False, directions == 2, False)
        if operator == "LSTM":
            y, h, c = torch.lstm(x, states, flat, *options)
        elif operator == "GRU" and reset_first:
            y, h, c = *_gru_reset_first(x, w[0], r[0], b[0], states[0][0]), None
        else:
            y, h, c = *(torch.gru if operator == "GRU" else torch.rnn_tanh)(x, states[0], flat, *options), None
        y = y.unflatten(2, (directions, hidden)).transpose(1, 2)
        return {"y": y.flip(0) if direction == "reverse" else y, ", y": h, ", , y": c}[output]

    return run


def _gru_reset_first(x, w, r, b, h):
    """GRU with linear_before_reset=0, which torch has no kernel of."""
    (w_z, w_r, w_c), (r_z, r_r, r_c), b = w.chunk(3), r.chunk(3), b.chunk(6)
    ys = []
    for x_t in x:
        update = torch.sigmoid(x_t @ w_z.T + h @ r_z.T + b[0] + b[3])
        reset = torch.sigmoid(x_t @ w_r.T + h @ r_r.T + b[1] + b[4])
        h = (1 - update) * torch.tanh(x_t @ w_c.T + (reset * h) @ r_c.T + b[2] + b[5]) + update * h
        ys.append(h)
    return torch.stack(ys), h[None]


def _case(operator, names="x w r", *, direction="forward", outputs="y", attributes="", steps=4, batch=3, **more):
    """A row with the inputs ``names`` of x, w, r, b, h (the first state), c (the first cell state)."""
    gates, features, hidden, directions = GATES[operator], 5, 2, 2 if direction == "bidirectional" else 1
    inputs = {
        "x": uniform(-2, 2, steps, batch, features),
        "w": uniform(-1, 1, directions, gates * hidden, features),
        "r": uniform(-1, 1, directions, gates * hidden, hidden),
        "b": uniform(-1, 1, directions, 2 * gates * hidden),
        "h": uniform(-1, 1, directions, batch, hidden),
        "c": uniform(-1, 1, directions, batch, hidden),
    }
    given = names.split()
    listed = ", ".join(name if name in given else "" for name in ("x", "w", "r", "b", "", "h", "c")).rstrip(", ")
    text = f'{outputs} = {operator}<hidden_size={hidden}, direction="{direction}"{attributes}>({listed})'
    reset_first = "linear_before_reset" not in attributes
    run = _torch(operator, given, direction, outputs, reset_first)
    fixed = {"torch": run, "static": ["w", "r", "b"], **more}
    return case(text, **{name: inputs[name] for name in given}, **fixed)


LINEAR = ", linear_before_reset=1"

BOTH = "bidirectional"

CASES = [
    _case("LSTM"),
    _case("LSTM", "x w r h"),
    _case("LSTM", "x w r b h c"),
    _case("LSTM", "x w r b h c", direction="reverse"),
    _case("LSTM", "x w r b", direction=BOTH),
    _case("LSTM", "x w r b h c", direction=BOTH),
    _case("LSTM", "x w r b h c", direction=BOTH, steps=1, batch=1),
    _case("LSTM", "x w r b h c", direction="reverse", outputs=", y"),
    _case("LSTM", "x w r b h c", direction=BOTH, outputs=", , y"),
    _case("GRU", attributes=LINEAR),
    _case("GRU", "x w r b h", direction=BOTH, attributes=LINEAR),
    _case("GRU", "x w r b h", direction="reverse", attributes=LINEAR),
    _case("GRU", "x w r b h", outputs=", y", attributes=LINEAR),
    _case("GRU", torch=None),
    _case("GRU", "x w r b h"),
    _case("GRU", "x w r b h", direction="reverse"),
    _case("GRU", "x w r b h", direction=BOTH, torch=None),
    _case("RNN"),
    _case("RNN", "x w r b h", direction="reverse"),
    _case("RNN", "x w r b h", direction=BOTH),
    _case("RNN", "x w r b h", outputs=", y"),
    # all outputs at once, and a full sequence length
    *(
        case(
            f"p, q, r = {text}; ps = ReduceSum<keepdims=0>(p); qr = Mul(q, r); y = Mul(qr, ps)",
            x=(4, 3, 5),
            w=uniform(-1, 1, 1, 8, 5),
            u=uniform(-1, 1, 1, 8, 2),
            n=constant(np.array([4, 4, 4], np.int32)),
            static=["x", "w", "u"],
        )
        for text in ["LSTM<hidden_size=2>(x, w, u, , n)"]
    ),
]

# ONNX Runtime on the CPU has no layout=1
BATCH_FIRST = [
    case(
        f"{outputs} = LSTM<hidden_size=2, layout=1{more}>(x, w, r, b, , h, c)",
        x=(3, 4, 5),
        w=uniform(-1, 1, directions, 8, 5),
        r=uniform(-1, 1, directions, 8, 2),
        b=uniform(-1, 1, directions, 16),
        h=(3, directions, 2),
        c=(3, directions, 2),
        static=["w", "r", "b"],
    )
    for outputs in ("y", ", y", ", , y")
    for directions, more in ((1, ', direction="reverse"'), (2, ', direction="bidirectional"'))
]


# onnx's reference evaluator takes the default activations, whatever the node names
ACTIVATIONS = [
    case(
        'RNN<hidden_size=2, activations=["Relu"]>(x, w, r)',
        x=(4, 3, 5),
        w=(1, 2, 5),
        r=(1, 2, 2),
        static=["w", "r"],
        torch=lambda x, w, r: _rnn_relu(x, w[0], r[0]),
    ),
    case(
        'LSTM<hidden_size=2, activations=["HardSigmoid", "Relu", "Sigmoid"]>(x, w, r)',
        x=(4, 3, 5),
        w=uniform(-1, 1, 1, 8, 5),
        r=uniform(-1, 1, 1, 8, 2),
        static=["w", "r"],
        torch=lambda x, w, r: _lstm_relu(x, w[0], r[0]),
    ),
]


def _rnn_relu(x, w, r):
    h, ys = torch.zeros(x.shape[1], r.shape[1]), []
    for x_t in x:
        h = torch.relu(x_t @ w.T + h @ r.T)
        ys.append(h)
    return torch.stack(ys)[:, None]


def _lstm_relu(x, w, r):
    h = c = torch.zeros(x.shape[1], r.shape[1])
    ys = []
    for x_t in x:
        i, o, f, g = (x_t @ w.T + h @ r.T).chunk(4, -1)
        i, o, f = ((0.2 * z + 0.5).clamp(0, 1) for z in (i, o, f))
        c = f * c + i * torch.relu(g)
        h = o * torch.sigmoid(c)
        ys.append(h)
    return torch.stack(ys)[:, None]


@each(ACTIVATIONS)
def test_gradient_through_other_activations_equals_torch(row, setting):
    equals_torch(row, setting)


@pytest.mark.parametrize(("operator", "attributes"), [("LSTM", ""), ("GRU", LINEAR), ("RNN", "")])
def test_half_precision(operator, attributes):
    row = _case(operator, "x w r b h", direction=BOTH, attributes=attributes, steps=9)
    proto = differentiate(build(row, dtype="float16"), row.wrt)
    feeds = {name: x.astype(np.float16) for name, x in draw(row).items()}
    tensors = [torch.tensor(x.astype(np.float32), requires_grad=True) for x in feeds.values()]
    y = row.torch(*tensors)
    u = np.random.default_rng(0).standard_normal(tuple(y.shape)).astype(np.float16)
    expected = torch.autograd.grad(y, tensors, torch.tensor(u.astype(np.float32)))
    found = run_onnxruntime(proto)({**feeds, "dy": u})
    for name, wanted in zip(row.wrt, expected, strict=True):
        assert found[f"d{name}"].dtype == np.float16
        atol = 2e-3 * float(wanted.abs().max())
        np.testing.assert_allclose(found[f"d{name}"], wanted, rtol=0, atol=atol, err_msg=name)


@each(BATCH_FIRST)
def test_batch_first_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("LSTM<hidden_size=2, clip=1.0>(x, w, r)", "clip is not differentiated"),
        ("LSTM<hidden_size=2, input_forget=1>(x, w, r)", "input_forget=1"),
        ("LSTM<hidden_size=2>(x, w, r, , , , , p)", "peepholes"),
        ('LSTM<hidden_size=2, activations=["Sigmoid", "Softsign", "Tanh"]>(x, w, r)', "softsign"),
        ("LSTM<hidden_size=2>(x, w, r, , n)", "sequence_lens is not differentiated unless"),
    ],
)
def test_what_is_not_differentiated_is_refused(text, why):
    more = {"p": constant(np.ones((1, 6))), "n": constant(np.array([4, 3, 4], np.int32))}
    more = {name: value for name, value in more.items() if f", {name})" in text}
    row = case(text, x=(4, 3, 5), w=(1, 8, 5), r=(1, 8, 2), **more)
    with pytest.raises(UnsupportedOperatorError, match=why):
        differentiate(build(row), ["x"])
