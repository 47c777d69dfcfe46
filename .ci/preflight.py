# SPDX-License-Identifier: Apache-2.0
"""What `make` asks of a Python before it uses it: `preflight.py python`, `... torch VERSION`, `... gpu`.

Exits with a sentence when the answer is no. Needs nothing but the standard library until it asks torch for a GPU.
"""

import sys
from importlib import metadata


def python():
    """Is this Python new enough to hold the environment?"""
    if sys.version_info < (3, 10):  # noqa: UP036 (it may well be older: make asks before an environment exists)
        return (
            f"helion-compile needs Python 3.10 or newer, and {sys.executable} is {sys.version.split()[0]}. "
            "Name another one: make BASE_PYTHON=python3.12 ..."
        )


def torch(wanted):
    """Would installing `wanted` leave the torch of this environment alone?"""
    try:
        installed = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    if installed.split("+")[0] != wanted:
        return (
            f"make would install torch {wanted}, and {sys.prefix} holds torch {installed}, which it must not replace. "
            f"To use that one as it is: make ... PYTHON={sys.executable}. To start afresh: remove {sys.prefix}"
        )


def gpu():
    """Does torch see a CUDA GPU?"""
    import torch

    if not torch.cuda.is_available():
        return (
            f"make test-gpu needs a CUDA GPU, and torch {torch.__version__} of {sys.executable} sees none. "
            "To use another Python that does: make test-gpu PYTHON=python3"
        )


if __name__ == "__main__":
    question, *arguments = sys.argv[1:]
    sys.exit({"python": python, "torch": torch, "gpu": gpu}[question](*arguments))
