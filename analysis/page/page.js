"use strict";
// Reads the JSON of the page; lays out only what is looked at. All text is set as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 25; // questions laid out at once
const LENGTHS = [["up to 15 s", 15], ["15 s to 1 min", 60], ["1 to 10 min", 600], ["10 min to 1 h", 3600], ["over 1 h", Infinity]];
const text = number => number < 0 ? null : data.texts[number];
const percent = value => (100 * value).toFixed(1);
const signed = value => (value < 0 ? "−" : "+") + percent(Math.abs(value));

function make(name, attributes = {}, content = null) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (content !== null) node.append(content);
  return node;
}

// --- Tables that are sorted by their headings -----------------------------------------------------------------------

function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = make("button", { type: "button" }, heading.textContent);
    heading.replaceChildren(button);
    button.addEventListener("click", () => sort(table, heading, column));
  });
}

function sort(table, heading, column) {
  const before = heading.getAttribute("aria-sort"), down = before ? before === "ascending" : column > 0; // best first
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => {
    const cell = row.cells[column];
    return cell.dataset.sort ?? (cell.matches(".missing, .failed, .n") ? "" : cell.textContent);
  };
  const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
  rows.sort(([one], [other]) => {
    if (one === "" || other === "") return (one === "") - (other === ""); // what is not there comes last
    const compared = isNaN(one) || isNaN(other) ? one.localeCompare(other, undefined, { numeric: true }) : one - other;
    return down ? -compared : compared;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

// --- Charts -----------------------------------------------------------------------------------------------------------

function draw(parent, name, attributes, content) {
  const node = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (content !== undefined) node.textContent = content;
  parent.append(node);
  return node;
}

function words(cell, more = "") {
  const lines = [data.variants[cell.v] + (cell.reference ? " (reference)" : ""), data.suites[cell.s]];
  const sure = cell.low === null ? "" : ` [${percent(cell.low)}–${percent(cell.high)}]`;
  lines.push(`${percent(cell.accuracy)} %${sure}, ${cell.answered} questions`);
  if (cell.difference !== null) {
    const p = cell.p_holm === null ? "" : `, p = ${cell.p_holm.toPrecision(2)} (Holm)`;
    lines.push(`${signed(cell.difference)} [${signed(cell.difference_low)} to ${signed(cell.difference_high)}]${p}`);
  }
  return lines.join("\n") + more;
}

// A chart, and what is said of the mark that is pointed at. `paint` draws and returns the marks, each {x, y, node, say},
// in the order of the arrow keys.
function chart(host, title, height, paint) {
  const figure = host.appendChild(document.getElementById("chart").content.firstChild.cloneNode(true));
  const svg = figure.querySelector("svg"), said = figure.querySelector("output");
  svg.setAttribute("aria-label", title + ". Arrow keys step through its marks.");
  const width = Math.max(260, figure.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  draw(svg, "text", { x: 0, y: 12, class: "name" }, title);
  const marks = paint(svg, width);
  let here = -1;
  const show = at => {
    marks[here]?.node.classList.remove("here");
    here = at;
    said.textContent = marks[at]?.say ?? "";
    if (at < 0) return;
    marks[at].node.classList.add("here");
    const scale = svg.clientWidth / width, left = marks[at].x * scale;
    said.style.top = `${marks[at].y * scale + 12}px`;
    said.style.left = `${Math.max(0, Math.min(left, svg.clientWidth - said.offsetWidth))}px`;
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = width / box.width;
    const away = marks.map(mark => Math.hypot(mark.x - (event.clientX - box.left) * scale, mark.y - (event.clientY - box.top) * scale));
    const nearest = away.indexOf(Math.min(...away));
    show(away[nearest] < 30 ? nearest : -1);
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step || !marks.length) return;
    event.preventDefault();
    show((here + step + marks.length + (here < 0 && step < 0 ? 1 : 0)) % marks.length);
  });
}

function ticks(low, high, count, least = 0) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(times => times * power).find(size => size >= Math.max(least, raw * 0.999)) ?? least;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(+at.toPrecision(12));
  return found;
}

function axis(svg, horizontal, low, high, from, to, other, label, least) {
  const place = value => from + (to - from) * (value - low) / (high - low || 1);
  for (const tick of ticks(low, high, 5, least)) {
    const at = place(tick), line = horizontal ? { x1: at, x2: at, y1: other[0], y2: other[1] } : { y1: at, y2: at, x1: other[0], x2: other[1] };
    draw(svg, "line", { ...line, class: "axis" });
    draw(svg, "text", horizontal ? { x: at, y: other[1] + 13, "text-anchor": "middle" } : { x: other[0] - 5, y: at + 4, "text-anchor": "end" }, tick);
  }
  if (label) draw(svg, "text", { x: to, y: other[1] + 27, "text-anchor": "end" }, label);
  return place;
}

function mark(svg, cell, x, y) {
  const sure = cell.p_holm !== null && cell.p_holm < 0.05;
  return draw(svg, "circle", { cx: x, cy: y, r: 4.5, class: `point${sure ? " sure" : ""}${cell.reference ? " is-reference" : ""}` });
}

function range(cells) {
  const low = Math.min(...cells.map(cell => cell.low ?? cell.accuracy)), high = Math.max(...cells.map(cell => cell.high ?? cell.accuracy));
  const room = Math.max(0.02, 0.05 * (high - low));
  return [100 * Math.max(0, low - room), 100 * Math.min(1, high + room)];
}

function accuracyChart(grid, suite, cells) {
  const bottom = 28 + 19 * cells.length;
  chart(grid, `${data.suites[suite]}: accuracy in % with 95 % intervals`, bottom + 22, (svg, width) => {
    const names = Math.min(150, width * 0.4), letters = Math.floor(names / 6), [low, high] = range(cells);
    const place = axis(svg, true, low, high, names + 8, width - 12, [22, bottom]);
    const chance = cells.find(cell => cell.chance !== null)?.chance;
    if (chance !== undefined && 100 * chance >= low && 100 * chance <= high) draw(svg, "line", { x1: place(100 * chance), x2: place(100 * chance), y1: 22, y2: bottom, class: "chance" });
    return cells.map((cell, row) => {
      const y = 36 + 19 * row, x = place(100 * cell.accuracy), name = data.variants[cell.v];
      const short = name.length > letters ? name.slice(0, letters - 8) + "…" + name.slice(-6) : name;
      draw(svg, "text", { x: names, y: y + 4, "text-anchor": "end", class: "name" + (cell.reference ? " reference" : "") }, short);
      if (cell.low !== null) draw(svg, "line", { x1: place(100 * cell.low), x2: place(100 * cell.high), y1: y, y2: y, class: "point" });
      return { x, y, node: mark(svg, cell, x, y), say: words(cell) };
    });
  });
}

function costChart(grid, suite, cells, cost) {
  const known = cells.filter(cell => cell.costs[cost] !== null).sort((one, other) => one.costs[cost] - other.costs[cost]);
  if (known.length < 2) return;
  chart(grid, `${data.suites[suite]}: accuracy in %`, 230, (svg, width) => {
    const most = Math.max(...known.map(cell => cell.costs[cost])), [low, high] = range(known);
    const across = axis(svg, true, 0, most * 1.05, 34, width - 12, [22, 196], data.costs[cost]);
    const up = axis(svg, false, low, high, 196, 22, [34, width - 12]);
    return known.map(cell => {
      const x = across(cell.costs[cost]), y = up(100 * cell.accuracy);
      if (cell.low !== null) draw(svg, "line", { x1: x, x2: x, y1: up(100 * cell.low), y2: up(100 * cell.high), class: "point" });
      return { x, y, node: mark(svg, cell, x, y), say: words(cell, `\n${data.costs[cost]}: ${+cell.costs[cost].toPrecision(3)}`) };
    });
  });
}

// Moves places, from the highest down, so far apart as words of a line need, and none below the lowest place there is.
function apart(places, room, lowest) {
  places.forEach((place, at) => { place.y = Math.max(place.y, (places[at - 1]?.y ?? 0) + room); });
  places.reverse().forEach((place, at) => { place.y = Math.min(place.y, at ? places[at - 1].y - room : lowest); });
}

function layersChart(grid, { what, of, lines }) {
  const series = Object.entries(lines).filter(([, points]) => points.length), all = series.flatMap(([, points]) => points);
  if (!all.length) return;
  chart(grid, `${what}: ${of}`, 230, (svg, width) => {
    const right = width - Math.min(110, width * 0.3), values = all.map(([, value]) => value), most = Math.max(...all.map(([layer]) => layer));
    const across = axis(svg, true, 0, most, 40, right, [22, 196], "layer", 1);
    const up = axis(svg, false, Math.min(0, ...values), Math.max(...values) * 1.05 || 1, 196, 22, [40, right]);
    const ends = series.map(([name, points], at) => ({ name, at, y: up(points.at(-1)[1]) })).sort((one, other) => one.y - other.y);
    apart(ends, 12, 196);
    const letters = Math.floor((width - right - 20) / 6);
    for (const { name, at, y } of ends) {
      draw(svg, "line", { x1: right + 6, x2: right + 16, y1: y, y2: y, class: `line of-${at % 6}` });
      draw(svg, "text", { x: right + 20, y: y + 4 }, name.length > letters ? name.slice(0, letters - 1) + "…" : name);
    }
    return series.flatMap(([name, points], at) => {
      const colour = `of-${at % 6}`, places = points.map(([layer, value]) => [across(layer), up(value)]);
      draw(svg, "polyline", { points: places.join(" "), class: `line ${colour}` });
      return points.map(([layer, value], number) => {
        const [x, y] = places[number];
        return { x, y, node: draw(svg, "circle", { cx: x, cy: y, r: 3, class: `line ${colour}` }), say: `${name}\nlayer ${layer}\n${what}: ${+value.toPrecision(3)}` };
      });
    });
  });
}

function charts() {
  const done = data.cells.filter(cell => cell.status === "done" && cell.accuracy !== null);
  const bySuite = data.suites.map((_, suite) => done.filter(cell => cell.s === suite));
  const host = document.querySelector("[data-chart=accuracy]"), costs = document.querySelector("[data-chart=cost]");
  const choice = document.getElementById("cost");
  data.costs.forEach((name, number) => {
    if (done.some(cell => cell.costs[number] !== null)) choice.append(make("option", { value: number }, name));
  });
  const layers = document.querySelector("[data-chart=layers]");
  layers.hidden = !data.layers.length;
  const all = () => {
    for (const part of [host, costs, layers]) part.querySelector(".grid")?.remove();
    const [left, right, below] = [host, costs, layers].map(part => part.appendChild(make("div", { class: "grid" })));
    data.layers.forEach(one => layersChart(below, one));
    bySuite.forEach((cells, suite) => {
      if (cells.length) accuracyChart(left, suite, cells);
      if (cells.length && choice.value !== "") costChart(right, suite, cells, +choice.value);
    });
    costs.hidden = !right.children.length && choice.length < 2;
  };
  choice.addEventListener("change", all);
  let width = innerWidth, waits;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's bars come and go
    width = innerWidth;
    clearTimeout(waits);
    waits = setTimeout(all, 150);
  });
  all();
}

