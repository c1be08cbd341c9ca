// Sorting of tables, keyboard access to boxes that scroll, and the explorers.
// The chart library is loaded only on a page that has an explorer.
(function () {
  "use strict";

  // Boxes that scroll must be reachable by keyboard, others should not take a tab stop.
  function watchScroll(selector) {
    var boxes = document.querySelectorAll(selector);
    function look(box) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
    var observer = window.ResizeObserver && new ResizeObserver(function (entries) {
      entries.forEach(function (entry) { look(entry.target); });
    });
    boxes.forEach(function (box) { look(box); if (observer) observer.observe(box); });
  }

  function cellValue(row, column) {
    var cell = row.children[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    var text = cell.textContent.trim();
    return text === "–" ? null : text;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  // Column of each head cell that stands over one column, two-line heads included.
  function leafHeads(table) {
    var taken = [], heads = [];
    Array.from(table.tHead.rows).forEach(function (row, r) {
      var column = 0;
      Array.from(row.cells).forEach(function (cell) {
        while (taken[r] && taken[r][column]) column += 1;
        for (var i = 0; i < cell.rowSpan; i += 1) {
          for (var j = 0; j < cell.colSpan; j += 1) {
            (taken[r + i] = taken[r + i] || [])[column + j] = true;
          }
        }
        if (cell.scope === "col") heads.push([cell, column]);
        column += cell.colSpan;
      });
    });
    return heads;
  }

  function makeSortable(table) {
    var body = table.tBodies[0];
    if (!table.tHead || !body || body.rows.length < 2) return;
    var heads = leafHeads(table);
    heads.forEach(function (entry) {
      var cell = entry[0], column = entry[1];
      var button = document.createElement("button");
      button.type = "button";
      while (cell.firstChild) button.appendChild(cell.firstChild);
      cell.appendChild(button);
      cell.setAttribute("aria-sort", "none");
      button.addEventListener("click", function () {
        var down = cell.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other[0].setAttribute("aria-sort", "none"); });
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        Array.from(body.rows)
          .map(function (row) { return [cellValue(row, column), row]; })
          .sort(function (a, b) {
            // rows without a value stay at the end, whichever way the others go
            if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null);
            return down ? compare(b[0], a[0]) : compare(a[0], b[0]);
          })
          .forEach(function (pair) { body.appendChild(pair[1]); });
      });
    });
  }

  // "var(--name, fallback)" in a specification becomes the page's present value.
  function resolve(value, styles) {
    if (typeof value === "string") {
      var match = /^var\((--[\w-]+)(?:,\s*(.+))?\)$/.exec(value);
      return match ? styles.getPropertyValue(match[1]).trim() || match[2] : value;
    }
    if (Array.isArray(value)) return value.map(function (v) { return resolve(v, styles); });
    if (value && typeof value === "object") {
      var copy = {};
      Object.keys(value).forEach(function (key) {
        // the data hold no colours, and copying them would cost
        copy[key] = key === "datasets" ? value[key] : resolve(value[key], styles);
      });
      return copy;
    }
    return value;
  }

  function startExplorer(box) {
    var spec = JSON.parse(box.querySelector("script.survey-spec").textContent);
    var chart = box.querySelector(".survey-chart");
    var status = box.querySelector(".survey-status");
    var inputs = Array.from(box.querySelectorAll("[data-param]"));
    // charts one above the other share the width that is left beside their axes
    var stacked = (spec.vconcat || []).length && spec.vconcat.every(function (part) {
      return !part.hconcat && !part.vconcat && !part.concat && !part.facet && !part.repeat;
    });
    var shown = null, turn = 0, fluid = stacked || spec.width === "container", width = 0;
    var beside = 90;

    function state(input) { return JSON.parse(input.dataset.values)[Number(input.value)]; }

    function tell(input) {
      if (!input.dataset.words) return;
      var words = JSON.parse(input.dataset.words)[Number(input.value)];
      input.setAttribute("aria-valuetext", words);
      input.parentNode.querySelector("output").textContent = words;
    }

    // A control that changes nothing at the present setting of the others rests, and says why.
    function rest() {
      inputs.forEach(function (input) {
        if (!input.dataset.idle) return;
        var others = inputs.filter(function (other) { return other !== input; });
        var key = others.map(function (other) { return other.value; }).join(",");
        input.disabled = JSON.parse(input.dataset.idle).indexOf(key) >= 0;
        input.parentNode.querySelector(".survey-idle").hidden = !input.disabled;
      });
    }

    function tooWide() {
      var over = chart.querySelector("svg").getBoundingClientRect().width - width;
      return over > 0 || over < -3 ? over : 0; // a single pixel would already scroll
    }

    function draw(settled) {
      var mine = (turn += 1);
      var themed = resolve(spec, getComputedStyle(document.documentElement));
      themed.params.forEach(function (param) {
        inputs.forEach(function (input) {
          if (input.dataset.param === param.name) param.value = state(input);
        });
      });
      // Vega measures its container on the window's resize, while the theme still moves its
      // columns, so the width is told to it instead
      width = chart.clientWidth;
      if (stacked) {
        themed.vconcat.forEach(function (part) {
          if (part.name !== "picture") part.width = Math.max(120, width - beside); // never stretched
        });
      } else if (fluid) themed.width = width;
      themed.config.legend.columns = Math.max(1, Math.floor(width / 120));
      // a chart keeps its height while it is drawn anew, so the page does not jump
      chart.style.minHeight = chart.offsetHeight ? chart.offsetHeight + "px" : "";
      return window.surveyVega.embed(chart, themed, {
        mode: "vega-lite", actions: false, renderer: "svg", tooltip: { id: "vg-tooltip-element", theme: "survey-tip" }
      }).then(function (result) {
        if (mine !== turn) { result.finalize(); return; }
        if (shown) shown.finalize();
        shown = result;
        if (stacked && !settled && tooWide()) {
          beside += tooWide() + 2; // how much room the axes take is known only now, and is rounded
          return draw(true);
        }
        chart.style.minHeight = "";
        chart.dataset.drawn = String(mine);
        status.textContent = "";
      });
    }

    function fail() {
      status.textContent = "The chart could not be drawn. The table holds the same numbers.";
      box.querySelector("details").open = true;
    }

    inputs.forEach(function (input) {
      tell(input);
      input.addEventListener("input", function () {
        tell(input);
        rest();
        if (!shown) return;
        shown.view.signal(input.dataset.param, state(input)).runAsync().then(function () {
          // other labels may take more room beside a stack, which does not shrink by itself
          if (stacked && tooWide()) return draw();
        }).catch(fail);
      });
    });
    if (fluid && window.ResizeObserver) {
      var soon = 0;
      new ResizeObserver(function () {
        window.clearTimeout(soon);
        soon = window.setTimeout(function () {
          if (chart.clientWidth && chart.clientWidth !== width) draw().catch(fail);
        }, 120);
      }).observe(chart);
    }
    rest();
    box.querySelector(".survey-controls").hidden = false;
    new MutationObserver(function () { draw().catch(fail); })
      .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    draw().catch(fail);
  }

  function startExplorers() {
    var boxes = Array.from(document.querySelectorAll(".survey-explorer"));
    if (!boxes.length) return;
    var root = document.documentElement.dataset.content_root || "./";
    var script = document.createElement("script");
    boxes.forEach(function (box) {
      box.querySelector(".survey-status").textContent = "Drawing …";
    });
    script.src = root + "_static/vendor/vega.js";
    script.onload = function () { boxes.forEach(startExplorer); };
    script.onerror = function () {
      boxes.forEach(function (box) {
        box.querySelector(".survey-status").textContent =
          "The chart library is missing from this copy. The table holds the same numbers.";
        box.querySelector("details").open = true;
      });
    };
    document.head.appendChild(script);
  }

  // Paper has no folds: what tells the paper in a minute and the tables of times is printed open.
  function unfoldForPrint() {
    var folds = [];
    window.addEventListener("beforeprint", function () {
      folds = Array.from(document.querySelectorAll(".survey-gist:not([open]), .survey-timings:not([open])"));
      folds.forEach(function (fold) { fold.open = true; });
    });
    window.addEventListener("afterprint", function () {
      folds.forEach(function (fold) { fold.open = false; });
    });
  }

  function start() {
    unfoldForPrint();
    document.querySelectorAll("table.survey-table").forEach(makeSortable);
    watchScroll(".survey-scroll, .survey-more, .survey-chart, .pst-scrollable-table-container");
    // wide equations scroll as well, once they are set
    window.addEventListener("load", function () {
      var ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
      if (ready) ready.then(function () { watchScroll("mjx-container[display='true']"); });
    });
    startExplorers();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
