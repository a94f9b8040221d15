"use strict";
// The page is complete without this: it makes tables sortable and unfolds what is folded before printing.

const MISSING = "–";

function numberIn(text) {
  return Number.parseFloat(text.replace(/−/g, "-").replace(/[,<>+\s]/g, ""));
}

function sortRows(rows, column, direction) {
  const cells = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
  const missing = (row) => cells.get(row) === MISSING || cells.get(row).startsWith("none (");
  const filled = rows.filter((row) => !missing(row));
  const numeric = filled.every((row) => !Number.isNaN(numberIn(cells.get(row))));
  filled.sort((a, b) => {
    const [left, right] = [cells.get(a), cells.get(b)];
    const byNumber = numeric ? numberIn(left) - numberIn(right) : 0;
    return direction * (byNumber || left.localeCompare(right, "en", { numeric: true }));
  });
  return [...filled, ...rows.filter(missing)];
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort: ascending, descending, as written";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? sortRows(original, column, next === "ascending" ? 1 : -1) : original));
    });
  });
}

document.querySelectorAll("table[data-sortable]").forEach(makeSortable);

let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  unfolded.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => unfolded.forEach((part) => { part.open = false; }));