// --- Questions --------------------------------------------------------------------------------------------------------

const STATES = ["right", "partly right", "wrong", "no answer (error)"];
const state = score => score === null ? 3 : score === 1 ? 0 : score === 0 ? 2 : 1;
const SHOWN = [
  ["differ", "one scores higher", (a, b) => a !== b],
  ["a", "A scores higher", (a, b) => a !== null && (b === null || a > b)],
  ["b", "B scores higher", (a, b) => b !== null && (a === null || b > a)],
  ["words", "other words, same score", (a, b, ta, tb) => a === b && ta !== tb],
  ["right", "both right", (a, b) => a === 1 && b === 1],
  ["wrong", "both wrong", (a, b) => a === 0 && b === 0],
  ["error", "an error", (a, b) => a === null || b === null],
  ["all", "all", () => true],
];

function fill(select, entries, chosen = select.value) {
  select.replaceChildren(...entries.map(([value, label]) => make("option", { value }, label)));
  select.value = entries.some(([value]) => String(value) === String(chosen)) ? chosen : entries[0]?.[0] ?? "";
}

const asked = variant => data.questions.filter(suite => suite.given[variant]);

function questions() {
  const form = document.getElementById("filters");
  if (!form || !data.questions.length) return warn();
  const { a, b, show, suite, part, lasts, words } = form.elements;
  const variants = data.variants.map((name, number) => [number, name]).filter(([number]) => asked(number).length);
  const [reference] = variants.find(([number]) => data.references.includes(number)) ?? variants[0];
  const others = variants.filter(([number]) => number !== reference);
  fill(a, variants, reference);
  fill(b, variants, (others.find(([number]) => !data.references.includes(number)) ?? others[0])?.[0]);
  fill(suite, [["", "all"], ...data.questions.map((one, number) => [number, data.suites[one.s]])], "");
  const several = new Set(data.questions.flatMap(one => one.seconds.map(inLength)));
  fill(lasts, [["", "all"], ...LENGTHS.map(([label], at) => [at, label]).filter(([at]) => several.has(at)), ...(several.has(-1) ? [[-1, "not known"]] : [])], "");
  const parts = () => fill(part, [["", "all"], ...[...new Set(chosen(suite.value).flatMap(one => one.names))].sort().map(name => [name, name])]);
  let found = [], page = 0;
  const look = () => {
    const counts = SHOWN.map(() => 0), crossed = STATES.map(() => [0, 0, 0, 0]);
    const rule = () => SHOWN.findIndex(([name]) => name === (show.value || "differ"));
    const kept = SHOWN.map(() => []);
    for (const one of chosen(suite.value)) {
      const left = one.given[a.value], right = one.given[b.value];
      if (!left || !right) continue;
      const wantedPart = part.value === "" ? -1 : one.names.indexOf(part.value);
      if (part.value !== "" && wantedPart < 0) continue;
      for (let at = 0; at < one.doc.length; at++) {
        if (!there(left, at) || !there(right, at)) continue;
        if (wantedPart >= 0 && !one.parts[at].includes(wantedPart)) continue;
        if (lasts.value !== "" && inLength(one.seconds[at]) !== +lasts.value) continue;
        if (words.value && !holds(one, at, left, right, words.value.toLowerCase())) continue;
        const [first, second] = [left.score[at], right.score[at]];
        crossed[state(first)][state(second)]++;
        SHOWN.forEach(([, , test], number) => {
          if (!test(first, second, left.text[at], right.text[at])) return;
          counts[number]++;
          if (number === rule()) kept[number].push([one, at]);
        });
      }
    }
    found = kept[rule()];
    fill(show, SHOWN.map(([name, label], number) => [name, `${label}: ${counts[number].toLocaleString("en")}`]), show.value || "differ");
    cross(crossed);
    turn(0);
  };
  const turn = to => {
    page = to;
    const shown = found.slice(PAGE * page, PAGE * (page + 1)), pages = Math.max(1, Math.ceil(found.length / PAGE));
    document.getElementById("list").replaceChildren(...shown.map(([one, at]) => card(one, at, +a.value, +b.value)));
    document.getElementById("found").textContent = found.length === 1 ? "1 question" : `${found.length.toLocaleString("en")} questions`;
    document.getElementById("page").textContent = `page ${page + 1} of ${pages.toLocaleString("en")}`;
    document.getElementById("back").disabled = page === 0;
    document.getElementById("next").disabled = page + 1 >= pages;
  };
  const step = by => {
    turn(page + by);
    document.getElementById("found").scrollIntoView();
  };
  document.getElementById("back").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("change", event => {
    if (event.target === suite) parts();
    if (event.target !== words) look();
  });
  let waits;
  words.addEventListener("input", () => {
    clearTimeout(waits);
    waits = setTimeout(look, 200);
  });
  parts();
  look();
  warn();
}

