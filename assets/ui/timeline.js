// The timeline: moments on a line of seconds, each with an emotion. A click on the line adds one,
// a drag moves it, Delete removes it, arrows move it; the chosen one is what pad and sliders show.
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.appendChild(node);
  return node;
};
const WIDTH = 400, HEIGHT = 96, LEFT = 10, RIGHT = 390, BASE = 74, TOP = 8;
const root = element.querySelector(".timeline");
const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group",
  "aria-label": "Emotion over time" }, root);
const state = () => props.value;
const x_of = (t) => LEFT + ((RIGHT - LEFT) * t) / state().seconds;
const number = (x) => String(Math.round(x * 10) / 10);
let held = null, moved = false, focus = false;
const send = (next) => { props.value = next; draw(); trigger("input"); };
const chosen = (index) => { const next = structuredClone(state()); next.at = index; return next; };
const remove = (index) => {
  if (state().keys.length < 2) return;
  const next = structuredClone(state());
  next.keys.splice(index, 1);
  next.at = Math.max(0, Math.min(index, next.keys.length - 1));
  focus = true;
  send(next);
};
const moved_to = (index, t) => {
  const next = structuredClone(state());
  const keys = next.keys;
  const low = index ? keys[index - 1].t + 0.1 : 0;
  const high = index + 1 < keys.length ? keys[index + 1].t - 0.1 : next.seconds;
  keys[index].t = Math.round(10 * Math.max(low, Math.min(high, t))) / 10;
  next.at = index;
  return next;
};
const second_of = (event) => {
  const point = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(svg.getScreenCTM().inverse());
  return (Math.max(0, Math.min(1, (point.x - LEFT) / (RIGHT - LEFT)))) * state().seconds;
};
const draw = () => {
  focus ||= svg.contains(document.activeElement); // what is drawn anew keeps the keyboard
  svg.replaceChildren();
  make("rect", { x: LEFT, y: TOP, width: RIGHT - LEFT, height: BASE - TOP, class: "field" }, svg);
  for (const { colour, points } of state().curves || []) {
    const line = points.map(([t, x]) => `${x_of(Math.min(t, state().seconds)).toFixed(1)},${(BASE - (BASE - TOP) * x).toFixed(1)}`);
    make("polyline", { points: line.join(" "), style: `stroke:${colour}`, class: "curve" }, svg);
  }
  const unit = [0.5, 1, 2, 5, 10, 15, 30, 60, 120].find((one) => state().seconds / one <= 8) || 300;
  for (let t = 0; t <= state().seconds + 1e-6; t += unit) {
    make("line", { x1: x_of(t), x2: x_of(t), y1: BASE, y2: BASE + 4, class: "tick" }, svg);
    make("text", { x: x_of(t), y: BASE + 17, "text-anchor": t ? "middle" : "start", class: "second" },
      svg).textContent = `${number(t)} s`;
  }
  state().keys.forEach((one, index) => {
    const high = BASE - (BASE - TOP) * Math.min(1, one.i ?? 0.5);
    const group = make("g", {
      class: index === state().at ? "key chosen" : "key", "data-index": index, tabindex: 0,
      role: "slider", "aria-label": `Moment ${index + 1} of ${state().keys.length}`,
      "aria-valuemin": 0, "aria-valuemax": state().seconds, "aria-valuenow": one.t,
      "aria-valuetext": `${number(one.t)} seconds, ${one.text || "mixture"}`,
    }, svg);
    make("line", { x1: x_of(one.t), x2: x_of(one.t), y1: TOP, y2: BASE }, group);
    make("circle", { cx: x_of(one.t), cy: high, r: 13, class: "reach" }, group);
    make("circle", { cx: x_of(one.t), cy: high, r: 6.5, style: `fill:${one.colour || "gray"}` }, group);
  });
  if (focus) { focus = false; svg.querySelector(".chosen")?.focus(); }
};
svg.addEventListener("pointerdown", (event) => {
  const key = event.target.closest(".key");
  svg.setPointerCapture(event.pointerId);
  event.preventDefault();
  if (key) {
    held = Number(key.dataset.index);
    moved = false;
    focus = true;
    props.value = chosen(held);
    draw();
    return;
  }
  if (state().keys.length >= 32) return;
  const t = Math.round(10 * second_of(event)) / 10;
  if (state().keys.some((one) => Math.abs(one.t - t) < 0.1)) return;
  const next = structuredClone(state());
  const index = next.keys.filter((one) => one.t < t).length;
  next.keys.splice(index, 0, { t, between: true });
  next.at = index;
  focus = true;
  trigger_added(next);
});
const trigger_added = (next) => { props.value = next; trigger("input"); };
svg.addEventListener("pointermove", (event) => {
  if (held === null) return;
  const next = moved_to(held, second_of(event));
  if (next.keys[held].t === state().keys[held].t) return;
  moved = true;
  props.value = next;
  draw();
});
for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => {
  if (held === null) return;
  held = null;
  trigger("input");
});
svg.addEventListener("keydown", (event) => {
  const key = event.target.closest(".key");
  if (!key) return;
  const index = Number(key.dataset.index);
  const step = event.shiftKey ? 1 : 0.1;
  if (event.key === "Delete" || event.key === "Backspace") remove(index);
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    focus = true;
    const by = event.key === "ArrowLeft" ? -step : step;
    send(moved_to(index, state().keys[index].t + by));
  } else if (event.key === "Enter" || event.key === " ") { focus = true; send(chosen(index)); }
  else return;
  event.preventDefault();
});
watch("value", () => { if (held === null) draw(); });
element.addEventListener("click", (event) => {
  if (event.target.dataset.do === "remove") remove(state().at);
});
draw();
