// SPDX-License-Identifier: Apache-2.0
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
  // From green over blue to violet, neighbours far apart: red and its neighbours look like errors.
  const hue = (group) => Math.round(90 + ((group * 0.618034) % 1) * 190);
  const size = (bytes) => {
    let value = bytes;
    for (const unit of ["B", "kB", "MB"]) {
      if (value < 1000) return `${+value.toPrecision(3)} ${unit}`;
      value /= 1000;
    }
    return `${+value.toPrecision(3)} GB`;
  };

  // --- rows: everything that was found, of all graphs ---------------------------------------------------------------

  const rows = makeRows(data);
  const has = (key) => rows.some((row) => row[key] != null && row[key] !== "");
  const columns = [
    ["#", "order"], ["what and where", "what"], ["ops or reason", "note"], ["config", "config"],
    ["kernels saved", "kernels", String], ["bytes saved", "saved", size],
    ["table µs", "us", (us) => us.toFixed(2)], ["without us, µs", "baseline", (us) => us.toFixed(2)],
  ].filter(([, key]) => has(key));
  let sorted = { key: "order", down: false };
  let layer = null;
  let current = -1; // of the shown rows
  let shown = [];

  const heads = columns.map(([title, key, number]) => {
    const button = make("button", { type: "button", textContent: title });
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
    shown = rows.filter((row) => (!kind || row.kind === kind) && (layer === null || layer.layers.some((name) => row.layers.has(name)))
      && words.every((word) => row.text.includes(word))).sort(compare);
    current = -1;
    heads.forEach((head, i) => {
      if (columns[i][1] === sorted.key) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const body = document.querySelector("#rows tbody");
    body.replaceChildren(...shown.map(element));
    $("count").textContent = `${shown.length} of ${rows.length}`
      + (layer === null ? "" : ` in ${layer.name}`);
  };

  const element = (row, index) => {
    const open = make("button", { type: "button", className: "open", textContent: "▸" });
    open.setAttribute("aria-expanded", "false");
    open.setAttribute("aria-label", `details of ${row.what} in ${row.module}`);
    const mark = row.kind === "fused" ? [make("span", { className: "swatch" })] : [];
    mark.forEach((each) => each.style.setProperty("--h", hue(row.group)));
    const cells = {
      order: () => make("td", { className: "open-cell" }, open, ...mark),
      what: () => make("td", {},
        make("span", { className: row.kind, textContent: row.kind === "fused" ? row.what : `${row.kind}: ${row.what}` }),
        make("small", { textContent: row.module }), make("small", { textContent: row.source })),
      note: () => make("td", { textContent: row.note, className: row.bad ? "text bad" : "text" }),
      config: () => make("td", { className: "word", textContent: row.config || "" }),
    };
    const number = ([title, key, text]) => {
      const cell = make("td", { className: "number", textContent: row[key] == null ? "" : text(row[key]) });
      cell.dataset.name = title;
      return cell;
    };
    const tr = make("tr", { className: "row", id: row.id }, ...columns.map((column) => (cells[column[1]] || (() => number(column)))()));
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
    const facts = [["place", `${row.module} (${row.source})`], ["node", item.node]];
    const fact = (name, value) => { if (value !== "" && value != null) facts.push([name, value]); };
    fact("graph", data.graphs[row.graph].told);
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
    const link = make("a", { href: `#${row.id}`, textContent: "link to this row" });
    return make("td", { colSpan: columns.length }, list, make("div", { className: "links" }, jump, link));
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

  const most = (unit) => Math.max(1, ...data.layers.map((each) => each.before[unit]));
  const largest = { kernels: most("kernels"), bytes: most("bytes") };
  const bars = (sum, unit) => make("span", { className: "bars" }, ...["before", "after"].map((side) => {
    const bar = make("span", { className: `bar ${side}` });
    bar.style.width = `${(100 * sum[side][unit]) / largest[unit]}%`;
    return bar;
  }));
  for (const each of data.layers) {
    const button = make("button", { type: "button", className: "layer" },
      make("span", { textContent: each.name }),
      bars(each, "kernels"), make("span", { textContent: `${each.before.kernels} → ${each.after.kernels} kernels` }),
      bars(each, "bytes"), make("span", { textContent: `${size(each.before.bytes)} → ${size(each.after.bytes)}` }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      layer = layer === each ? null : each;
      for (const other of $("layers").children) other.setAttribute("aria-pressed", String(other === button && layer !== null));
      fill();
    });
    $("layers").append(button);
  }

  // --- graphs: only the lines in view are in the page ---------------------------------------------------------------

  const bySite = data.graphs.map(() => []);
  for (const row of rows) for (const site of row.sites) bySite[row.graph][site] = row;
  const rowOf = (index, site) => bySite[index][site];
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
          line.style.setProperty("--h", hue(rowOf(graph, site).group));
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

  // Scroll both graphs to a row's place, or to one of its sites.
  const show = (row, site = row.sites[0] ?? -1) => {
    if (row.graph !== graph) load(row.graph);
    const item = site < 0 ? row.item : data.graphs[graph].sites[site];
    chosen = { site, node: item.node };
    panes.forEach(scrollToChosen);
    $("place").textContent = `${row.what} in ${item.place.module || "the function itself"}`;
    $("before").scrollIntoView({ block: "nearest" });
  };

  const openRow = (row) => {
    if (!shown.includes(row)) {
      $("filter").value = $("kind").value = "";
      layer = null;
      fill();
    }
    choose(shown.indexOf(row), true);
    toggle(row, row.tr, true);
  };

  // Open the row of a site.
  const open = (site) => {
    const row = rowOf(graph, site);
    openRow(row);
    chosen = { site, node: data.graphs[graph].sites[site].node };
    panes.forEach((state) => state.draw());
  };

  const openLinked = () => {
    const row = rows.find((each) => each.id === decodeURIComponent(location.hash.slice(1)));
    if (row) openRow(row);
  };
  window.addEventListener("hashchange", openLinked);

  const step = (by) => {
    const count = data.graphs[graph] ? data.graphs[graph].sites.length : 0;
    if (!count) return;
    const next = chosen.site < 0 ? (by > 0 ? 0 : count - 1) : (chosen.site + by + count) % count;
    show(rowOf(graph, next), next);
  };

  data.graphs.forEach((each, index) => $("graph").append(make("option", { value: index, textContent: `${index + 1}${each.name ? ` (${each.name})` : ""}${each.told ? `, ${each.told}` : ""}` })));
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

  const help = () => $("keys").showModal();
  $("help").addEventListener("click", help);

  const keys = {
    "?": help,
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
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  const count = (kind) => rows.filter((row) => row.kind === kind).reduce((total, row) => total + row.count, 0);
  $("summary").textContent = ["fused", "called", "refused", "unfused", "kept"]
    .filter((kind) => kind !== "called" || count(kind)).map((kind) => `${count(kind)} ${kind}`).join(", ");
  fill();
  load(0);
  openLinked();
  document.documentElement.dataset.ready = "yes";
})();
