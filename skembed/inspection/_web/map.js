// The points: drawn by regl-scatterplot, moved by mouse, fingers and keys.

const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const FINGERS = matchMedia("(pointer: coarse)");
const DRAG = 5; // pixels that make a click a drag

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const styled = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function createMap(canvas, data) {
  const { n, places } = data;
  const size = clamp(18 * n ** -0.17, 2.5, 9);
  const opacity = clamp(1.2 - 0.13 * Math.log10(n), 0.5, 0.9);
  const reach = [0, 1].map((axis) => {
    let most = 0;
    for (let i = axis; i < places.length; i += 2) most = Math.max(most, Math.abs(places[i]));
    return most;
  });
  // Several classes may be grey: the library gets each colour once.
  const shades = [...new Set(data.colours)];
  const shadeOf = data.colours.map((colour) => shades.indexOf(colour));

  const plot = reglScatterplot.create({
    canvas,
    syncEvents: true,
    spatialIndexUseWorker: false,
    deselectOnDblClick: false,
    deselectOnEscape: false,
    actionKeyMap: { lasso: "shift" },
    colorBy: shades.length > 1 ? "category" : null,
    opacity,
    opacityInactiveScale: 0.25,
    antiAliasing: 1,
    pointSizeMouseDetection: FINGERS.matches ? 16 : "auto",
    pointSizeSelected: 2,
    pointOutlineWidth: 0,
    lassoMinDist: DRAG,
  });
  const camera = () => plot.get("camera");
  let isWhole = true;
  let hovered = -1;
  let selected = [];
  const listeners = { hover: [], pick: [], lasso: [], view: [] };
  const tell = (event, ...what) => listeners[event].forEach((listen) => listen(...what));

  function paint() {
    const colours = shades.map((colour) => colour ?? styled("--grey"));
    const paper = styled("--paper");
    plot.set({ backgroundColor: paper, lassoColor: styled("--accent") });
    plot.set({ pointColor: colours, pointColorActive: colours, pointColorHover: colours });
  }

  // How far the camera stands away when the whole map is in view.
  function fit() {
    const aspect = canvas.clientWidth / canvas.clientHeight;
    return Math.max(reach[1], reach[0] / aspect, 0.1) * 1.06;
  }

  function resize() {
    const scale = 1 / fit();
    plot.set({ pointSize: size / (scale > 1 ? Math.asinh(scale) / Math.asinh(1) : scale) });
    camera().setScaleBounds([scale / 4, scale * 2000]);
    if (isWhole) plot.zoomToLocation([0, 0], fit());
    else plot.redraw();
    requestAnimationFrame(() => tell("view"));
  }

  function glide(target, distance) {
    const transition = !STILL.matches;
    plot.zoomToLocation(target, distance, { transition, transitionDuration: 250 });
  }

  function zoom(factor) {
    isWhole = false;
    glide([...camera().target], camera().distance[0] / factor);
  }

  function pan(right, down) {
    isWhole = false;
    const { clientWidth: width, clientHeight: height } = canvas;
    camera().pan([(-2 * right) / height, (2 * down) / height]); // half a height is 1, either way
    plot.redraw();
  }

  function pinch(factor, x, y) {
    isWhole = false;
    const { clientWidth: width, clientHeight: height } = canvas;
    camera().scale(factor, [(2 * x - width) / height, 1 - (2 * y) / height]);
    plot.redraw();
  }

  function whole() {
    isWhole = true;
    glide([0, 0], fit());
  }

  function select(rows) {
    selected = rows;
    if (rows.length) plot.select([...rows], { preventEvent: true });
    else plot.deselect({ preventEvent: true });
  }

  // The row that is nearest to the middle of the view, of those that are shown.
  function middle(isShown) {
    const [x, y] = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    let [best, least] = [-1, Infinity];
    for (let i = 0; i < n; i++) {
      if (!isShown(i)) continue;
      const [px, py] = plot.getScreenPosition(i);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  function bringIntoView(row) {
    const [x, y] = plot.getScreenPosition(row);
    const margin = 24;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (x >= margin && y >= margin && x <= width - margin && y <= height - margin) return;
    isWhole = false;
    glide([places[2 * row], places[2 * row + 1]], camera().distance[0]);
  }

  plot.subscribe("pointover", (row) => tell("hover", (hovered = row)));
  plot.subscribe("pointout", () => tell("hover", (hovered = -1)));
  plot.subscribe("lassoStart", () => plot.hover(-1)); // what it is over is of no interest
  plot.subscribe("lassoEnd", () => tell("lasso", [...plot.get("selectedPoints")].sort((a, b) => a - b)));
  plot.subscribe("view", () => tell("view"));
  canvas.addEventListener("wheel", () => (isWhole = false), { passive: true });
  DARK.addEventListener("change", paint);
  new ResizeObserver(resize).observe(canvas);

  // The library selects what is clicked; here a click opens a row and the selection stays.
  let start = [0, 0];
  let isDrag = false;
  canvas.addEventListener("pointerdown", (event) => {
    [start, isDrag] = [[event.clientX, event.clientY], false];
  });
  window.addEventListener("pointermove", (event) => {
    if (!event.buttons || isDrag) return;
    isDrag = Math.hypot(event.clientX - start[0], event.clientY - start[1]) >= DRAG;
    if (isDrag) isWhole = false;
  });
  canvas.addEventListener("click", () => {
    select(selected);
    if (!isDrag) tell("pick", hovered);
  });

  addFingers(canvas, {
    pan,
    pinch,
    isLasso: () => plot.get("mouseMode") === "lasso",
    // Else the library takes the way from where the mouse was last for a drag.
    hold: (isHeld) => plot.set({ cameraIsFixed: isHeld }),
  });

  paint();
  resize();
  if (shades.includes(null) && shades.length > 1) {
    // Grey lies below the colours.
    const isGrey = (row) => data.colours[data.codes[row]] === null;
    const rows = Array.from({ length: n }, (_, row) => row);
    plot.set({ pointOrder: [...rows.filter(isGrey), ...rows.filter((row) => !isGrey(row))] });
  }
  const z = data.codes === null ? new Float32Array(n) : Float32Array.from(data.codes, (code) => shadeOf[code]);
  const x = places.filter((_, i) => i % 2 === 0);
  const y = places.filter((_, i) => i % 2 === 1);
  const drawn = plot.draw({ x, y, z }, { zDataType: "categorical" });

  return {
    drawn,
    on: (event, listen) => listeners[event].push(listen),
    select,
    show: (rows) => (rows === null ? plot.unfilter({ preventEvent: true }) : plot.filter(rows, { preventEvent: true })),
    screen: (row) => plot.getScreenPosition(row),
    setLasso: (isOn) => plot.set({ mouseMode: isOn ? "lasso" : "panZoom" }),
    zoom,
    pan,
    whole,
    middle,
    bringIntoView,
  };
}

// The library knows mice only: one finger pans, or draws the lasso; two zoom.
function addFingers(canvas, { pan, pinch, isLasso, hold }) {
  const fingers = new Map();
  let isDrawing = false;

  const mouse = (type, { clientX, clientY }, buttons) =>
    canvas.dispatchEvent(new MouseEvent(type, { clientX, clientY, buttons, bubbles: true, cancelable: true }));

  function drawNoMore(event) {
    if (!isDrawing) return;
    isDrawing = false;
    hold(false);
    mouse("mouseup", event, 0);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") return;
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    if (fingers.size === 1 && isLasso()) {
      isDrawing = true;
      hold(true);
      mouse("mouseenter", event, 0);
      mouse("mousemove", event, 0);
      mouse("mousedown", event, 1);
    } else drawNoMore(event);
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (before === undefined) return;
    if (isDrawing) mouse("mousemove", event, 1);
    else if (fingers.size === 1) pan(before.clientX - event.clientX, before.clientY - event.clientY);
    else if (fingers.size === 2) {
      const [other] = [...fingers].find(([id]) => id !== event.pointerId).slice(1);
      const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
      const { left, top } = canvas.getBoundingClientRect();
      const [x, y] = [(event.clientX + other.clientX) / 2 - left, (event.clientY + other.clientY) / 2 - top];
      pan((before.clientX - event.clientX) / 2, (before.clientY - event.clientY) / 2);
      pinch(apart(event) / Math.max(apart(before), 1), x, y);
    }
    fingers.set(event.pointerId, event);
  });

  for (const type of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(type, (event) => {
      if (fingers.delete(event.pointerId)) drawNoMore(event);
    });
  }
}
