"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  // -- tables: a button in every heading sorts by it; cells without a number stay last, equal ones keep their order

  const text = (cell) => cell.querySelector(".name")?.textContent ?? cell.textContent.trim();
  const amount = (cell) => {
    const found = /^[<+\s]*([−-]?[\d,]*\.?\d+)(?!\w)/.exec(cell.textContent.trim());
    return found ? Number(found[1].replace("−", "-").replaceAll(",", "")) : null;
  };

  function sort(table, heading) {
    const column = heading.cellIndex;
    const bodies = [...table.tBodies].filter((body) => !["fixed", "heading"].includes(body.className));
    const all = bodies.flatMap((body) => [...body.rows]);
    const words = all.every((row) => !column || amount(row.cells[column]) === null);
    const before = heading.getAttribute("aria-sort"); // at first the better end is on top
    const up = before ? before !== "ascending" : heading.dataset.better !== "higher";
    for (const body of bodies) {
      const value = (row) => (words ? text(row.cells[column]) : amount(row.cells[column]));
      const rows = [...body.rows].map((row) => ({ row, value: value(row) }));
      const known = rows.filter((entry) => entry.value !== null);
      known.sort((a, b) => (words ? a.value.localeCompare(b.value) : a.value - b.value) * (up ? 1 : -1));
      body.append(...[...known, ...rows.filter((entry) => entry.value === null)].map((entry) => entry.row));
    }
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.classList.add("resorted");
    if (table.id === "board") draw();
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].querySelectorAll("th")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }

  if (!data) return;

  // -- the leaderboard's filter, which the matrices follow

  const board = $("board");
  const lines = () => [...board.tBodies].filter((body) => body.className !== "heading").flatMap((body) => [...body.rows]);

  for (const heading of board.tHead.rows[0].querySelectorAll("th")) { // where a phone hides the headings
    $("sort").append(element("option", { value: heading.cellIndex, selected: heading.cellIndex === 1 }, heading.textContent));
  }
  $("sort").addEventListener("change", () => sort(board, board.tHead.rows[0].cells[$("sort").value]));
  $("tests").addEventListener("change", () => board.classList.toggle("all", $("tests").checked));

  function filter() {
    const wanted = $("filter").value.trim().toLowerCase();
    let count = 0;
    for (const row of lines()) {
      row.hidden =
        !text(row.cells[0]).toLowerCase().includes(wanted) || ($("ranked").checked && row.classList.contains("unranked"));
      count += !row.hidden;
    }
    $("count").textContent = `${count} of ${lines().length} arms`;
    first = 0;
    draw();
  }

  // -- accuracy matrices, in the board's order

  const PAGE = 12;
  const arms = new Map(data.arms.map((arm) => [arm.name, arm]));
  const orders = Object.keys(data.orders);
  let first = 0;

  for (const [value, label] of [...(orders.length > 1 ? [["", "mean of all"]] : []), ...orders.map((o) => [o, o])]) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = label;
    if (data.arms.some((arm) => arm.matrices[value])) $("order").append(option);
  }

  const CIVIDIS = [
    [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
    [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
  ];
  function shade(share) {
    const at = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
    return CIVIDIS[low].map((from, i) => Math.round(from + (at - low) * (CIVIDIS[low + 1][i] - from)));
  }
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2]);

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function heatMap(arm, matrix, tasks, step, low, high) {
    const learnt = matrix[step].slice(0, step);
    const mean = step ? (learnt.reduce((a, b) => a + b) / step).toFixed(1) : "–";
    const caption = element("caption", {}, element("span", { className: "dot" }), arm.name,
      element("span", { className: "small" }, ` learnt so far: ${mean} %`));
    caption.firstChild.style.background = arm.color;
    const head = element("tr", {}, element("td", {}), ...tasks.map((t) => element("th", { scope: "col" }, ...broken(t))));
    const body = matrix.map((line, i) => {
      const row = element("tr", {}, element("th", { scope: "row" }, i ? `after ${i}` : "base"));
      line.forEach((value, j) => {
        const cell = element("td", {}, i <= step ? value.toFixed(1) : "");
        if (i <= step) {
          const rgb = shade((value - low) / (high - low));
          cell.style.background = `rgb(${rgb})`;
          cell.style.color = luminance(rgb) > 0.179 ? "#000" : "#fff";
        }
        if (i === j + 1) cell.className = "just";
        row.append(cell);
      });
      if (i === step) row.className = "now";
      return row;
    });
    return element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...body));
  }

  function broken(name) { // a line may end behind an underscore
    return name.split(/(?<=_)/).flatMap((part, i) => (i ? [element("wbr", {}), part] : [part]));
  }

  function draw() {
    const order = $("order").value;
    const names = lines().filter((row) => !row.hidden).map((row) => text(row.cells[0]));
    const shown = names.map((name) => arms.get(name)).filter((arm) => arm?.matrices[order]);
    const stream = data.orders[order] ?? data.orders[orders[0]] ?? [];
    const tasks = order ? stream : stream.map((_, i) => `task ${i + 1}`);
    first = Math.max(0, Math.min(first, PAGE * Math.floor((shown.length - 1) / PAGE)));
    const page = shown.slice(first, first + PAGE);
    $("step").max = tasks.length;
    const step = Number($("step").value);
    $("stage").textContent = step ? `${step}${order ? ` (${tasks[step - 1]})` : ""} of ${tasks.length}` : "0 (base model)";
    $("page").textContent = shown.length ? `arms ${first + 1}–${first + page.length} of ${shown.length}` : "no arms";
    $("before").disabled = first === 0;
    $("after").disabled = first + PAGE >= shown.length;
    // One scale for every arm, so that pages and filters can be compared.
    const all = data.arms.flatMap((arm) => arm.matrices[order] ?? []).flat();
    const low = Math.floor(all.reduce((a, b) => Math.min(a, b), 100) / 5) * 5;
    const high = Math.max(low + 10, Math.ceil(all.reduce((a, b) => Math.max(a, b), 0) / 5) * 5);
    $("matrix").replaceChildren(...page.map((arm) => {
      const box = element("div", { className: "scroll", tabIndex: 0, role: "region" },
        heatMap(arm, arm.matrices[order], tasks, step, low, high));
      box.setAttribute("aria-label", `Accuracy matrix of ${arm.name}`);
      return box;
    }));
  }

  function turn(by) {
    first += by * PAGE;
    draw();
  }

  // -- trials: every word of the filter must be in a line, and what is chosen of arm, order, seed and status its own

  const LINES = window.innerWidth > 600 ? 50 : 10;
  const { columns, rows } = data.trials;
  let top = 0;

  const chosen = ["Arm", "Order", "Seed", "Status"].map((name) => {
    const column = columns.indexOf(name);
    const values = [...new Set(rows.map((row) => row[column]))];
    const select = element("select", {}, element("option", { value: "" }, "all"),
      ...values.map((value) => element("option", { value: "=" + value }, value)));
    if (values.length > 1) $("trial-filters").insertBefore(element("label", {}, `${name} `, select), $("trial-count").parentNode);
    select.addEventListener("change", () => list(0));
    return [column, select];
  });

  function list(from) {
    const words = $("trial-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) =>
      chosen.every(([column, select]) => !select.value || "=" + row[column] === select.value) &&
      words.every((word) => row.some((cell) => cell.toLowerCase().includes(word))));
    top = Math.max(0, Math.min(from, LINES * Math.floor((found.length - 1) / LINES)));
    const page = found.slice(top, top + LINES);
    const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)));
    const body = page.map((row) => element("tr", {}, ...row.map((cell, i) => {
      if (!i) return element("th", { scope: "row" }, element("span", { className: "name" }, cell));
      const made = element("td", { className: columns[i] === "Trial" || columns[i] === "Commit" ? "code" : "" }, cell);
      made.dataset.label = columns[i];
      return made;
    })));
    $("trial-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
    $("trial-count").textContent = found.length ? `trials ${top + 1}–${top + page.length} of ${found.length}` : "no trials";
    $("trials-before").disabled = top === 0;
    $("trials-after").disabled = top + LINES >= found.length;
  }

  $("trial-filter").addEventListener("input", () => list(0));
  $("trials-before").addEventListener("click", () => list(top - LINES));
  $("trials-after").addEventListener("click", () => list(top + LINES));
  list(0);

  const longest = Math.max(0, ...Object.values(data.orders).map((stream) => stream.length));
  $("step").max = longest;
  $("step").value = longest;
  $("filter").addEventListener("input", filter);
  $("ranked").addEventListener("change", filter);
  $("step").addEventListener("input", draw);
  $("order").addEventListener("change", () => {
    $("step").max = (data.orders[$("order").value] ?? data.orders[orders[0]] ?? []).length;
    draw();
  });
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  filter();
})();
