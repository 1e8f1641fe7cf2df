// The affect pad: a disc of valence (right is pleasant) and arousal (up is lively). The puck is the
// emotion of the chosen moment; how far it is from the middle is how intense it is. The value is
// the panel's state: {keys: [{t, a, v, r, d, rest, text}], at, seconds}; a drag sends a key that
// has only {t, v, r}, which the server reads as a mixture.
const NAMES = props.names; // [[name, valence, arousal, colour], ...]
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.appendChild(node);
  return node;
};
const root = element.querySelector(".affect-pad");
const svg = make("svg", { viewBox: "-1.36 -1.14 2.86 2.28", class: "pad" }, root);
make("circle", { r: 1, class: "disc" }, svg);
for (const r of [1 / 3, 2 / 3]) make("circle", { r, class: "ring" }, svg);
make("line", { x1: -1, x2: 1, y1: 0, y2: 0, class: "axis" }, svg);
make("line", { x1: 0, x2: 0, y1: -1, y2: 1, class: "axis" }, svg);
for (const [x, y, text, anchor] of [
  [1.28, 0.03, "pleasant", "end"], [-1.28, 0.03, "unpleasant", "start"],
  [0, -1.06, "lively", "middle"], [0, 1.12, "calm", "middle"],
]) make("text", { x, y, "text-anchor": anchor, class: "end" }, svg).textContent = text;
for (const [name, v, a, colour, dx, dy, anchor] of NAMES) {
  const group = make("g", { class: "name", "data-name": name }, svg);
  make("circle", { cx: v, cy: -a, r: 0.1, class: "reach" }, group);
  make("circle", { cx: v, cy: -a, r: 0.035, fill: colour }, group);
  const label = make("text", { x: v + dx, y: -a + dy, "text-anchor": anchor }, group);
  label.textContent = name;
}
const stem = make("line", { x1: 0, y1: 0, class: "stem" }, svg);
const puck = make("circle", {
  r: 0.075, class: "puck", tabindex: 0, role: "slider", "aria-label": "Valence and arousal",
  "aria-valuemin": -1, "aria-valuemax": 1, "aria-roledescription": "point on a disc",
}, svg);
let held = null; // pointer that drags
const key = () => props.value.keys[Math.min(props.value.at, props.value.keys.length - 1)];
const draw = () => {
  const { v, r, text, colour } = key();
  puck.setAttribute("cx", v); puck.setAttribute("cy", -r);
  stem.setAttribute("x2", v); stem.setAttribute("y2", -r);
  puck.style.fill = colour || "var(--body-text-color)";
  puck.setAttribute("aria-valuenow", v.toFixed(2));
  puck.setAttribute("aria-valuetext",
    `${text || "mixture"}: valence ${v.toFixed(2)}, arousal ${r.toFixed(2)}`);
};
// One question at a time: an answer to an older place must not pull the puck back. What is asked
// meanwhile waits; an answer that never comes is given up after a second and a half.
let asked = 0, next = null;
const busy = () => asked && performance.now() - asked < 1500;
const send = (change) => {
  if (busy()) { next = change; sketch(change); return; }
  next = null;
  const state = structuredClone(props.value);
  state.keys[state.at] = { t: state.keys[state.at].t, ...change };
  props.value = state;
  asked = performance.now();
  sketch(change);
  trigger("input");
};
const sketch = ({ v, r }) => {
  puck.setAttribute("cx", v); puck.setAttribute("cy", -r);
  stem.setAttribute("x2", v); stem.setAttribute("y2", -r);
};
const move = (v, r) => {
  const far = Math.hypot(v, r);
  if (far > 1) { v /= far; r /= far; }
  send({ v: Math.round(v * 100) / 100, r: Math.round(r * 100) / 100 });
};
const place = (event) => {
  const point = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(svg.getScreenCTM().inverse());
  return [point.x, -point.y];
};
let waiting = 0;
svg.addEventListener("pointerdown", (event) => {
  const hit = event.target.closest(".name");
  if (hit) {
    // Names that lie close share their reach: the nearest dot is meant, unless a word was clicked.
    const [x, y] = place(event);
    const far = (one) => Math.hypot(one[1] - x, one[2] - y);
    const meant = event.target.tagName === "text" ? hit.dataset.name
      : NAMES.reduce((one, other) => (far(other) < far(one) ? other : one))[0];
    const so_far = Math.hypot(key().v, key().r);
    send({ name: meant, i: so_far > 0.05 ? Math.min(1, key().i || 0.7) : 0.7, v: key().v, r: key().r });
    return;
  }
  held = event.pointerId;
  svg.setPointerCapture(held);
  move(...place(event));
  puck.focus();
});
svg.addEventListener("pointermove", (event) => {
  // Forty times a second is as often as anybody sees; the server is asked no more than that.
  if (event.pointerId !== held || event.timeStamp - waiting < 25) return;
  waiting = event.timeStamp;
  move(...place(event));
});
for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => {
  if (event.pointerId !== held) return;
  held = null;
  if (end === "pointerup") move(...place(event));
  else draw();
});
puck.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.2 : 0.05;
  const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
  if (event.key === "Home") move(0, 0);
  else if (by) move(Number(puck.getAttribute("cx")) + by[0], -Number(puck.getAttribute("cy")) + by[1]);
  else return;
  event.preventDefault();
});
watch("value", () => {
  if (!key() || key().d === undefined) return; // our own question, no answer yet
  asked = 0;
  if (next) send(next);
  else if (held === null) draw();
});
draw();
