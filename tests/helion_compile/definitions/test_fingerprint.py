# SPDX-License-Identifier: Apache-2.0
"""Both digests of a kernel, edit by edit.  That they are equal in all processes is shown in test_caches.py."""

import functools
import importlib.util
import itertools
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

import helion_compile
from helion_compile import kernels
from helion_compile.definitions import fingerprint as fingerprints
from helion_compile.definitions.fingerprint import config_fingerprint, fingerprint
from helion_compile.frontend.options import Options
from tests.support import ROOT

SOURCE = '''
import enum
import functools

import torch


class Mode(enum.Enum):
    FAST = 1


class Settings:
    """Settings."""

    step = 2

    def __init__(self, size):
        self.size = size

    def scaled(self, x):
        return x * FACTOR


FACTOR = 1.0
NESTED = [1, (2, {"three": {3, 4}})]
MODE = Mode.FAST
SETTINGS = Settings(8)
WEIGHTS = torch.tensor([1.0, 2.0])
ACTIVATION = torch.relu


def doubled(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) * 2

    return wrapper


@doubled
def decorated(x):
    return x + 1


@functools.cache
def cached(n):
    return n + 1


scaled = functools.partial(lambda x, by: x * by, by=3)


def with_default(x, by=FACTOR):
    return x


def kernel(x):
    """What it does."""
    # a comment
    y = decorated(x) + NESTED[0] + cached(2)
    y = ACTIVATION(scaled(y)) * WEIGHTS.sum() + with_default(y)

    def inner(z):
        return SETTINGS.scaled(z) if MODE is Mode.FAST else recursive(z)

    return inner(y)


def recursive(x):
    return x if x.ndim == 0 else kernel(x[0])


def unrelated(x):
    return x
'''

counter = itertools.count()


def load(folder, source):
    """The function ``kernel`` of a module with this source; all modules have one name, as versions of one file do."""
    path = folder / f"version_{next(counter)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("edited_module", path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"edited_module": module}):
        spec.loader.exec_module(module)
        return fingerprint(module.kernel), config_fingerprint(module.kernel)


@pytest.mark.parametrize(
    "old, new",
    [
        ("FACTOR = 1.0", "FACTOR = 1.5"),
        ("FACTOR = 1.0", "FACTOR = 1"),
        ("step = 2", "step = 4"),
        ("{3, 4}", "{3, 5}"),
        ("[1, (2,", "[1, (0,"),
        ("FAST = 1", "FAST = 2"),
        ("Settings(8)", "Settings(16)"),
        ("x * FACTOR", "x / FACTOR"),
        ("[1.0, 2.0]", "[1.0, 2.5]"),
        ("torch.relu", "torch.sigmoid"),
        ("function(x) * 2", "function(x) * 3"),
        ("return x + 1", "return x + 2"),
        ("return n + 1", "return n + 2"),
        ("by=3", "by=4"),
        ("x * by", "x + by"),
        ("by=FACTOR):", "by=7):"),
        ("else recursive(z)", "else z"),
        ("x.ndim == 0", "x.ndim == 1"),
        ("def kernel(x):", "def kernel(x: int):"),
    ],
)
def test_any_edit_of_what_is_reached_changes_both(tmp_path, old, new):
    assert SOURCE.count(old) == 1
    before, after = load(tmp_path, SOURCE), load(tmp_path, SOURCE.replace(old, new))
    assert before[0] != after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    "old, new",
    [
        ("    # a comment\n", ""),
        ('    """What it does."""\n', ""),
        ('    """What it does."""\n', '    """What else it does."""\n'),
        ('    """Settings."""\n', ""),
        ("decorated(x) + NESTED[0]", "(decorated(x)\n         + NESTED[0])"),
        ("FACTOR = 1.0", "FACTOR = 1.00  # the same"),
        ("\ndef unrelated", "\n\n\ndef unrelated"),
        ("def unrelated(x):\n    return x", "def unrelated(x):\n    return x + 1"),
    ],
)
def test_edits_that_make_no_other_code_keep_tuned_configs(tmp_path, old, new):
    assert SOURCE.count(old) == 1
    assert load(tmp_path, SOURCE)[1] == load(tmp_path, SOURCE.replace(old, new))[1]


def test_a_comment_changes_the_graph_key(tmp_path):
    assert load(tmp_path, SOURCE)[0] != load(tmp_path, SOURCE.replace("# a comment", "# another"))[0]


def test_what_is_not_reached_changes_nothing(tmp_path):
    assert load(tmp_path, SOURCE) == load(tmp_path, SOURCE.replace("def unrelated(x):\n    return x", "") + "\nX = 1\n")


def test_decorators_of_the_kernel_itself_leave_configs_alone(tmp_path):
    decorated = SOURCE.replace("def kernel(x):", "@functools.cache\ndef plain(x):\n    return x\n\n\ndef kernel(x):")
    assert load(tmp_path, decorated)[1] == load(tmp_path, SOURCE)[1]


def local(x):
    return x


def test_another_helion_changes_graphs_but_not_configs():
    before = fingerprint(local), config_fingerprint(local)
    with mock.patch("importlib.metadata.version", lambda name: "99.0"):
        assert fingerprint(local) != before[0] and config_fingerprint(local) == before[1]


def test_what_else_counts_is_given_as_extra():
    assert len({digest(local, extra=extra) for digest in (fingerprint, config_fingerprint) for extra in ((), ("x",))}) == 4


