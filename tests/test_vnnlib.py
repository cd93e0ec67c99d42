"""VNN-LIB as people bring it: boxes anywhere and several of them, packed, in every dialect; the
networks and properties of the competition, decided, and never against sampling or PGD."""

import gzip
import itertools
import math
from dataclasses import astuple, dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import models
from workbench.proofs import (
    Answer,
    Properties,
    Property,
    bounds_of,
    local_robustness,
    prove,
    read_vnnlib,
)
from workbench.proofs.files import network_of
from workbench.proofs.proving import merged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def weighted(body, seed, scale=1.4):
    """The network with weights and biases drawn anew."""
    draw = torch.Generator().manual_seed(seed)
    for p in body.parameters():
        fan = p[0].numel() if p.ndim > 1 else 25
        p.data.copy_(torch.randn(p.shape, generator=draw) * scale / fan**0.5)
    return body.eval()


def dense(*widths):
    layers = [
        layer for n, m in itertools.pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


TWO = models.wrap(weighted(dense(2, 6, 2), 0), input_shape=(1, 1, 2))
NAMES = "".join(f"(declare-const {v}_{i} Real)\n" for v in "XY" for i in (0, 1))


def text_of(n, k, boxes, unsafe=(), *, paired=None):
    """A file: boxes (lower, upper) as lists of numbers, an `or` of them where there are more.

    unsafe: lists of (a, b), `a <= b` each, one of which must hold. paired: such lists by box.
    """
    lines = [f"(declare-const {v}_{i} Real)" for v, m in (("X", n), ("Y", k)) for i in range(m)]
    blocks = [
        " ".join(
            f"(<= X_{i} {high!r}) (>= X_{i} {low!r})"
            for i, (low, high) in enumerate(zip(*box, strict=True))
        )
        for box in boxes
    ]
    written = [
        [" ".join(f"(<= {a} {b})" for a, b in rows) for rows in sets]
        for sets in (paired or [unsafe])
    ]
    if paired:
        ways = [
            f"(and {block} {rows})"
            for block, sets in zip(blocks, written, strict=True)
            for rows in sets
        ]
        return "\n".join([*lines, f"(assert (or {' '.join(ways)}))"])
    if len(boxes) > 1:
        lines.append(f"(assert (or {' '.join(f'(and {block})' for block in blocks)}))")
    else:
        lines += [f"(assert {row})" for row in blocks[0].replace(") (", ")\n(").split("\n")]
    return "\n".join([*lines, f"(assert (or {' '.join(f'(and {r})' for r in written[0])}))"])


def read(tmp_path, text, model=TWO, name="made.vnnlib"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_vnnlib(path, model)


def said(prop):
    """What a property says, whatever the order of its rows."""
    parts = prop.parts if isinstance(prop, Properties) else (prop,)
    return [
        (
            part.lower.tolist(),
            part.upper.tolist(),
            [sorted(torch.cat([a, b[:, None]], 1).tolist()) for a, b in part.unsafe],
        )
        for part in parts
    ]


PLAIN = NAMES + (
    "(assert (>= X_0 -0.5))\n(assert (<= X_0 0.25))\n(assert (>= X_1 -2.5))\n"
    "(assert (<= X_1 1.75))\n(assert (>= Y_0 Y_1))\n(assert (<= Y_1 -0.125))\n"
)


# Dialects


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", " "),
        "\ufeff" + PLAIN,
        PLAIN.replace(" ", "\t\f\v "),
        ";a form feed\f(assert (>= X_0 9)) \x1c \x85 \u2028 (assert false)\n" + PLAIN,
        (";caf\xe9 \xff\n".encode("latin-1")) + PLAIN.encode(),
        PLAIN.replace("(assert", "; (((\n(assert").replace("))", ")) ; )\f)"),
        "\n".join(reversed(PLAIN.split("\n"))),  # a use before its declaration
        "".join(f"(declare-fun {v}_{i} () Real)" for i in (1, 0) for v in "YX")
        + PLAIN[len(NAMES) :],
        PLAIN.replace("-0.5)", "(- 0.5))").replace("-2.5", "(/ -5 2)").replace("0.25", "+2.5E-1"),
        PLAIN.replace("-0.5)", "(- 1 (* 3 .5)))").replace("1.75", "(+ 1. 5e-1 25.e-2)"),
        PLAIN.replace("(>= X_0 -0.5)", "(<= -0.5 X_0)").replace("(>= Y_0 Y_1)", "(<= Y_1 Y_0)"),
        PLAIN.replace("(assert (<= X_0 0.25))", "").replace("(>= X_0 -0.5)", "(<= -.5 X_0 .25)"),
        PLAIN.replace("(assert (>= X_0 -0.5))", "(assert (or (>= X_0 -0.5)))(assert (>= X_0 -7))"),
    ],
)
def test_dialects_say_the_same(tmp_path, text):
    assert said(read(tmp_path, text)) == said(read(tmp_path, PLAIN))


