# SPDX-License-Identifier: Apache-2.0
"""A model in vLLM, as it comes and with our pass: times of both, and whether their answers are equal.

    python examples/vllm_offline.py [MODEL] [--new 64] [--batch 16]

MODEL is a checkpoint folder or name with fp8 linears.  Each run is a process of its own, since vLLM's plug-ins are chosen
when it starts.  Needs a GPU and vLLM.
"""

import argparse
import json
import os
import subprocess
import sys
import time

PROMPT = "The three laws of thermodynamics are"
RESULT = "result: "


def generate(model, batch, new):
    """Token ids of the first answer and ms a batch, in this process."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=model, max_model_len=2048)
    sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    prompts = [PROMPT] * batch
    llm.generate(prompts, sampling, use_tqdm=False)
    started = time.perf_counter()
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    return {"ms": (time.perf_counter() - started) * 1e3, "text": answers[0].outputs[0].text}


def run(arguments, switch):
    """The same in a process of its own, with the plug-in or without."""
    command = [
        sys.executable,
        __file__,
        arguments.model,
        "--batch",
        str(arguments.batch),
        "--new",
        str(arguments.new),
        "--one",
    ]
    done = subprocess.run(command, env={**os.environ, "HELION_COMPILE_VLLM": switch}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"vLLM ended with {done.returncode}; what it said is above.")
    # vLLM logs to the same stream, also behind what this prints.
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith(RESULT)).removeprefix(RESULT))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="RedHatAI/Qwen3-8B-FP8-dynamic")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new", type=int, default=64, help="tokens to generate for each prompt")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(RESULT + json.dumps(generate(arguments.model, arguments.batch, arguments.new)), flush=True)
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("This example serves a model on a GPU, and torch finds none here.")
    plain, ours = run(arguments, "0"), run(arguments, "1")
    for name, result in (("vLLM as it comes", plain), ("with helion-compile", ours)):
        print(f"{name}: {result['ms']:.1f} ms for {arguments.batch} x {arguments.new} tokens: {result['text']!r}")
    print(f"{plain['ms'] / ours['ms']:.3f} times as fast; the answers are equal: {plain['text'] == ours['text']}")


if __name__ == "__main__":
    main()
