# SPDX-License-Identifier: Apache-2.0
"""One layer of a printed FX graph, short enough to read."""

import re
import textwrap

NODE = "higher_order.helion_kernel("

_LINE = re.compile(r'\s*(?P<name>\w+)(?:: "[^"]*")? = (?P<call>[^;]*)')
_VIEW = re.compile(r"torch\.ops\.aten\.(?:reshape|view|unsqueeze|squeeze|permute|t)\.\w+\((?P<source>\w+)")
_SOURCE = re.compile(r"\s*# File: (?P<place>[^,]+)(?:, in (?P<module>.*))?")


def one_layer(code, layers):
    """The lines of a printed graph from the first kernel of the first layer to the last before the second layer."""
    lines = code.splitlines()
    nodes = [number for number, line in enumerate(lines) if NODE in line]
    if not nodes:
        return code
    a_layer = max(1, len(nodes) // layers)
    end = nodes[a_layer] if a_layer < len(nodes) else len(lines)
    start = max((number for number in range(nodes[0]) if _SOURCE.match(lines[number])), default=nodes[0])
    return "\n".join(lines[start:end])


def outline(code, width=100):
    """Kernels, their results and the matmuls that read them, each with its source line; other operations are counted.

    Views are left out: what reads one is shown reading what it looks at.
    """
    viewed, kernels, shown = {}, set(), []
    source, others = None, 0
    for line in code.splitlines():
        if found := _SOURCE.match(line):
            source = f"# {found['place']}  {found['module'] or ''}".rstrip()
        if not (found := _LINE.match(line)):
            continue
        name, call = found["name"], found["call"].rstrip()
        if view := _VIEW.match(call):
            viewed[name] = viewed.get(view["source"], view["source"])
        elif NODE in call or "._scaled_mm." in call or call.partition("[")[0] in kernels:
            kernels |= {name} if NODE in call else set()
            shown += _counted(others)
            if source:
                shown += ["", source if len(source) <= width - 4 else source[: width - 6] + " …"]
            source, others = None, 0
            text = line.partition(";")[0].strip().replace("torch.ops.higher_order.", "").replace("torch.ops.", "")
            text = re.sub(r"\w+", lambda word: viewed.get(word.group(), word.group()), text)
            shown += textwrap.wrap(text, width - 4, subsequent_indent="        ", break_long_words=False)
        else:
            others += 1
    return textwrap.indent("\n".join([*shown, *_counted(others)]).strip("\n"), "    ")


def _counted(others):
    return [f"# … {others} more operation{'s' if others > 1 else ''}"] if others else []
