# SPDX-License-Identifier: Apache-2.0
"""Table files of the kernel quant on an H200, sound or damaged."""

import json

from helion_compile.configs.table import Case, ConfigTable, Gpu, Row

__all__ = ["ASKED", "H200", "SOUND", "WHOLE", "numbers", "put", "row"]

H200 = Gpu("NVIDIA H200", (9, 0))


ASKED = Case(k=4096, num_tokens=8)


SOUND = {"case": {"k": 4096, "num_tokens": 8}, "config": {"name": "sound"}}
WHOLE = json.dumps([SOUND, {**SOUND, "case": {"k": 1, "num_tokens": 1}}], indent=1).encode()


def row(n, name="row"):
    return Row(Case(k=4096, num_tokens=n), {"name": name, "padding": [n] * 50}, made_with={"kernel": "v1"})


def numbers(folder):
    return sorted(found.case["num_tokens"] for found in ConfigTable("quant", folders=[folder]).rows(H200))


def put(folder, content):
    path = folder / "quant" / "nvidia_h200.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path
