// Sorting of tables, keyboard access to boxes that scroll, verdicts judged anew, the explorers.
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
    if (text === "–") return null;
    var says = cell.classList.contains("num") && /^\d+(\.\d+)?$/.test(text);
    return says ? Number(text) : text;
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
    // the page says the names of the columns once, Vega wants them in every row
    Object.keys(spec.datasets).forEach(function (name) {
      var packed = spec.datasets[name];
      spec.datasets[name] = packed.rows.map(function (values) {
        var row = {};
        packed.columns.forEach(function (column, i) { row[column] = values[i]; });
        return row;
      });
    });
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

  // Break this verdict: the rule of the ledger (Student's t over replicates, inside the region,
  // outside of it, or across its edge), applied to fewer replicates and to other edges.
  function judge(values, region, facts) {
    var n = values.length, mean = values.reduce(function (sum, v) { return sum + v; }, 0) / n;
    var square = values.reduce(function (sum, v) { return sum + (v - mean) * (v - mean); }, 0);
    var half = square ? facts.t[n] * Math.sqrt(square / (n - 1) / n) : 0;
    var low = region[0] === null ? -Infinity : region[0];
    var high = region[1] === null ? Infinity : region[1];
    var word = "inconclusive";
    if (low <= mean - half && mean + half <= high) word = "reproduced";
    else if (mean + half < low || mean - half > high) word = "not reproduced";
    if (word === "reproduced" && n < facts.least) word = "inconclusive";
    return { mean: mean, low: mean - half, high: mean + half, word: word };
  }

  function startBreaking(place) {
    // made apart and put in its place in one step, so that the page changes once
    var box = place.cloneNode(false);
    box.removeAttribute("hidden");
    var facts = JSON.parse(box.dataset.break), region = facts.region;
    var two = region[0] !== null && region[1] !== null;
    var centre = two ? (region[0] + region[1]) / 2 : 0;
    var one = facts.replicates.replace(/s$/, "");
    var ways = Object.keys(facts.values), all = [];
    ways.forEach(function (way) {
      all = all.concat(facts.values[way].map(function (pair) { return pair[1]; }));
    });
    var own = two ? region[1] - centre : region[0] === null ? region[1] : region[0];
    var ends = all.concat(two ? region : [own], 0);
    var from = Math.min.apply(null, ends), to = Math.max.apply(null, ends);
    var pad = 0.12 * (to - from || 1), step = Math.pow(10, -facts.places);
    from -= pad; to += pad;

    function words(value, signed) {
      var text = value.toFixed(facts.places);
      if (Number(text) === 0) text = text.replace("-", "");
      if (signed && facts.signed && Number(text) > 0) text = "+" + text;
      return text.replace("-", "\u2212");
    }
    function make(name, attributes, parent, text) {
      var svg = ["svg", "rect", "line", "circle"].indexOf(name) >= 0;
      var made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
      Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
      if (text) made.textContent = text;
      parent.appendChild(made);
      return made;
    }
    function control(label, input) {
      var whole = make("div", { "class": "survey-control" }, controls);
      var id = "break-" + (startBreaking.made = (startBreaking.made || 0) + 1);
      input.id = id;
      make("label", { "for": id }, whole, label);
      var told = input.tagName === "INPUT" ? make("output", { "for": id }, whole) : null;
      whole.appendChild(input);
      input.addEventListener("input", draw);
      return told;
    }
    function slider(least, most, by, value) {
      var made = document.createElement("input");
      made.type = "range"; made.min = least; made.max = most; made.step = by; made.value = value;
      return made;
    }

    var controls = make("div", { "class": "survey-controls" }, box);
    var way = null;
    if (ways.length > 1) {
      way = document.createElement("select");
      ways.forEach(function (name) { make("option", { value: name }, way, name || "as the claim says"); });
      control("Measured", way);
    }
    var count = slider(2, 2, 1, 2), used = control("Replicates used", count);
    var edge = two
      ? slider(0, Math.ceil(2 * Math.max(own, to - centre, centre - from) / step) * step, step, own)
      : slider(Math.floor(from / step) * step, Math.ceil(to / step) * step, step, own);
    var moved = control(two ? "Margin of the region" : "Edge of the region", edge);
    var picture = make("svg", { viewBox: "0 0 400 56", "class": "survey-strip-plot", "aria-hidden": "true" }, box);
    var line = make("p", { "class": "survey-broken", role: "status" }, box);
    var again = make("button", { type: "button" }, box, "as it was judged");

    function useAll() {
      count.max = facts.values[""].length; // before the value, which it bounds
      count.value = count.max;
    }
    function x(value) { return 400 * (Math.max(from, Math.min(to, value)) - from) / (to - from); }

    function draw() {
      var pairs = facts.values[way ? way.value : ""], n = pairs.length;
      var wanted = Number(count.max) === Number(count.value) ? n : Math.min(n, Number(count.value));
      count.max = n; count.value = wanted; count.disabled = n < 3;
      var at = Math.abs(Number(edge.value) - own) < step / 2 ? own : Number(edge.value);
      var now = two ? [centre - at, centre + at] : [region[0] === null ? null : at, region[1] === null ? null : at];
      var values = pairs.slice(0, wanted).map(function (pair) { return pair[1]; });
      var found = judge(values, now, facts);
      used.textContent = wanted + " of " + n;
      moved.textContent = ((two ? "\u00b1" : region[0] === null ? "\u2264 " : "\u2265 ") + words(at, !two) + " " + facts.unit).trim();
      count.setAttribute("aria-valuetext", used.textContent + " " + facts.replicates);
      edge.setAttribute("aria-valuetext", moved.textContent);
      line.textContent = facts.signs[found.word] + " " + found.word + ": " + words(found.mean, true) +
        (facts.unit ? " " + facts.unit : "") + " [" + words(found.low, true) + ", " + words(found.high, true) + "], " +
        wanted + " " + (wanted === 1 ? one : facts.replicates);
      line.dataset.word = found.word;
      again.disabled = at === own && wanted === n && (!way || way.value === "");
      picture.textContent = "";
      var left = now[0] === null ? 0 : x(now[0]), right = now[1] === null ? 400 : x(now[1]);
      make("rect", { "class": "region", x: left, y: 0, width: Math.max(1, right - left), height: 56 }, picture);
      make("line", { "class": "zero", x1: x(0), x2: x(0), y1: 0, y2: 56 }, picture);
      make("line", { "class": "interval", x1: x(found.low), x2: x(found.high), y1: 40, y2: 40 }, picture);
      make("circle", { "class": "mean", cx: x(found.mean), cy: 40, r: 5 }, picture);
      pairs.forEach(function (pair, i) {
        make("circle", { "class": i < wanted ? "used" : "left", cx: x(pair[1]), cy: 16 + 5 * (i % 3 - 1), r: 4 }, picture);
      });
    }
    again.addEventListener("click", function () {
      if (way) way.value = "";
      edge.value = own;
      useAll();
      draw();
    });
    useAll();
    draw();
    place.replaceWith(box);
  }

  // Paper has no folds: what tells the paper in a minute and the tables of times is printed open.
  function unfoldForPrint() {
    var folds = [];
    window.addEventListener("beforeprint", function () {
      folds = Array.from(document.querySelectorAll(".survey-gist:not([open]), .survey-faithful details:not([open]), .survey-timings:not([open]), .survey-advice details:not([open])"));
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
    // a table's many controls are made when one is asked for
    document.querySelectorAll(".survey-break details").forEach(function (fold) {
      fold.addEventListener("toggle", function () {
        var box = fold.querySelector(".survey-breaking");
        if (fold.open && box.hidden) startBreaking(box);
      });
    });
    startExplorers();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