@pytest.mark.parametrize("name", ["p.vnnlib.gz", "p.vnnlib", "p.gz", "P.VNNLIB.GZ"])
def test_packed_files_whatever_they_are_called(tmp_path, name):
    prop = read(tmp_path, gzip.compress(PLAIN.encode()), name=name)
    assert said(prop) == said(read(tmp_path, PLAIN, name=name))  # plain in spite of its name
    assert prop.name.lower() == "p" + ".vnnlib" * name.endswith("GZ")


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c[:12] + b"\xff" * 9 + c[21:]])
def test_a_damaged_packed_file_is_said(tmp_path, damage):
    with pytest.raises(ValueError, match=r"made\.vnnlib: a gzip file that is damaged or cut short"):
        read(tmp_path, damage(gzip.compress(PLAIN.encode())))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("(<= X_0 (/ 1 0))", r"a number .*, got \(/ 1 0\)"),
        ("(<= X_0 1e999)", "a number .*, got 1e999"),
        ("(<= X_0 (- X_1))", r"a number .*, got \(- X_1\)"),
        ("(<= X_0 (^ 2 2))", r"got \(\^ 2 2\)"),
        ("(<= X_0 0x1)", "got 0x1"),
        ("(<= X_0 1_000)", "got 1_000"),
        ("(<= X_0 -1e39)", "X_0: expected bounds that float32 can hold, got -1e"),
        ("(< X_0 -0.5)", "X_0: its lower bound is above its upper bound"),
        ("(and " + "(or (<= X_0 1) (<= X_0 2))" * 20 + ")", "at most 100,000 ways"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"made\.vnnlib: line 11: .*{message}"):
        read(tmp_path, PLAIN + f"(assert {row})")


def test_too_many_ways_in_many_lines_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="at most 100,000 ways to combine the alternatives"):
        read(tmp_path, PLAIN + "(assert (or (<= X_0 1) (<= X_0 2)))" * 40)


# Boxes


def test_a_box_outside_0_1_is_that_box_to_the_bit(tmp_path):
    prop = read(tmp_path, PLAIN)
    assert prop.lower.flatten().tolist() == [-0.5, -2.5]
    assert prop.upper.flatten().tolist() == [0.25, 1.75]
    assert prop.inner is None


