// What is wider than a phone scrolls sideways. A keyboard can scroll an element only if it can have the focus. The theme
// sees to that for code, tables and output, but not for figures and for formulas, which MathJax draws later.
(() => {
  const makeFocusable = () => {
    for (const element of document.querySelectorAll("mjx-container[display='true'], figure")) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  };
  // A formula that is wider than a phone shrinks as far as it stays legible; if it is still too wide, it scrolls.
  const fit = () => {
    for (const formula of document.querySelectorAll("mjx-container[display='true']")) {
      formula.style.fontSize = "";
      const share = formula.clientWidth / formula.scrollWidth;
      if (share < 1) formula.style.fontSize = `${Math.max(70, Math.floor(98 * share))}%`;
    }
    makeFocusable();
  };
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    fit();
    window.addEventListener("resize", fit);
  });
})();

// On a phone a table of many columns becomes a list: one block per row, with the column's title beside each cell. The
// style sheet does that; this script adds the titles. Roles keep it a table for screen readers.
document.addEventListener("DOMContentLoaded", () => {
  const roles = { thead: "rowgroup", tbody: "rowgroup", tr: "row", th: "columnheader", td: "cell" };
  for (const table of document.querySelectorAll("article table")) {
    const titles = [...table.querySelectorAll("thead tr:first-child th")].map((cell) => cell.textContent.trim());
    const wide = table.textContent.length > 1500 || table.offsetWidth > table.parentElement.clientWidth;
    const many = titles.length > 3 || (titles.length === 3 && wide);
    if (!many || table.querySelector("[rowspan], [colspan]") || table.tHead.rows.length > 1) continue;
    table.classList.add("wsss-stack");
    // The role "table" forbids a link in the caption; a table that has one keeps the role of its tag.
    if (!table.caption?.querySelector("a.reference")) table.setAttribute("role", "table");
    for (const [tag, role] of Object.entries(roles)) {
      for (const part of table.querySelectorAll(tag)) part.setAttribute("role", role);
    }
    for (const row of table.tBodies[0]?.rows ?? []) {
      [...row.cells].forEach((cell, place) => (cell.dataset.title = titles[place] ?? ""));
      if (row.cells[0]?.tagName === "TH") row.cells[0].setAttribute("role", "rowheader");
    }
  }
});

// Fold the runs, commits and processors behind a table, a figure or a notebook, for readers who want them.
document.addEventListener("DOMContentLoaded", () => {
  for (const line of document.querySelectorAll("p.wsss-origin, p.wsss-stamp")) {
    const texts = [...line.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!texts.length) continue;
    const folded = document.createElement("details");
    folded.className = "wsss-origin";
    folded.innerHTML = "<summary>Runs and machine</summary><p></p>";
    folded.lastChild.textContent = texts.map((node) => node.textContent.trim()).join(" ");
    texts.forEach((node) => node.remove());
    line.after(folded);
    if (!line.children.length) line.remove();
  }
});

// The arrows that unfold the contents have no words; a screen reader needs some.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll(".has-children > details > summary")) {
    const page = arrow.closest(".has-children").querySelector("a")?.textContent.trim();
    arrow.setAttribute("aria-label", `Pages below ${page}`);
  }
});

// A strip of panels is too small to read on a phone. There its two halves stand one above the other, each with the titles
// of the rows, which take the first PERCENT of the width (class wsss-strip-PERCENT). The cut lies in the middle of the
// rest, or at wsss-cut-PERCENT.
document.addEventListener("DOMContentLoaded", () => {
  const piece = (strip, first, stop) => {
    const box = document.createElement("div"), copy = Object.assign(document.createElement("img"), { src: strip.src, alt: "" });
    box.style.flex = `${100 * (stop - first)} 0 0`; // flex factors that sum to less than 1 would leave room
    copy.style.width = `${100 / (stop - first)}%`;
    copy.style.marginLeft = `${(-100 * first) / (stop - first)}%`;
    box.append(copy);
    return box;
  };
  for (const strip of document.querySelectorAll("img.wsss-strip")) {
    const halves = document.createElement("div"), titles = Number(strip.className.match(/wsss-strip-(\d+)/)[1]) / 100;
    const cut = Number(strip.className.match(/wsss-cut-(\d+)/)?.[1] ?? 50 * (1 + titles)) / 100;
    halves.className = "wsss-halves";
    halves.setAttribute("role", "img");
    halves.setAttribute("aria-label", strip.alt);
    for (const [first, stop] of [[titles, cut], [cut, 1]]) {
      const half = document.createElement("div");
      half.append(...(titles ? [piece(strip, 0, titles)] : []), piece(strip, first, stop));
      halves.append(half);
    }
    strip.closest("figure").querySelector("figcaption").before(halves);
  }
});
