// The page around the points: legend, search, selection, and the row that was clicked.

const MOST_LISTED = 100;
const $ = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en");
const countRows = (n) => `${count(n)} ${n === 1 ? "row" : "rows"}`;

// All that comes from the data is set as text or as an attribute, never as HTML.
function make(tag, props = {}, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

function notice(message) {
  $("notice").textContent = message;
  $("notice").hidden = false;
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    return notice("This map needs a browser of 2023 or later.");
  }
  const data = await readData();
  const { n, codes } = data;
  $("query").placeholder = `Search ${countRows(n)}`;
  $("canvas").setAttribute("aria-label", `Map of ${countRows(n)}`);
  if (n === 0) return notice("This map has no rows.");
  let map;
  try {
    map = createMap($("canvas"), data);
  } catch (error) {
    console.warn(error);
    return notice("This map needs WebGL, which this browser does not offer or has switched off.");
  }

  const hidden = new Set(); // classes
  let chosen = []; // rows found or in the lasso
  let how = ""; // they were chosen
  let open = -1; // the row that was clicked
  let query = "";

  const isShown = (row) => hidden.size === 0 || !hidden.has(codes[row]);
  const colourOf = (row) => (codes === null ? data.colours[0] : data.colours[codes[row]]) ?? "var(--grey)";

  function dot(row) {
    const element = make("span", { className: "dot" });
    element.style.background = colourOf(row);
    return element;
  }

  function picture(row) {
    const image = make("img", { src: `data:${data.pictureType};base64,${data.pictureOf(row)}`, alt: "" });
    image.onload = () => image.classList.toggle("small", image.naturalWidth <= 48);
    return image;
  }

  // The text with what was searched for marked.
  function marked(text) {
    const parts = [];
    const lower = text.toLowerCase();
    let from = 0;
    // Where lower case has another length, places in it are not places in the text.
    for (let at = -1; query && lower.length === text.length && (at = lower.indexOf(query, from)) >= 0; ) {
      parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + query.length)));
      from = at + query.length;
    }
    return [...parts, text.slice(from)];
  }

  // A row's text from its beginning, or from shortly before what was searched for.
  function excerpt(row, isOfMatch = false) {
    const text = data.textOf(row);
    const at = isOfMatch ? text.toLowerCase().indexOf(query) : -1;
    const from = at > 0 ? Math.max(0, text.lastIndexOf(" ", at - 12) + 1, at - 24) : 0;
    return (from ? "\u2026 " : "") + text.slice(from, from + 200) || data.classOf(row);
  }

  function describe(row) {
    const of = make("div", { className: "of" });
    if (data.kind !== "none") of.append(dot(row));
    of.append(make("span", { className: "what", dir: "auto" }, data.classOf(row)));
    of.append(make("span", {}, `row ${data.positionOf(row)}`));
    const parts = [of];
    if (data.pictureOf(row) !== null) parts.push(picture(row));
    if (data.soundOf(row) !== null) {
      const src = `data:${data.soundType};base64,${data.soundOf(row)}`;
      const label = `Sound of row ${data.positionOf(row)}`;
      parts.push(make("audio", { src, controls: true, preload: "metadata", ariaLabel: label }));
    }
    if (data.textOf(row)) parts.push(make("p", { className: "text", dir: "auto" }, ...marked(data.textOf(row))));
    return parts;
  }

  function list(rows) {
    const items = rows.slice(0, MOST_LISTED).map((row) => {
      const button = make("button", { type: "button", onclick: () => openRow(row, true) });
      if (data.pictureOf(row) !== null) button.append(picture(row));
      else if (data.kind !== "none") button.append(dot(row));
      button.append(make("span", { className: "says" }, ...marked(excerpt(row))));
      button.append(make("span", { className: "at" }, String(data.positionOf(row))));
      return make("li", {}, button);
    });
    const more = rows.length - items.length;
    if (more > 0) items.push(make("li", { className: "more" }, `and ${count(more)} more`));
    return items;
  }

  // Where the beginning of a row's text does not show what was searched for, show a later part.
  function bringMatchesIntoSight(rows) {
    if (query === "") return;
    const items = [...$("found").querySelectorAll(".says")];
    const areOut = items.map((says) => {
      const mark = says.querySelector("mark")?.getBoundingClientRect();
      const room = says.getBoundingClientRect();
      const dots = says.scrollWidth > says.clientWidth ? 16 : 0;
      return !mark || mark.left < room.left || mark.right > room.right - dots;
    });
    items.forEach((says, i) => areOut[i] && says.replaceChildren(...marked(excerpt(rows[i], true))));
  }

  // Lines from the open row to its neighbours, and rings around what is open or hovered.
  function drawMarks() {
    const shapes = [];
    const shape = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      shapes.push(element);
    };
    if (open >= 0) {
      const [x, y] = map.screen(open);
      for (const each of data.neighboursOf(open)) {
        const [cx, cy] = map.screen(each);
        shape("line", { x1: x, y1: y, x2: cx, y2: cy });
        shape("circle", { cx, cy, r: 6, class: "near" });
      }
      shape("circle", { cx: x, cy: y, r: 9, class: "open" });
    }
    if (hovered >= 0 && hovered !== open) {
      const [cx, cy] = map.screen(hovered);
      shape("circle", { cx, cy, r: 7 });
    }
    $("marks").replaceChildren(...shapes);
  }

  // What hovers: a card by its point. One with a player stays while the pointer is on it.
  let hovered = -1;
  let leaving = 0;
  function hover(row) {
    hovered = row;
    $("map").classList.toggle("over", row >= 0);
    drawMarks();
    clearTimeout(leaving);
    const card = $("card");
    if (row < 0) {
      leaving = setTimeout(() => (card.hidden = true), data.hasSounds ? 400 : 0);
      return;
    }
    card.classList.toggle("sounds", data.hasSounds);
    card.replaceChildren(...describe(row));
    card.hidden = false;
    placeCard(card, ...map.screen(row));
    card.querySelector("img")?.addEventListener("load", () => placeCard(card, ...map.screen(row)));
  }

  function placeCard(card, x, y) {
    const { clientWidth: width, clientHeight: height } = $("map");
    const { offsetWidth: w, offsetHeight: h } = card;
    const gap = 14;
    const fitting = (at, room, size) => clamp(at, 8, Math.max(8, room - size - 8));
    let [left, top] = [x + gap + w <= width - 8 ? x + gap : x - gap - w, fitting(y - h / 2, height, h)];
    if (left < 8) [left, top] = [fitting(x - w / 2, width, w), y + gap + h <= height - 8 ? y + gap : y - gap - h];
    card.style.left = `${left}px`;
    card.style.top = `${fitting(top, height, h)}px`;
  }
  $("card").addEventListener("mouseenter", () => clearTimeout(leaving));
  $("card").addEventListener("mouseleave", () => hovered < 0 && ($("card").hidden = true));

  function openRow(row, isFromList = false) {
    open = row;
    $("row").hidden = row < 0;
    $("row-card").replaceChildren(...(row < 0 ? [] : describe(row)));
    const near = row < 0 ? [] : data.neighboursOf(row);
    $("near").hidden = near.length === 0;
    $("near-head").textContent = `Nearest rows by their vectors (${data.metric})`;
    $("near-rows").replaceChildren(...list(near));
    if (row >= 0) {
      $("card").hidden = true;
      document.querySelector("aside").scrollTop = 0;
      if (isFromList) {
        map.bringIntoView(row);
        $("row").querySelector("button").focus({ preventScroll: true });
      }
      // A browser may refuse until the user has clicked; the player is there all the same.
      $("row-card").querySelector("audio")?.play().catch(() => {});
    }
    drawMarks();
  }

  function choose(rows, reason) {
    [chosen, how] = [rows, reason];
    if (how !== "" && open >= 0) openRow(-1);
    showChosen();
  }

  function showChosen() {
    const rows = chosen.filter(isShown);
    map.select(rows);
    $("selection").hidden = how === "";
    $("copied").hidden = true;
    $("copy").textContent = "Copy indices";
    $("copy").disabled = rows.length === 0;
    const nHidden = chosen.length - rows.length;
    const more = nHidden ? `, ${count(nHidden)} more in hidden classes` : "";
    $("status").textContent = how === "" ? "" : `${countRows(rows.length)} ${how}${more}`;
    $("found").replaceChildren(...list(rows));
    bringMatchesIntoSight(rows);
  }

  async function copyChosen() {
    const text = `[${chosen.filter(isShown).map(data.positionOf).join(", ")}]`;
    try {
      await navigator.clipboard.writeText(text);
      $("copy").textContent = "Copied";
      setTimeout(() => ($("copy").textContent = "Copy indices"), 2000);
    } catch { // not allowed here: the user copies them
      $("copied").value = text;
      $("copied").hidden = false;
      $("copied").select();
    }
  }

  let lowered = null;
  function search() {
    query = $("query").value.trim().toLowerCase();
    if (query === "") return choose([], "");
    lowered ??= Array.from({ length: n }, (_, row) =>
      `${data.textOf(row)}\n${data.kind === "classes" ? data.classOf(row) : ""}`.toLowerCase());
    const rows = [];
    for (let row = 0; row < n; row++) {
      if (lowered[row].includes(query) || String(data.positionOf(row)) === query) rows.push(row);
    }
    choose(rows, "found");
  }

  function clear() {
    $("query").value = query = "";
    choose([], "");
  }

  let typing = 0;
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  $("query").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 150);
  });
  $("copy").addEventListener("click", copyChosen);
  $("clear").addEventListener("click", clear);
  $("close").addEventListener("click", () => openRow(-1));

  function setLasso(isOn) {
    map.setLasso(isOn);
    $("map").classList.toggle("lasso", isOn);
    $("lasso").setAttribute("aria-pressed", String(isOn));
  }
  $("lasso").addEventListener("click", () => setLasso($("lasso").getAttribute("aria-pressed") !== "true"));
  $("closer").addEventListener("click", () => map.zoom(1.6));
  $("farther").addEventListener("click", () => map.zoom(1 / 1.6));
  $("whole").addEventListener("click", () => map.whole());

  const keys = {
    ArrowLeft: () => map.pan(-60, 0),
    ArrowRight: () => map.pan(60, 0),
    ArrowUp: () => map.pan(0, -60),
    ArrowDown: () => map.pan(0, 60),
    "+": () => map.zoom(1.6),
    "=": () => map.zoom(1.6),
    "-": () => map.zoom(1 / 1.6),
    0: () => map.whole(),
    Enter: () => openRow(map.middle(isShown)),
  };
  $("canvas").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  window.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (open >= 0) openRow(-1);
    else if (how !== "") clear();
    else setLasso(false);
  });

  map.on("hover", hover);
  map.on("pick", (row) => openRow(row));
  map.on("lasso", (rows) => {
    $("query").value = query = "";
    choose(rows, "selected");
    setLasso(false);
  });
  map.on("view", () => {
    $("card").hidden = true;
    drawMarks();
  });

  function toggleClasses() {
    for (const box of $("classes").querySelectorAll("input")) {
      const code = Number(box.value);
      if (box.checked) hidden.delete(code);
      else hidden.add(code);
    }
    if (open >= 0 && !isShown(open)) openRow(-1);
    map.show(hidden.size ? Array.from({ length: n }, (_, row) => row).filter(isShown) : null);
    showChosen();
  }

  if (data.kind === "classes") showClasses(data, toggleClasses);
  if (data.kind === "numbers") showScale(data);
  await map.drawn;
}