function warn() {
  const place = document.getElementById("cut");
  if (!place || data.cut === null) return;
  place.hidden = false;
  place.textContent = data.cut
    ? `There are too many texts for one file: each is shown up to ${data.cut} letters. The records hold them whole.`
    : "There are too many questions for one file: they stand in the records alone.";
}

const chosen = suite => suite === "" ? data.questions : [data.questions[suite]];
const there = (given, at) => given.score[at] !== null || given.text[at] >= 0 || (given.error?.[at] ?? -1) >= 0;
const inLength = seconds => seconds === null ? -1 : LENGTHS.findIndex(([, most]) => seconds <= most);
const holds = (one, at, left, right, words) =>
  [one.prompt[at], one.answer[at], left.text[at], right.text[at]].some(number => number >= 0 && data.texts[number].toLowerCase().includes(words));

function cross(counts) {
  const used = STATES.map((_, at) => at).filter(at => at !== 1 && at !== 3 || counts[at].some(Boolean) || counts.some(row => row[at]));
  const head = make("tr");
  head.append(make("td"), ...used.map(at => make("th", { scope: "col" }, `B ${STATES[at]}`)));
  const table = document.getElementById("crossed");
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...used.map(at => {
    const row = make("tr");
    row.append(make("th", { scope: "row" }, `A ${STATES[at]}`), ...used.map(other => make("td", { class: "n" }, counts[at][other].toLocaleString("en"))));
    return row;
  }));
}