@given(
    st.lists(st.floats(-1e6, 1e6, width=64), min_size=2, max_size=2),
    st.sampled_from([0.0, 1e-12, 1e-7, 0.1, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_proofs_are_of_a_box_no_smaller_and_counterexamples_of_one_no_larger(
    tmp_path_factory, low, width
):
    high = [value + width for value in low]
    prop = read(tmp_path_factory.mktemp("box"), text_of(2, 2, [(low, high)], [[("Y_0", "Y_1")]]))
    lower, upper = (side.flatten().tolist() for side in (prop.lower, prop.upper))
    inner = [side.flatten().tolist() for side in prop.sides]
    for i in range(2):
        assert lower[i] <= low[i] <= high[i] <= upper[i]
        step = abs(float(np.spacing(np.float32(high[i]))))
        assert max(low[i] - lower[i], upper[i] - high[i]) <= step
        assert inner[0][i] <= inner[1][i]
        between = float(np.nextafter(np.float32(lower[i]), np.float32(np.inf))) <= high[i]
        if between:  # there is a float32 in the box
            assert low[i] <= inner[0][i] <= inner[1][i] <= high[i]


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        ("<= Y_0 0.5", [1, 1, 0]),
        ("< Y_0 0.5", [1, 0, 0]),
        ("> Y_0 0.5", [0, 0, 1]),
        (">= Y_0 0.5", [0, 1, 1]),
        ("= Y_0 0.5", [0, 1, 0]),
        ("< Y_0 Y_0", [0, 0, 0]),
        ("<= Y_0 Y_0", [1, 1, 1]),
        ("> Y_1 Y_0", [1, 0, 0]),
    ],
)
def test_strict_and_equal(tmp_path, row, holds):
    prop = read(
        tmp_path, PLAIN.replace("(>= Y_0 Y_1)", f"({row})").replace("<= Y_1 -0.125", "<= Y_1 9")
    )
    y = torch.tensor([[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]], dtype=torch.float64)
    assert prop.unsafe_logits(y).tolist() == [bool(h) for h in holds]


def linear(*rows, bias=0.0):
    """A model of two pixels whose logits are these rows."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    body[1].weight.data.copy_(torch.tensor(rows))
    body[1].bias.data.fill_(bias)
    return models.wrap(body.eval(), input_shape=(1, 1, 2))


@pytest.mark.parametrize(("sign", "verdict"), [("<", "proved"), ("<=", "refuted")])
def test_a_strict_constraint_that_only_touches_is_never_met(tmp_path, sign, verdict):
    model = linear([1.0, 0.0], [1.0, 0.0])  # the logits are equal everywhere
    prop = read(
        tmp_path, PLAIN.replace("(>= Y_0 Y_1)", f"({sign} Y_0 Y_1)").replace("-0.125", "9"), model
    )
    assert prove(model, prop).verdict in (verdict, "open")  # 0 <= 0 is too near to prove
    assert (prove(model, prop).verdict == "refuted") == (verdict == "refuted")
    shut = read(tmp_path, PLAIN.replace("(>= Y_0 Y_1)", "(< Y_0 Y_0)"), model)
    assert prove(model, shut).verdict == "proved"


def test_a_counterexample_at_the_edge_is_in_the_box_of_the_file(tmp_path):
    """The worst image is the corner, whose sides float32 cannot hold."""
    model = linear([1.0, 1.0], [0.0, 0.0])
    box = [0.1, -0.3], [0.7, 0.6]
    for sign, rows in (("<=", [("1.29", "Y_0")]), (">=", [("Y_0", "-0.19")])):
        prop = read(tmp_path, text_of(2, 2, [box], [rows]), model)
        x = prove(model, prop).counterexample.flatten().double().tolist()
        assert all(lo <= value <= hi for lo, value, hi in zip(box[0], x, box[1], strict=True)), sign


def test_boxes_are_parts_each_with_its_own_outputs(tmp_path):
    boxes = [([-1.0, 0.0], [0.0, 0.5]), ([2.0, 2.0], [3.0, 3.0])]
    text = text_of(2, 2, boxes, paired=[[[("Y_0", "-1.0")], [("Y_1", "-2.0")]], [[("Y_0", "3.0")]]])
    prop = read(tmp_path, text)
    assert isinstance(prop, Properties)
    assert [part.name for part in prop.parts] == ["made, box 0", "made, box 1"]
    assert [len(part.unsafe) for part in prop.parts] == [2, 1]
    assert [part.upper.flatten().tolist() for part in prop.parts] == [[0.0, 0.5], [3.0, 3.0]]
    y = torch.tensor([[-1.5, 0.0], [2.0, 0.0], [4.0, -3.0]], dtype=torch.float64)
    assert [part.unsafe_logits(y).tolist() for part in prop.parts] == [
        [True, False, True],
        [True, True, False],
    ]
    x = torch.tensor([[-0.5, 0.2], [2.5, 2.5], [0.5, 0.2]]).view(3, 1, 1, 2)
    expected = prop.parts[0].holds_against(TWO, x) | prop.parts[1].holds_against(TWO, x)
    assert torch.equal(prop.holds_against(TWO, x), expected)
    assert not bool(prop.holds_against(TWO, x)[2])


def test_ways_to_the_same_box_are_one_and_those_to_none_are_left_out(tmp_path):
    halves = "(assert (or (and (<= X_0 0) (<= X_1 0)) (and (>= X_0 0.1) (>= X_1 0))))\n"
    ends = "(assert (or (<= X_0 0) (>= X_0 0.1)))\n"  # of four combinations two are empty
    prop = read(tmp_path, PLAIN + halves + ends + "(assert (or (<= Y_0 1) (<= Y_0 2)))")
    assert [len(part.unsafe) for part in prop.parts] == [2, 2]
    single = read(tmp_path, PLAIN + "(assert (or (and (<= X_0 9) (<= Y_0 1)) (<= Y_0 2)))")
    assert (type(single), len(single.unsafe)) == (Property, 2)


def test_several_boxes_are_answered_together(tmp_path, monkeypatch):
    model = linear([1.0, 0.0], [0.0, 0.0])  # the logits are (x_0, 0)

    def ask(*thresholds):
        boxes = [([float(i), 0.0], [i + 0.5, 1.0]) for i in range(len(thresholds))]
        paired = [[[(repr(float(t)), "Y_0")]] for t in thresholds]
        return prove(model, read(tmp_path, text_of(2, 2, boxes, paired=paired), model))

    answer = ask(0.75, 1.75, 2.625)  # Y_0 >= these: never, by 0.25, 0.25 and 0.125
    assert (answer.verdict, answer.open) == ("proved", 0)
    assert answer.bound == pytest.approx(0.125)
    answer = ask(0.75, 1.25, 9)
    assert answer.verdict == "refuted"
    assert 1.25 <= float(answer.counterexample[0, 0, 0]) <= 1.5
    monkeypatch.setattr("workbench.proofs.proving.AT_ONCE", 4)
    assert ask(*[999.0] * 10).verdict == "proved"  # more than are worked on at once
    assert ask(*[999.0] * 9, 9.25).verdict == "refuted"


def test_one_hard_box_keeps_no_other_waiting(tmp_path, monkeypatch):
    """The first box would take for ever; the second has a counterexample."""

    def endless(query, seed):
        while True:
            yield SimpleNamespace(done=0, total=1, message="", value=query.answer("open"))
            if float(query.prop.lower.flatten()[0]) > 0:
                x = query.prop.lower
                yield SimpleNamespace(
                    done=1, total=1, message="", value=query.answer("refuted", counterexample=x)
                )
                return

    monkeypatch.setitem(
        __import__("workbench.proofs.proving", fromlist=["BACKENDS"]).BACKENDS,
        "endless",
        endless,
    )
    boxes = [([-1.0, 0.0], [0.0, 1.0]), ([2.0, 0.0], [3.0, 1.0])]
    prop = read(tmp_path, text_of(2, 2, boxes, [[("Y_0", "Y_1")]]))
    ticks = list(itertools.islice(prove.steps(TWO, prop, backend="endless"), 50))
    assert ticks[-1].value.verdict == "refuted"
    assert len(ticks) < 10
    assert all(0 <= t.done <= t.total for t in ticks)


def test_answers_to_several_questions_at_once():
    yes, no = (
        Answer("proved", bound=0.5, branches=3),
        Answer("refuted", torch.ones(1), branches=1),
    )
    late = Answer("open", bound=-1.0, branches=4, open=2, note="late")
    none = Answer("open", note="late")
    assert astuple(merged(yes, late)) == ("open", None, -1.0, 7, 2, 0.0, "late")
    assert merged(late, none).bound is None  # nothing is proved of the second
    assert merged(late, replace(none, note="trouble")).note == "late; trouble"
    assert merged(merged(late, yes), none).note == "late"
    assert (merged(late, no).verdict, merged(no, late).counterexample) == (
        "refuted",
        no.counterexample,
    )
    assert merged(yes, replace(yes, bound=0.25)).bound == 0.25
    assert merged(yes, Answer("proved")).bound == 0.5


def test_bounds_are_of_one_box(tmp_path):
    boxes = [([-1.0, 0.0], [0.0, 1.0]), ([2.0, 0.0], [3.0, 1.0])]
    prop = read(tmp_path, text_of(2, 2, boxes, [[("Y_0", "Y_1")]]))
    with pytest.raises(TypeError, match="prop: expected a Property of one box, got Properties"):
        bounds_of(TWO, prop)
    with pytest.raises(ValueError, match="parts: expected one property or more"):
        Properties(())
    with pytest.raises(ValueError, match="lower, upper: expected a box of finite sides"):
        Property(torch.zeros(1, 1, 2), torch.full((1, 1, 2), math.inf), prop.parts[0].unsafe)


def test_a_box_in_0_1_is_answered_as_local_robustness_is(tmp_path):
    model = models.load("digits/mlp")
    x = (torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) * 64).round() / 64
    label = int(model.predict(x[None]).label)
    rows = [[(f"Y_{label}", f"Y_{k}")] for k in range(10) if k != label]
    for eps in (1 / 128, 1 / 8):
        box = [(side.flatten().tolist()) for side in ((x - eps).clamp(0, 1), (x + eps).clamp(0, 1))]
        found = read(tmp_path, text_of(64, 10, [box], rows), model)
        prop = local_robustness(model, x, label, eps)
        assert torch.equal(torch.stack(found.sides), torch.stack(prop.sides))
        one, other = prove(model, found), prove(model, prop)
        assert (one.verdict, one.bound, one.branches) == (
            other.verdict,
            other.bound,
            other.branches,
        )


# No contradiction with sampling or PGD


def slack(sets, y):
    """Of each output `(N, K)` float64 the least worst row over the sets: unsafe where <= 0."""

    def term(word):
        return (
            y[:, int(word[2:])] if word[0] == "Y" else torch.full((len(y),), float(word)).double()
        )

    worst = [torch.stack([term(a) - term(b) for a, b in rows]).amax(0) for rows in sets]
    return torch.stack(worst).amin(0)


@dataclass
class Asked:
    """A model, a file about it, and what the file says: boxes with their unsafe sets."""

    model: object
    text: str
    cases: list


def attacked(asked, steps=12, n=200, seed=0):
    """The least slack that samples, corners and a descent by signed gradients find in the boxes,
    in float64 by the network itself."""
    import copy

    twin, draw = copy.deepcopy(asked.model).double(), torch.Generator().manual_seed(seed)
    least = math.inf
    for (low, high), sets in asked.cases:
        low, high = (torch.tensor(side, dtype=torch.float64) for side in (low, high))
        share = torch.rand((n, len(low)), generator=draw, dtype=torch.float64)
        share[::2] = share[::2].round()
        x = low + share * (high - low)
        for i in range(steps):
            x = x.detach().requires_grad_()
            value = slack(sets, twin(x.view(-1, *asked.model.input_shape)))
            least = min(least, float(value.detach().min()))
            (gradient,) = torch.autograd.grad(value.sum(), x)
            step = (high - low) / 4 * (1 - i / steps)
            x = torch.minimum(torch.maximum(x - step * gradient.sign(), low), high)
    return least


def consistent(asked, answer, tmp_path):
    """Hold an answer to the file: by attack, or by its counterexample."""
    if answer.verdict == "proved":
        assert attacked(asked) > -1e-6
    if answer.verdict == "refuted":
        x = answer.counterexample
        with torch.no_grad():
            y = asked.model(x[None]).double()
        flat = x.flatten().double().tolist()
        assert any(
            all(low <= value <= high for low, value, high in zip(box[0], flat, box[1], strict=True))
            and float(slack(sets, y)) <= 0
            for box, sets in asked.cases
        )
    return answer.verdict


@st.composite
def questions(draw):
    """A small network and a file of it: one box or several, anywhere, near what is reached."""
    seed, n, k = draw(st.integers(0, 10_000)), draw(st.integers(1, 4)), draw(st.integers(2, 4))
    generator = np.random.default_rng(seed)
    widths = generator.integers(2, 9, draw(st.integers(0, 2))).tolist()
    body = weighted(dense(n, *widths, k), seed, 2.0)
    options = draw(st.sampled_from([{}, {"mean": (0.4,), "std": (0.3,)}]))
    model = models.wrap(body, input_shape=(1, 1, n), **options)
    boxes, paired, near = [], [], float(draw(st.sampled_from([0.02, 0.3, 2.0])))
    for _ in range(draw(st.integers(1, 3))):
        centre = generator.normal(0, draw(st.sampled_from([0.5, 3.0])), n)
        box = (centre - near * generator.random(n)).tolist(), (centre + near).tolist()
        x = torch.from_numpy(generator.uniform(*box, (200, n))).float().view(-1, 1, 1, n)
        with torch.no_grad():
            y = model(x).double().numpy()
        sets = []
        for _ in range(draw(st.integers(1, 2))):
            i, j = generator.choice(k, 2, replace=False)
            level = float(np.quantile(y[:, i], generator.choice([0.0, 0.0, 0.3])))
            level -= float(generator.exponential(0.2)) * draw(st.sampled_from([0, 1, 1]))
            rows = [(f"Y_{i}", repr(level))]
            rows += [(f"Y_{i}", f"Y_{j}")] if generator.random() < 0.4 else []
            sets.append(rows)
        boxes.append(box)
        paired.append(sets)
    if draw(st.booleans()):  # the same sets for all boxes, in an assertion of their own
        text, cases = text_of(n, k, boxes, paired[0]), [(box, paired[0]) for box in boxes]
    else:
        text, cases = text_of(n, k, boxes, paired=paired), list(zip(boxes, paired, strict=True))
    return Asked(model, text, cases)


@pytest.mark.parametrize("backend", ["branching", "milp"])
@given(questions())
@settings(max_examples=40, deadline=None)
def test_no_answer_contradicts_sampling_or_pgd(tmp_path_factory, backend, asked):
    folder = tmp_path_factory.mktemp("q")
    answer = prove(
        asked.model, read(folder, asked.text, asked.model), backend=backend, time_limit=300
    )
    verdict = consistent(asked, answer, folder)
    assert verdict != "open" or "too near to tell" in answer.note
    if verdict == "proved":
        assert answer.open == 0


# The networks of the competition


def exported(body, shape, path):
    """The network as an ONNX file, node by node."""
    import onnx
    from onnx import helper, numpy_helper

    nodes, stored = [], []

    def add(kind, names, **attributes):
        nodes.append(helper.make_node(kind, names, [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def keep(tensor):
        stored.append(numpy_helper.from_array(tensor.detach().numpy(), f"w{len(stored)}"))
        return stored[-1].name

    def walk(module, x):
        if isinstance(module, nn.Sequential):
            for part in module:
                x = walk(part, x)
        elif isinstance(module, Block):
            short = walk(module.short, x) if module.short is not None else x
            x = walk(module.relu2, add("Add", [walk(module.body, x), short]))
        elif isinstance(module, nn.Linear):  # as TensorFlow writes it
            x = add(
                "Add", [add("MatMul", [x, keep(module.weight.T.contiguous())]), keep(module.bias)]
            )
        elif isinstance(module, nn.Conv2d):
            pads, strides = [*module.padding] * 2, [*module.stride]
            weights = keep(module.weight), keep(module.bias)
            x = add(
                "Conv",
                [x, *weights],
                pads=pads,
                strides=strides,
                kernel_shape=[*module.kernel_size],
            )
        else:
            x = add({nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(module)], [x])
        return x

    result, kind = walk(body, "in"), onnx.TensorProto.FLOAT
    n_outputs = body(torch.zeros(1, *shape)).shape[1]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("in", kind, [1, *shape])],
        [helper.make_tensor_value_info(result, kind, [1, n_outputs])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


class Block(nn.Module):
    """Two convolutions and a shortcut, as in cifar10_resnet."""

    def __init__(self, n, m, stride):
        super().__init__()
        first, second = nn.Conv2d(n, m, 3, stride, 1), nn.Conv2d(m, m, 3, 1, 1)
        self.body, self.relu2 = nn.Sequential(first, nn.ReLU(), second), nn.ReLU()
        self.short = nn.Conv2d(n, m, 1, stride) if stride > 1 else None

    def forward(self, x):
        return self.relu2(self.body(x) + (x if self.short is None else self.short(x)))


def acasxu():
    return dense(5, *[12] * 6, 5), (1, 1, 5)


def oval21():
    first, second = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 4, 2, 1)
    head = nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head), (3, 8, 8)


def cifar10_resnet():
    head = nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 10)
    blocks = Block(4, 4, 2), Block(4, 4, 1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), *blocks, *head), (3, 8, 8)


def outputs_at(model, box, n=500):
    """Outputs of samples of a box, `(n, K)`."""
    low, high = (torch.tensor(side) for side in box)
    share = torch.rand((n, len(low)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model((low + share * (high - low)).view(-1, *model.input_shape))


def decided(tmp_path, architecture, seed, ask, backends=("branching",)):
    """Export a network, ask, and hold the answer of each backend to the file."""
    body, shape = architecture()
    path = exported(weighted(body, seed), shape, tmp_path / "net.onnx")
    model, n_outputs = network_of(str(path))
    assert (model.input_shape, n_outputs) == (shape, len(model.classes))
    boxes, sets = ask(model)
    text = text_of(math.prod(shape), n_outputs, boxes, sets)
    asked = Asked(model, text, [(box, sets) for box in boxes])
    prop = read(tmp_path, gzip.compress(text.encode()), model, "prop.vnnlib.gz")
    verdicts = {
        consistent(asked, prove(model, prop, backend=backend, time_limit=300), tmp_path)
        for backend in backends
    }
    assert len(verdicts) == 1
    return verdicts.pop()


def test_acasxu_properties_are_decided(tmp_path):
    """Inputs in [-0.5, 0.7]; property 6 has two boxes, 3 and 4 a conjunction, 1 a threshold."""

    def six(model):
        low, high = [-0.13, 0.11, -0.5, -0.5, -0.5], [0.7, 0.5, -0.4992, 0.5, 0.5]
        mirrored = [low[0], -high[1], *low[2:]], [high[0], -low[1], *high[2:]]
        best = int(outputs_at(model, (low, high)).mean(0).argmin())
        return [(low, high), mirrored], [[(f"Y_{k}", f"Y_{best}")] for k in range(5) if k != best]

    def three(model):  # unsafe where the best is the least of all
        low, high = [-0.3035, -0.0095, 0.4934, 0.3, 0.3], [-0.2986, 0.0095, 0.5, 0.5, 0.5]
        best = int(outputs_at(model, (low, high)).mean(0).argmax())
        return [(low, high)], [[(f"Y_{best}", f"Y_{k}") for k in range(5) if k != best]]

    def one(model, share=0.3):
        low, high = [0.6, -0.5, -0.5, 0.45, -0.5], [0.6799, 0.5, 0.5, 0.5, -0.45]
        y = outputs_at(model, (low, high))[:, 0]
        return [(low, high)], [[(repr(float(y.max() + share * y.std())), "Y_0")]]

    verdicts = [decided(tmp_path, acasxu, s, ask) for s in (0, 1) for ask in (six, three)]
    verdicts += [decided(tmp_path, acasxu, 0, lambda m, s=share: one(m, s)) for share in (-0.1, 3)]
    assert set(verdicts) == {"proved", "refuted"}


@pytest.mark.parametrize("architecture", [oval21, cifar10_resnet])
def test_cifar_properties_on_normalised_images_are_decided(tmp_path, architecture):
    """A ball round a normalised image, in which no other class may win."""

    def within(eps):
        def ask(model):
            draw = torch.Generator().manual_seed(3)
            pixels = torch.rand(model.input_shape, generator=draw)
            mean, std = (
                torch.tensor(v).view(3, 1, 1) for v in ([0.49, 0.48, 0.45], [0.2, 0.2, 0.2])
            )
            sides = [((pixels + d).clamp(0, 1) - mean) / std for d in (-eps, eps)]
            box = [side.flatten().tolist() for side in sides]
            label = int(model(((pixels - mean) / std)[None]).argmax())
            return [box], [[(f"Y_{label}", f"Y_{k}")] for k in range(10) if k != label]

        return ask

    easy = decided(tmp_path, architecture, 0, within(0.001), ("branching", "milp"))
    assert (easy, decided(tmp_path, architecture, 0, within(0.3))) == ("proved", "refuted")