def test_closures_count():
    def make(value):
        def inner(x):
            return value

        return inner

    values = [1, 1.0, True, "1", (1,), [1], {1}, {1: 1}, local, torch.abs, torch.neg, torch.float16, torch.ones(1)]
    values += [functools.partial(local, 1), functools.partial(local, 2), None, range(3), -0.0, 0.0]
    assert len({fingerprint(make(value)) for value in values}) == len(values)
    assert len({config_fingerprint(make(value)) for value in values}) == len(values)


def test_cycles_end():
    items = []
    items.append(items)

    def inner(x):
        return items, inner

    assert fingerprint(inner) == fingerprint(inner)


def test_functions_without_a_source_have_digests_of_their_own():
    def typed(text):
        scope = {"__name__": "__main__"}
        exec(text, scope)
        return scope["f"]

    texts = ["def f(x): return x + 1", "def f(x): return x + 2", "def f(x): return [y for y in x if y in {'a', 'b'}]"]
    assert len({fingerprint(typed(text)) for text in texts}) == 3
    assert len({config_fingerprint(typed(text)) for text in texts}) == 3


def test_lambdas_on_one_line_differ():
    one, two = (lambda x: x + 1), (lambda x: x + 2)
    assert fingerprint(one) != fingerprint(two)


def test_tracing_does_not_see_constants_being_read():
    """The first use of a kernel may be under make_fx, which would record every operation."""
    from torch.fx.experimental.proxy_tensor import make_fx

    constant = torch.ones(3)

    def inner(x):
        return constant

    keys = []
    graph = make_fx(lambda x: keys.append(fingerprint(inner)) or x)(torch.ones(1))
    assert keys == [fingerprint(inner)] and len(graph.graph.nodes) == 2


def test_a_default_of_a_keyword_only_parameter_counts(tmp_path):
    source = "FACTOR = 1.0\n\n\ndef kernel(x, *, by=FACTOR):\n    return x * by\n"
    before, after = load(tmp_path, source), load(tmp_path, source.replace("1.0", "2.0"))
    assert before[0] != after[0] and before[1] != after[1]


@pytest.mark.parametrize("package", ["helion_compile", "passes"])
def test_the_digest_of_the_packages_covers_both(package, tmp_path, monkeypatch):
    """In a checkout ``passes`` is a link, which is not followed where the other package's files are listed."""
    for name in ("helion_compile/definitions", "passes/match"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(fingerprints, "__file__", str(tmp_path / "helion_compile" / "definitions" / "fingerprint.py"))
    monkeypatch.setattr(fingerprints.passes, "__file__", str(tmp_path / "passes" / "__init__.py"))
    monkeypatch.setattr(fingerprints, "digest_sources", fingerprints.digest_sources.__wrapped__)
    digest = fingerprints.digest_packages.__wrapped__
    before = digest()
    assert digest() == before
    next((tmp_path / package).rglob("module.py")).write_text("x = 2\n")
    assert digest() != before


def test_an_edit_of_any_source_file_is_another_digest(monkeypatch):
    """A key that lists its ingredients forgets one: fusions once, whose old graphs were then served."""
    files = [path for folder in ("helion_compile", "passes") for path in sorted((ROOT / folder).rglob("*.py"))]
    contents = {path: path.read_bytes() for path in files}
    # As read_bytes and rglob give them, without the disk: each file is edited once.
    found, rglob = {}, Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *of: found[of] if of in found else found.setdefault(of, list(rglob(*of))))
    monkeypatch.setattr(Path, "read_bytes", lambda path: contents[path])
    monkeypatch.setattr(fingerprints, "digest_sources", fingerprints.digest_sources.__wrapped__)
    monkeypatch.setattr(fingerprints, "__file__", str(ROOT / "helion_compile" / "definitions" / "fingerprint.py"))
    monkeypatch.setattr(fingerprints.passes, "__file__", str(ROOT / "passes" / "__init__.py"))
    digest = fingerprints.digest_packages.__wrapped__
    digests = {digest()}
    for path in files:
        contents[path] += b"# an edit"
        digests.add(digest())
    assert len(digests) == 1 + len(files) > 200


def test_every_key_of_compiled_code_covers_the_digest(monkeypatch):
    """Of the pass, and of each kernel; those of stored reports and of vLLM have tests of their own."""

    def keys():
        made = helion_compile.kernel(_no_op, reference=_no_op, name="test_digest_no_op")
        return [Options().fusion_pass().uuid(), Options("exact").fusion_pass().uuid(), made.key]

    before = keys()
    assert keys() == before
    for module in ("helion_compile.definitions.spec", "helion_compile.frontend.options"):
        monkeypatch.setattr(f"{module}.digest_packages", lambda: "of another version")
    assert not set(keys()) & set(before)


@pytest.mark.parametrize("name", kernels.__all__)
def test_no_word_of_a_support_check_voids_a_table(name):
    """The narrower digest follows what Helion makes code of; a sentence of a check is none of that."""
    reached = []

    def note(item, is_root):
        reached.append(getattr(item, "co_name", "") or item.__name__)
        return ""

    fn = getattr(kernels, name).fn
    list(fingerprints._Reached(note, (fn,)).texts(fn))
    assert name in reached and not [each for each in reached if "check" in each]


def _no_op(x):
    return x.clone()
