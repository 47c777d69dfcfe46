"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const LINE = 18; // pixels, as in the style sheet

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const hue = (site) => Math.round((site * 137.508) % 360); // neighbours get colours far apart
  const size = (bytes) => {
    let value = bytes;
    for (const unit of ["B", "kB", "MB"]) {
      if (value < 1000) return `${+value.toPrecision(3)} ${unit}`;
      value /= 1000;
    }
    return `${+value.toPrecision(3)} GB`;
  };

  // --- rows: everything that was found, of all graphs ---------------------------------------------------------------

  const rows = [];
  data.graphs.forEach((graph, g) => {
    const add = (kind, what, item, more) => rows.push({
      kind, what, item, graph: g, module: item.place.module, source: item.place.source, site: -1, order: rows.length, ...more,
    });
    graph.sites.forEach((site, number) => {
      const { before, after } = site.cost;
      const worst = site.verified.find((each) => each.broken);
      add("fused", site.fusion, site, {
        site: number, layer: site.layer, kernel: site.kernel, config: site.config.origin, saved: before.bytes - after.bytes,
        kernels: before.kernels - after.kernels, us: site.config.us,
        note: worst ? `broken: ${worst.output}: ${worst.broken}` : site.ops.join(" → "), bad: Boolean(worst),
      });
    });
    graph.refusals.forEach((refusal) => add("refused", refusal.candidate, refusal, { note: `${refusal.found}; ${refusal.remedy}` }));
    graph.unfused.forEach((unfused) => add("unfused", unfused.name, unfused, { note: `${unfused.found}; ${unfused.remedy}` }));
    graph.kept.forEach((site) => add("kept", site.fusion, site, { note: site.refusal ? site.refusal.found : site.ops.join(" → ") }));
  });
  for (const row of rows) {
    const found = /(.*?(?:^|\.)\d+)(?:\.|$)/.exec(row.module);
    row.layer = found ? found[1] : "";
    row.text = [row.kind, row.what, row.module, row.source, row.kernel, row.config, row.note, row.item.node]
      .join(" ").toLowerCase();
  }

  const KINDS = { fused: "fused", refused: "refused", unfused: "unfused", kept: "kept" };
  const columns = [
    ["", "order"], ["what", "what"], ["module", "module"], ["source", "source"],
    ["config", "config"], ["kernels saved", "kernels", true], ["bytes saved", "saved", true], ["table µs", "us", true],
    ["ops or reason", "note"],
  ];
  let sorted = { key: "order", down: false };
  let layer = null;
  let current = -1; // of the shown rows
  let shown = [];

  const heads = columns.map(([title, key, number]) => {
    const button = make("button", { type: "button", textContent: title || "#" });
    button.addEventListener("click", () => {
      sorted = { key, down: sorted.key === key ? !sorted.down : Boolean(number) };
      fill();
    });
    return make("th", { scope: "col", className: number ? "number" : "" }, button);
  });
  document.querySelector("#rows thead tr").append(...heads);

  const compare = (a, b) => {
    const [x, y] = [a[sorted.key], b[sorted.key]];
    if (x === y || (x == null && y == null)) return a.order - b.order;
    if (x == null || x === "") return 1;
    if (y == null || y === "") return -1;
    const natural = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return sorted.down ? -natural : natural;
  };

  const fill = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = $("kind").value;
    shown = rows.filter((row) => (!kind || row.kind === kind) && (layer === null || row.layer === layer)
      && words.every((word) => row.text.includes(word))).sort(compare);
    current = -1;
    heads.forEach((head, i) => {
      if (columns[i][1] === sorted.key) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const body = document.querySelector("#rows tbody");
    body.replaceChildren(...shown.map(element));
    $("count").textContent = `${shown.length} of ${rows.length}`
      + (layer === null ? "" : ` in ${layer || "no layer"}`);
  };

  const element = (row, index) => {
    const open = make("button", { type: "button", className: "open", textContent: "▸" });
    open.setAttribute("aria-expanded", "false");
    open.setAttribute("aria-label", `details of ${row.what} in ${row.module || "the function"}`);
    const mark = row.site >= 0 ? [make("span", { className: "swatch" })] : [];
    mark.forEach((each) => each.style.setProperty("--h", hue(row.site)));
    const number = (value, text) => make("td", { className: "number", textContent: value == null ? "" : text(value) });
    const tr = make("tr", { className: "row" },
      make("td", {}, open, ...mark),
      make("td", {}, make("span", { className: row.kind, textContent: row.kind === "fused" ? row.what : `${KINDS[row.kind]}: ${row.what}` })),
      make("td", { textContent: row.module || "the function itself" }),
      make("td", { textContent: row.source.split("/").pop(), title: row.source }),
      make("td", { textContent: row.config || "" }),
      number(row.kernels, String), number(row.saved, size), number(row.us, (us) => us.toFixed(2)),
      make("td", { textContent: row.note, title: row.note, className: row.bad ? "text bad" : "text" }));
    tr.dataset.order = row.order;
    tr.addEventListener("click", () => { choose(shown.indexOf(row)); toggle(row, tr); });
    row.tr = tr;
    return tr;
  };

  const toggle = (row, tr, open = !row.details) => {
    const button = tr.querySelector(".open");
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "▾" : "▸";
    if (row.details) row.details.remove();
    row.details = null;
    if (open) {
      row.details = make("tr", { className: "details" }, details(row));
      tr.after(row.details);
    }
  };

  const range = ({ low, high }) => {
    if (low == null) return high == null ? "any integer" : `${high} and less`;
    return high == null ? `${low} and more` : `${low} to ${high}`;
  };

  const details = (row) => {
    const { item } = row;
    const facts = [["place", `${row.module || "the function itself"} (${row.source})`], ["node", item.node]];
    const fact = (name, value) => { if (value !== "" && value != null) facts.push([name, value]); };
    if (item.ops) fact("ops", item.ops.join(" → "));
    fact("op", item.op);
    if (item.shapes) fact("shapes", Object.entries(item.shapes).map(([name, shape]) => `${name} ${shape}`).join(", "));
    const symbols = Object.entries(data.graphs[row.graph].symbols).filter(([name]) => JSON.stringify(item.shapes || {}).includes(name));
    for (const [name, symbol] of symbols) {
      fact(`size ${name}`, `${symbol.traced ?? "?"} when traced, ${range(symbol)}`);
    }
    if (item.merged > 1) fact("merged", `${item.merged} copies that the model computes become one`);
    fact("kernel", item.kernel);
    if (item.config) fact("config", item.config.text);
    if (item.config && item.config.us != null) {
      const others = Object.entries(item.config.baselines).map(([name, us]) => `${name} ${us}`).join(", ");
      fact("table", `${item.config.us} µs a call${others ? ` (${others})` : ""}`);
    }
    if (item.cost) {
      const { before, after } = item.cost;
      fact("cost", `as written ${before.kernels} kernels that move ${size(before.bytes)}; now ${after.kernels} and ${size(after.bytes)}`
        + (before.bytes > after.bytes ? `, ${size(before.bytes - after.bytes)} saved` : ""));
    }
    for (const each of item.verified || []) {
      const [steps, error] = [each.max_steps ?? Infinity, each.max_error ?? Infinity];
      fact(`verified ${each.output}`, each.differing
        ? `${(100 * each.differing).toFixed(2)} % differ, by up to ${+steps.toPrecision(3)} steps (${error.toPrecision(3)})`
          + (each.original_sqnr == null ? "" : `; against fp64 ${each.sqnr == null ? "equal" : `${each.sqnr.toFixed(1)} dB`}, the original ${each.original_sqnr.toFixed(1)} dB`)
        : "equal");
      fact(`broken ${each.output}`, each.broken);
    }
    if (item.near) fact("near", `${item.near}; missing: ${item.missing.join(", ")}`);
    const why = item.refusal ?? item;
    fact("kind", why.kind);
    fact("found", why.found);
    fact("would fuse", why.remedy);
    const list = make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
    const jump = make("button", { type: "button", className: "jump", textContent: "show in both graphs (g)" });
    jump.addEventListener("click", (event) => { event.stopPropagation(); show(row); });
    return make("td", { colSpan: columns.length }, list, jump);
  };

  const choose = (index, scroll = false) => {
    if (shown[current]) shown[current].tr.classList.remove("current");
    current = Math.max(0, Math.min(shown.length - 1, index));
    const row = shown[current];
    if (!row) return;
    row.tr.classList.add("current");
    if (scroll) {
      row.tr.scrollIntoView({ block: "nearest" });
      row.tr.querySelector(".open").focus({ preventScroll: true });
    }
  };

  // --- layers -------------------------------------------------------------------------------------------------------

  const totals = new Map();
  for (const graph of data.graphs) {
    for (const each of graph.layers) {
      const sum = totals.get(each.name) || { before: { kernels: 0, bytes: 0 }, after: { kernels: 0, bytes: 0 } };
      for (const side of ["before", "after"]) for (const unit of ["kernels", "bytes"]) sum[side][unit] += each[side][unit];
      totals.set(each.name, sum);
    }
  }
  const most = (unit) => Math.max(1, ...[...totals.values()].map((each) => each.before[unit]));
  const largest = { kernels: most("kernels"), bytes: most("bytes") };
  const bars = (sum, unit) => make("span", { className: "bars" }, ...["before", "after"].map((side) => {
    const bar = make("span", { className: `bar ${side}` });
    bar.style.width = `${(100 * sum[side][unit]) / largest[unit]}%`;
    return bar;
  }));
  for (const [name, sum] of totals) {
    const button = make("button", { type: "button", className: "layer" },
      make("span", { textContent: name || "outside the layers" }),
      bars(sum, "kernels"), make("span", { textContent: `${sum.before.kernels} → ${sum.after.kernels} kernels` }),
      bars(sum, "bytes"), make("span", { textContent: `${size(sum.before.bytes)} → ${size(sum.after.bytes)}` }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      layer = layer === name ? null : name;
      for (const other of $("layers").children) other.setAttribute("aria-pressed", String(other === button && layer !== null));
      fill();
    });
    $("layers").append(button);
  }

  // --- graphs: only the lines in view are in the page ---------------------------------------------------------------

  let graph = 0;
  let chosen = { site: -1, node: "" }; // a site's lines, or the line of what is no site
  const isChosen = ([node, , , , site]) => (chosen.site >= 0 ? site === chosen.site : node === chosen.node);
  const panes = ["before", "after"].map((side) => {
    const pane = $(side);
    const spacer = make("div");
    pane.append(spacer);
    const state = { side, pane, spacer, lines: [] };
    const draw = () => {
      const first = Math.max(0, Math.floor(pane.scrollTop / LINE) - 10);
      const last = Math.min(state.lines.length, first + Math.ceil(pane.clientHeight / LINE) + 20);
      const drawn = [];
      for (let i = first; i < last; i++) {
        const [node, text, module, source, site] = state.lines[i];
        const line = make("div", { className: "line", title: [module, source].filter(Boolean).join("\n") },
          make("span", { className: "name", textContent: `${node}: ` }), text);
        line.style.top = `${i * LINE}px`;
        line.classList.toggle("chosen", isChosen(state.lines[i]));
        if (site >= 0) {
          line.classList.add("site");
          line.style.setProperty("--h", hue(site));
          line.dataset.site = site;
        }
        drawn.push(line);
      }
      spacer.replaceChildren(...drawn);
    };
    pane.addEventListener("scroll", draw, { passive: true });
    pane.addEventListener("click", (event) => {
      const line = event.target.closest("[data-site]");
      if (line) open(Number(line.dataset.site));
    });
    state.draw = draw;
    return state;
  });

  const load = (index) => {
    graph = index;
    chosen = { site: -1, node: "" };
    $("graph").value = String(index);
    for (const state of panes) {
      state.lines = data.graphs[index] ? data.graphs[index][state.side] : [];
      state.spacer.style.height = `${state.lines.length * LINE}px`;
      state.spacer.style.width = `${Math.max(0, ...state.lines.map((line) => line[0].length + line[1].length)) + 4}ch`;
      state.pane.scrollTop = 0;
      $(`${state.side}-size`).textContent = `(${state.lines.length} nodes)`;
      state.draw();
    }
  };

  const scrollToChosen = (state) => {
    const index = state.lines.findIndex(isChosen);
    if (index >= 0) state.pane.scrollTop = Math.max(0, (index - 3) * LINE);
    state.draw();
  };

  // Scroll both graphs to a row's place.
  const show = (row) => {
    if (row.graph !== graph) load(row.graph);
    chosen = { site: row.site, node: row.item.node };
    panes.forEach(scrollToChosen);
    $("place").textContent = `${row.what} in ${row.module || "the function itself"}`;
    $("before").scrollIntoView({ block: "nearest" });
  };

  // Open the row of a site.
  const open = (site) => {
    const row = rows.find((each) => each.graph === graph && each.site === site);
    if (!shown.includes(row)) {
      $("filter").value = $("kind").value = "";
      layer = null;
      fill();
    }
    choose(shown.indexOf(row), true);
    toggle(row, row.tr, true);
    chosen = { site, node: row.item.node };
    panes.forEach((state) => state.draw());
  };

  const step = (by) => {
    const count = data.graphs[graph] ? data.graphs[graph].sites.length : 0;
    if (!count) return;
    const next = chosen.site < 0 ? (by > 0 ? 0 : count - 1) : (chosen.site + by + count) % count;
    show(rows.find((each) => each.graph === graph && each.site === next));
  };

  data.graphs.forEach((each, index) => $("graph").append(make("option", { value: index, textContent: `${index + 1}${each.name ? ` (${each.name})` : ""}` })));
  $("graph").addEventListener("change", () => load(Number($("graph").value)));
  $("next").addEventListener("click", () => step(1));
  $("previous").addEventListener("click", () => step(-1));
  $("filter").addEventListener("input", fill);
  $("kind").addEventListener("change", fill);
  window.addEventListener("resize", () => panes.forEach((state) => state.draw()));

  const themes = ["auto", "light", "dark"];
  const theme = () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % themes.length];
    document.documentElement.dataset.theme = next;
    $("theme").textContent = `theme: ${next}`;
  };
  $("theme").addEventListener("click", theme);

  const keys = {
    "/": () => $("filter").focus(),
    j: () => choose(current + 1, true),
    k: () => choose(current - 1, true),
    g: () => shown[current] && show(shown[current]),
    n: () => step(1),
    p: () => step(-1),
    t: theme,
  };
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  const sum = (side, unit) => [...totals.values()].reduce((total, each) => total + each[side][unit], 0);
  const count = (kind) => rows.filter((row) => row.kind === kind).length;
  $("summary").textContent = `${count("fused")} fused, ${count("refused")} refused, ${count("unfused")} unfused, `
    + `${count("kept")} kept; ${sum("before", "kernels")} → ${sum("after", "kernels")} kernels, `
    + `${size(sum("before", "bytes"))} → ${size(sum("after", "bytes"))} as written`;
  fill();
  load(0);
  document.documentElement.dataset.ready = "yes";
})();
