# SPDX-License-Identifier: Apache-2.0
"""helion_compile as users have it: from a wheel, by an editable install and from a checkout on PYTHONPATH.

Whichever it is, a user's own folder ``passes`` beside his script does not break ours, nor ours his.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest


def major_version(package: str) -> int:
    """Of an installed package, 0 without it.

    By its metadata: importing setuptools, or looking pip up, decides for this process whose distutils is imported.  Inductor
    asks for setuptools' own, so tests that compile would fail.
    """
    try:
        return int(importlib.metadata.version(package).partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


CAN_BUILD = major_version("pip") and major_version("setuptools") >= 77
pytestmark = pytest.mark.skipif(not CAN_BUILD, reason="needs pip and setuptools 77")

ROOT = Path(__file__).parents[1]
WAYS = ("wheel", "editable", "pythonpath")
SCRIPT = """
    import json
    import sys

    import passes.listing  # the user's own
    import torch

    import helion_compile
    from helion_compile.passes import Norm

    if "compile" in sys.argv:
        compiled = torch.compile(lambda x: x.t(), backend="helion")
        compiled(torch.ones(3, 4))
        report = helion_compile.report(compiled)
        assert len(report.graphs) == 1 and "<html" in report.to_html()
    where = {"helion_compile": helion_compile.__file__, "passes": passes.listing.__file__, "Norm": Norm.__module__}
    print(json.dumps(where))
"""


def run(*command, **options):
    """What a command prints; its errors are shown when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(hook, source, folder):
    """What a hook of setuptools makes of a source tree, in ``folder``."""
    folder.mkdir()
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.{hook}({str(folder)!r})", cwd=source)
    (made,) = folder.iterdir()
    return made


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist()))
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository without what else may lie in it: a build folder there would get into the wheel."""
    folder = tmp_path_factory.mktemp("repository") / "checkout"
    left_out = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "out")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    return folder


@pytest.fixture(scope="module")
def wheel(checkout):
    return build("build_wheel", checkout, checkout.parent / "dist")


class Environment:
    """A virtual environment that sees the packages of this one, but not the helion_compile of this one."""

    def __init__(self, folder):
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        site = self.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        # A path named in a .pth file is searched for packages; the .pth files in it, of editable installs, are not read.
        Path(site, "packages_of_parent.pth").write_text("\n".join(packages))

    def run(self, program, *arguments, **options):
        return run(self.bin / program, *arguments, env=self.variables, **options)

    def install(self, *what):
        self.run("python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", *what)


@pytest.fixture(scope="module")
def environments(checkout, wheel):
    """way -> its environment, made when asked for."""
    made = {}

    def environment(way):
        if way not in made:
            made[way] = Environment(checkout.parent / way)
            if way == "wheel":
                made[way].install(wheel)
            elif way == "editable":
                made[way].install("-e", checkout)
            else:
                made[way].variables["PYTHONPATH"] = str(checkout)
        return made[way]

    return environment


@pytest.fixture
def script(tmp_path):
    """A user's script with modules of its own in a folder ``passes``."""
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes/listing.py").touch()
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def check_own_passes(environment, script, home, *arguments):
    """The script runs, with its own ``passes`` and the helion_compile below ``home``."""
    where = json.loads(environment.run("python", script, *arguments).splitlines()[-1])
    assert Path(where["passes"]) == script.parent / "passes/listing.py"
    assert home in Path(where["helion_compile"]).parents
    assert where["Norm"].startswith("helion_compile.passes.")


def home_of(way, checkout):
    return checkout.parent / "wheel" if way == "wheel" else checkout


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_passes_beside_a_script_is_the_users(environments, checkout, script, way):
    check_own_passes(environments(way), script, home_of(way, checkout))


@pytest.mark.parametrize("way", ["wheel", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS if way != "wheel")])
def test_a_package_passes_beside_a_script_and_our_backend(environments, checkout, script, way):
    (script.parent / "passes/__init__.py").touch()
    check_own_passes(environments(way), script, home_of(way, checkout), "compile")


@pytest.mark.parametrize("way", ["wheel", "editable"])
def test_nothing_installed_is_called_passes(environments, way, tmp_path):
    question = "from importlib.util import find_spec; assert find_spec('passes') is None"
    environments(way).run("python", "-c", question, cwd=tmp_path)


def test_a_checkout_without_its_link_says_so(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path / "copy", symlinks=True)
    link = tmp_path / "copy/helion_compile/passes"
    link.unlink()
    link.write_text("../passes")  # as git leaves it where there are no links
    # Without site no editable install of this environment gives the missing package.
    command = [sys.executable, "-S", "-c", "import helion_compile"]
    done = subprocess.run(command, cwd=tmp_path / "copy", capture_output=True, text=True)
    assert "git config core.symlinks true" in done.stderr


def test_the_command_is_installed(environments):
    assert "tune" in environments("wheel").run("helion-compile", "--help")


def test_the_version_is_that_of_the_changes(environments, checkout):
    code = "import helion_compile; print(helion_compile.__version__)"
    version = environments("wheel").run("python", "-c", code).strip()
    assert f"\n## {version}" in (checkout / "CHANGELOG.md").read_text()


def test_a_wheel_holds_every_file_of_both_packages_once(checkout, wheel):
    made = contents(wheel)
    packaged = {name for name in made if ".dist-info/" not in name}
    root, linked = checkout / "helion_compile", checkout / "passes"
    files = {f"helion_compile/{path.relative_to(root).as_posix()}" for path in root.rglob("*") if path.is_file()}
    files |= {f"helion_compile/passes/{path.relative_to(linked).as_posix()}" for path in linked.rglob("*") if path.is_file()}
    assert packaged == {name for name in files if "__pycache__" not in name}
    for name in ("py.typed", "passes/__init__.py", "reports/report.schema.json", "configs/shipped/quant/nvidia_h200.json"):
        assert f"helion_compile/{name}" in packaged
    assert made["helion_compile/passes/__init__.py"] == (ROOT / "passes/__init__.py").read_bytes()


def test_an_sdist_builds_the_same_wheel(checkout, wheel, tmp_path):
    with tarfile.open(build("build_sdist", checkout, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path)
    (source,) = tmp_path.glob("helion_compile-*")
    assert not any(path.is_symlink() for path in source.rglob("*"))
    for name in ("tests/conftest.py", "docs/index.md", "examples/demo.py", "constraints/common.txt", ".ci/run", "Makefile"):
        assert (source / name).exists(), name
    assert not list(source.rglob("*.pyc"))
    assert contents(build("build_wheel", source, tmp_path / "wheel")) == contents(wheel)
