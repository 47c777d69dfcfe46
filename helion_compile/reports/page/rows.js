// SPDX-License-Identifier: Apache-2.0
"use strict";
// The rows of the table: each stands for what is alike in many layers. `items` are those, and the first one's facts are told.
const makeRows = (data) => {
  const rows = [];
  const layerOf = (module) => (/(.*?(?:^|\.)\d+)(?:\.|$)/.exec(module) || ["", ""])[1];
  const saved = ({ before, after }, unit) => before[unit] - after[unit];
  const KINDS = [
    ["sites", "fused", (item) => {
      const worst = item.verified.find((each) => each.broken);
      return { what: item.fusion, note: worst ? `broken: ${worst.output}: ${worst.broken}` : item.ops.join(" → "), bad: Boolean(worst) };
    }],
    ["called", "called", (item) => ({ what: item.kernel.split("@")[0], note: "called by the model" })],
    ["refusals", "refused", (item) => ({ what: item.candidate, note: `${item.found}; ${item.remedy}` })],
    ["unfused", "unfused", (item) => ({ what: item.name, note: `${item.found}; ${item.remedy}` })],
    ["kept", "kept", (item) => ({ what: item.fusion, note: item.refusal ? item.refusal.found : item.ops.join(" → ") })],
  ];
  data.graphs.forEach((graph, g) => {
    for (const [field, kind, tell] of KINDS) {
      graph.groups[field].forEach(({ of, name }, group) => {
        const items = of.map((number) => graph[field][number]);
        const shown = items.find((each) => (each.verified || []).some((one) => one.broken)) || items[0];
        rows.push({
          kind, item: shown, items, graph: g, module: name, order: rows.length, group, sites: kind === "fused" ? of : [],
          count: of.length, source: shown.place.source, layers: new Set(items.map((each) => layerOf(each.place.module))),
          kernel: shown.kernel, config: shown.config ? shown.config.origin : "", us: shown.config ? shown.config.us : null,
          baseline: shown.config ? shown.config.baselines.inductor ?? shown.config.baselines.library : null,
          ...(shown.cost ? { kernels: of.length * saved(shown.cost, "kernels"), saved: of.length * saved(shown.cost, "bytes") } : {}),
          ...tell(shown),
        });
      });
    }
  });
  const taken = new Map();
  for (const row of rows) {
    const modules = row.items.map((item) => `${item.place.module} ${item.node}`);
    row.text = [row.kind, row.what, row.module, row.source, row.kernel, row.config, row.note, ...modules].join(" ").toLowerCase();
    // A name that another report of the model has as well: what it is and where its first item stands.
    const name = `${row.kind}-${row.what}-${row.items[0].place.module}`.replace(/[^\w.-]+/g, "-");
    taken.set(name, (taken.get(name) || 0) + 1);
    row.id = taken.get(name) > 1 ? `${name}-${taken.get(name)}` : name;
  }
  return rows;
};
