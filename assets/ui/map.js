// A map of takes: a dot each at its valence and arousal. A click or Enter chooses one.
const root = element.querySelector(".map");
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.appendChild(node);
  return node;
};
const svg = make("svg", { viewBox: "-1.36 -1.14 2.86 2.28", class: "pad", role: "group",
  "aria-label": "Takes by valence and arousal" }, root);
const draw = () => {
  svg.replaceChildren();
  make("circle", { r: 1, class: "disc" }, svg);
  make("line", { x1: -1, x2: 1, y1: 0, y2: 0, class: "axis" }, svg);
  make("line", { x1: 0, x2: 0, y1: -1, y2: 1, class: "axis" }, svg);
  for (const [x, y, text, anchor] of [
    [1.28, 0.03, "pleasant", "end"], [-1.28, 0.03, "unpleasant", "start"],
    [0, -1.06, "lively", "middle"], [0, 1.12, "calm", "middle"],
  ]) make("text", { x, y, "text-anchor": anchor, class: "end" }, svg).textContent = text;
  (props.value.dots || []).forEach(({ v, r, colour, label }, index) => {
    const dot = make("circle", { cx: v, cy: -r, r: 0.045, fill: colour, class: "dot",
      "data-index": index, tabindex: index < 60 ? 0 : -1, role: "button", "aria-label": label }, svg);
    make("title", {}, dot).textContent = label;
  });
};
const choose = (event) => {
  const dot = event.target.closest(".dot");
  if (!dot) return;
  props.value = { ...props.value, chosen: Number(dot.dataset.index) };
  trigger("input");
};
svg.addEventListener("click", choose);
svg.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(event); });
watch("value", draw);
draw();
