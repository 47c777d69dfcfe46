# SPDX-License-Identifier: Apache-2.0
"""Every way to look at a compiled model: the report, its page, the graphs as programs, a profiler's trace, a check.

    python examples/inspect_graphs.py [FOLDER]

Leaves all files in FOLDER, by default ./inside.
"""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch.profiler import profile

# torchao reports optional CUDA libraries that this has no use for.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "Float8Tensor does not implement _stable_hash_for_caching")

import fp8_models  # noqa: E402

import helion_compile  # noqa: E402


def main(folder="inside"):
    folder = Path(folder)
    model = fp8_models.quantize_fp8_per_row(fp8_models.qwen3(num_hidden_layers=1))
    ids = fp8_models.token_ids(model, 2, 16)
    compiled = torch.compile(model, backend="helion", options={"verify": True})

    # All that compilation makes, as files.
    with torch.no_grad(), helion_compile.debug(folder):
        compiled(ids)
    done = subprocess.run([sys.executable, folder / "graph_1" / "after.py"], capture_output=True, text=True, check=True)
    print(f"the rewritten graph, run as a program: {done.stdout.strip()}")

    # The report of the model that has run; each site was checked against the original on the way.
    report = helion_compile.report(compiled)
    report.to_html(folder / "report.html")
    (folder / "report.json").write_text(report.to_json(indent=1))
    for fused in report.sites[:4]:
        print(
            f"{fused.site.node:16} {fused.site.location.module:34} {fused.before.kernels:3} kernels -> {fused.after.kernels}"
        )
        for compared in fused.verified:
            print(f"{'':16} {compared}")
    print(f"the page: {folder / 'report.html'}")

    # Names in a profiler's trace; on a CPU Inductor's own code stands where the kernels would.
    with torch.no_grad(), profile() as profiler:
        compiled(ids)
    ranges = [event.name for event in profiler.events() if "model.layers.0." in event.name]
    print(f"in a trace: {ranges[0] if ranges else 'no kernel is called here'}")


# Compilation may start worker processes that import this file again.
if __name__ == "__main__":
    main(*sys.argv[1:])