function showClasses(data, toggle) {
  const counts = new Uint32Array(data.names.length);
  for (const code of data.codes) counts[code]++;
  const items = data.names.map((name, code) => {
    const box = make("input", { type: "checkbox", checked: true, value: String(code) });
    const dot = make("span", { className: "dot" });
    if (data.colours[code] !== null) dot.style.background = data.colours[code];
    const named = make("span", { className: "name", dir: "auto" }, name);
    const of = make("span", { className: "count" }, count(counts[code]));
    return make("li", {}, make("label", {}, box, dot, named, of));
  });
  $("classes").replaceChildren(...items);
  $("classes").addEventListener("change", toggle);
  const setAll = (isOn) => {
    for (const box of $("classes").querySelectorAll("input")) box.checked = isOn;
    toggle();
  };
  $("all").addEventListener("click", () => setAll(true));
  $("none").addEventListener("click", () => setAll(false));
  $("legend").hidden = false;
}

// Round numbers from low to high: as few as possible, but three.
function roundTicks(low, high) {
  if (low === high) return [low];
  const power = 10 ** Math.floor(Math.log10(high - low));
  for (const each of [1, 0.5, 0.2, 0.1]) {
    const step = each * power;
    const first = Math.ceil(low / step);
    const ticks = Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
    if (ticks.length >= 3) return ticks;
  }
  return [low, high];
}

function showScale({ colours, low, high, nMissing }) {
  const known = colours.filter((colour) => colour !== null);
  $("bar").style.background = `linear-gradient(to right, ${known.join(", ")})`;
  let ticks = roundTicks(low, high).map((tick) => [tick, short(tick)]);
  if (ticks.reduce((n, [, text]) => n + text.length + 2, 0) > 36) ticks = ticks.filter((_, i) => i % 2 === 0);
  for (const [tick, text] of ticks) {
    const label = make("span", {}, text);
    label.style.left = `${high > low ? ((tick - low) / (high - low)) * 100 : 50}%`;
    $("ticks").append(label);
  }
  $("legend-head").textContent = nMissing ? `Numbers (${countRows(nMissing)} without, in grey)` : "Numbers";
  $("all").hidden = $("none").hidden = $("classes").hidden = true;
  $("scale").hidden = false;
  $("legend").hidden = false;
}

await start();
document.documentElement.dataset.ready = "true";