function card(one, at, a, b) {
  const node = document.getElementById("card").content.cloneNode(true);
  const fit = seconds => seconds < 90 ? `${+seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  const about = [one.parts[at].map(number => one.names[number]).join(", "), one.seconds[at] === null ? "" : `video of ${fit(one.seconds[at])}`];
  node.querySelector("h3").textContent = `${data.suites[one.s]}, question ${one.doc[at]}`;
  node.querySelector(".about").textContent = about.filter(Boolean).join(" · ");
  const prompt = node.querySelector(".prompt");
  prompt.textContent = text(one.prompt[at]) ?? "";
  prompt.hidden = one.prompt[at] < 0;
  node.querySelector(".seen").append(...pictures(one, at, a, b));
  const rows = [["right answer", text(one.answer[at]) ?? "-", "", ""]];
  for (const [letter, variant] of [["A", a], ["B", b]]) {
    const given = one.given[variant], score = given.score[at], error = text(given.error?.[at] ?? -1);
    const kind = { 0: "better", 1: "", 2: "worse", 3: "failed" }[state(score)];
    const verdict = state(score) === 1 ? `score ${+score.toFixed(2)}` : ["✓ right", "", "✗ wrong", "error"][state(score)];
    rows.push([`${letter}: ${data.variants[variant]}`, error ?? text(given.text[at]) ?? "-", verdict, kind]);
  }
  node.querySelector("tbody").append(...rows.map(([name, value, verdict, kind]) => {
    const row = make("tr");
    row.append(make("th", { scope: "row" }, name), make("td", { dir: "auto" }, value || "(nothing)"), make("td", { class: kind }, verdict));
    return row;
  }));
  return node;
}

// The sheets of frames that A and B saw; where they saw the same, once.
function pictures(one, at, a, b) {
  if (!one.shown.length) return [];
  const samplings = [...new Set([a, b].map(variant => one.sampling[variant]))];
  const seen = new Map();
  for (const number of samplings) {
    const { folder, sheets } = one.shown[number], who = a === b || samplings.length === 1 ? "" : number === one.sampling[a] ? "A: " : "B: ";
    for (const name of sheets[at]) seen.set(name, { folder, who: seen.has(name) ? "" : who });
  }
  return [...seen].map(([name, { folder, who }]) => picture(name, folder, who));
}

function picture(name, folder, who) {
  const figure = make("figure"), sheet = data.sheets[name];
  if (sheet) {
    const count = sheet.times.length, which = count === sheet.seen ? `the ${count}` : `${count} of the ${sheet.seen}`;
    const said = `${who}${which} frames that were seen, row by row, at ${sheet.times.map(time => +time.toFixed(1)).join(", ")} s`;
    const image = make("img", { alt: said, src: `data:image/jpeg;base64,${sheet.jpg}`, width: sheet.size[0], height: sheet.size[1] });
    figure.append(image, make("figcaption", {}, said));
  } else {
    const link = make("a", { href: `../../${folder}/${name}.jpg` }, "beside the answers");
    figure.append(make("figcaption", {}, `${who}frames: not in this file, but `));
    figure.firstChild.append(link);
  }
  return figure;
}

// What is closed is printed, too.
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach(one => (one.open = one.dataset.printed = true)));
addEventListener("afterprint", () => document.querySelectorAll("details[data-printed]").forEach(one => one.removeAttribute("open")));

document.querySelectorAll("table.sortable").forEach(sortable);
if (document.querySelector("[data-chart]")) charts();
questions();
