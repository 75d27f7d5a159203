// What the console does beyond links and forms: copy, sort, keys, live parts. Everything can be read without it.
"use strict";

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Copying an id.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      const field = document.createElement("textarea");
      field.value = button.dataset.copy;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.classList.add("done");
    say("Copied");
    setTimeout(() => button.classList.remove("done"), 1200);
  });

  // Sorting what is on the page. Live parts are sorted again after each change.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    return cell.dataset.value ?? cell.querySelector("time[datetime]")?.dateTime ?? cell.textContent.trim();
  };
  const order = (one, other) => {
    const numbers = [Number(one), Number(other)];
    if (one !== "" && other !== "" && numbers.every(Number.isFinite)) return numbers[0] - numbers[1];
    return one.localeCompare(other, undefined, { numeric: true });
  };
  const sort = (table) => {
    const column = Number(table.dataset.column ?? -1);
    if (column < 0) return;
    all("thead th", table).forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", table.dataset.direction);
      else head.removeAttribute("aria-sort");
    });
    const turn = table.dataset.direction === "descending" ? -1 : 1;
    for (const body of table.tBodies) {
      const before = [...body.rows];
      const after = [...before].sort((one, other) => turn * order(valueOf(one, column), valueOf(other, column)));
      if (after.some((row, index) => row !== before[index])) body.append(...after);
    }
  };
  const makeSortable = (table) => {
    all("thead th", table).forEach((head, column) => {
      if (!head.textContent.trim() || head.hasAttribute("data-unsorted") || head.querySelector("button")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = table.dataset.column === String(column) && table.dataset.direction === "ascending";
        table.dataset.column = column;
        table.dataset.direction = up ? "descending" : "ascending";
        sort(table);
      });
    });
  };

  // How long ago, beside the time itself.
  const ago = (seconds) => {
    const away = Math.abs(seconds);
    const text = away < 90 ? `${Math.round(away)} s` : away < 5400 ? `${Math.round(away / 60)} min`
      : away < 129600 ? `${Math.round(away / 3600)} h` : `${Math.round(away / 86400)} d`;
    return seconds < 0 ? `in ${text}` : `${text} ago`;
  };
  const tellTimes = () => {
    for (const time of all("time[datetime]")) {
      const at = new Date(time.dateTime);
      time.title = `${time.dateTime.replace("T", " ").slice(0, 23)} UTC, ${ago((Date.now() - at) / 1000)}; here ${at.toLocaleString()}`;
    }
  };

  // What a live part says about itself.
  const mark = (on) => all(".live").forEach((sign) => {
    sign.classList.toggle("off", !on);
    sign.textContent = on ? "live" : "not live";
  });
  document.addEventListener("htmx:sse:after:connection", (event) => mark(event.detail.connection.status === 200));
  document.addEventListener("htmx:sse:error", () => mark(false));
  document.addEventListener("htmx:sse:close", () => all(".live").forEach((sign) => { sign.classList.add("off"); sign.textContent = "final"; }));

  const say = (text) => {
    const voice = document.getElementById("voice");
    if (voice) voice.textContent = text;
  };

  // Plots, from the numbers that stand on the page.
  let drawn = [];
  const colour = (name) => {
    // What light-dark() means here is only known once an element is painted with it.
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const shortly = (value) => value == null ? "" : Math.abs(value) >= 10000 ? `${+(value / 1000).toFixed(1)}k`
    : `${Math.abs(value) < 0.1 ? +value.toPrecision(2) : +value.toFixed(value < 10 ? 2 : 0)}`;
  const clock = (seconds) => seconds == null ? "" : new Date(seconds * 1000).toISOString().slice(11, 16);
  // What a legend tells: where the pointer is, else the newest.
  const pointed = (plot, line, index) => plot.data?.[line]?.at(index ?? -1);
  // A value between two gaps is no line: it is drawn as a point.
  const lonely = (plot, line) => {
    const values = plot.data[line];
    return [...values.keys()].filter((index) => values[index] != null && values[index - 1] == null && values[index + 1] == null);
  };
  const draw = () => {
    const table = document.getElementById("points");
    if (!table || !window.uPlot) return;
    drawn.forEach((plot) => plot.destroy());
    drawn = [];
    const heads = [...table.tHead.rows[0].cells];
    const timeOf = (row) => Number(row.cells[0].dataset.value);
    const rows = [...table.tBodies[0].rows].sort((one, other) => timeOf(one) - timeOf(other));
    const times = rows.map(timeOf);
    const step = Number(document.querySelector("[data-plot][data-step]")?.dataset.step ?? 60);
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif", labelSize: 15, labelGap: 0 };
    for (const place of all("div[data-plot]")) {
      const columns = heads.map((head, index) => [head, index]).filter(([head]) => head.dataset.plot === place.dataset.plot);
      const lines = columns.map(([, index]) => rows.map((row) => row.cells[index].textContent === "" ? null : Number(row.cells[index].textContent)));
      // A step in which nothing was counted breaks the line.
      const data = [[], ...lines.map(() => [])];
      times.forEach((time, index) => {
        if (index && time - times[index - 1] > 1.5 * step) {
          data[0].push(times[index - 1] + step);
          lines.forEach((_, line) => data[line + 1].push(null));
        }
        data[0].push(time);
        lines.forEach((values, line) => data[line + 1].push(values[index]));
      });
      const series = columns.map(([head]) => ({
        label: head.dataset.line, stroke: colour(`line-${head.dataset.tone}`), width: 1.6, points: { show: false, filter: lonely, size: 5 }, value: (plot, _, line, index) => shortly(pointed(plot, line, index)),
      }));
      drawn.push(new uPlot({
        width: place.clientWidth - 8, height: 184, cursor: { y: false, points: { size: 6 } },
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
        scales: { x: { range: () => [Number(place.dataset.since), Number(place.dataset.until)] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
        axes: [
          { ...axis, label: "time of day, UTC", size: 26, space: 56, values: (_, ticks) => ticks.map(clock) },
          { ...axis, label: place.dataset.unit, size: 46, values: (_, ticks) => ticks.map(shortly) },
        ],
        legend: { live: true },
        series: [{ label: "UTC", value: (plot, _, line, index) => clock(pointed(plot, line, index)) }, ...series],
      }, data, place));
    }
  };
  let resized;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(draw, 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  const prepare = () => {
    all("table[data-sort]").forEach((table) => { makeSortable(table); sort(table); });
    tellTimes();
  };
  document.addEventListener("htmx:after:swap", (event) => {
    prepare();
    if (event.target.closest?.("#plots") || event.detail?.ctx?.target?.id === "plots") draw();
  });

  // A choice that sends its form, so that no button is needed.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-send]")) event.target.form.requestSubmit();
  });

  // Keys.
  let waiting = 0;
  const typing = (element) => element.matches("input, select, textarea, [contenteditable]");
  const rows = () => all("tbody tr[data-href]");
  const step = (by) => {
    const list = rows();
    if (!list.length) return;
    const at = list.findIndex((row) => row.classList.contains("here"));
    const next = list[Math.min(Math.max(at + by, 0), list.length - 1)];
    list.forEach((row) => row.classList.toggle("here", row === next));
    next.scrollIntoView({ block: "nearest" });
    next.querySelector("a")?.focus({ preventScroll: true });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") document.activeElement?.blur();
    if (typing(event.target)) return;
    const help = document.getElementById("keys");
    if (Date.now() - waiting < 1200) {
      waiting = 0;
      const place = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
      if (place) { event.preventDefault(); place.click(); }
      return;
    }
    if (event.key === "g") waiting = Date.now();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") {
      const field = document.querySelector("[data-find]");
      if (field) { event.preventDefault(); field.focus(); field.select(); }
    } else if (event.key === "?" && help) {
      event.preventDefault();
      if (!help.open) help.showModal();
    }
  });
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) document.getElementById(opener.dataset.opens)?.showModal();
  });

  prepare();
  draw();
  setInterval(tellTimes, 10000);
})();
