// Twelve sliders, one a core emotion, of the chosen moment. Their sum is at most 1: where one is
// raised above what is left, the others give way in proportion.
const NAMES = props.names; // [[name, valence, arousal, colour], ...]
const root = element.querySelector(".mixture");
const rows = {};
for (const [name, , , colour] of NAMES) {
  const label = document.createElement("label");
  label.style.setProperty("--c", colour);
  const text = document.createElement("span");
  text.textContent = name;
  const input = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: 1, step: 0.05,
  });
  input.dataset.name = name;
  const number = document.createElement("output");
  label.append(text, input, number);
  root.append(label);
  rows[name] = { input, number };
}
const total = document.createElement("p");
total.className = "total";
root.append(total);
const key = () => props.value.keys[Math.min(props.value.at, props.value.keys.length - 1)];
const show = (a) => {
  let sum = 0;
  for (const [name, { input, number }] of Object.entries(rows)) {
    const x = a[name] || 0;
    sum += x;
    if (document.activeElement !== input || Math.abs(Number(input.value) - x) > 0.026) input.value = x;
    input.style.setProperty("--at", `${100 * x}%`);
    number.textContent = x ? x.toFixed(2).replace(/^0/, "") : "";
  }
  total.textContent = sum > 0.995
    ? "Full: raising one lowers the others." : `${Math.round(100 * sum)} % felt, the rest is neutral.`;
};
// One question at a time, as the pad does: `mine` is what the sliders say meanwhile.
let asked = 0, mine = null;
const send = () => {
  const state = structuredClone(props.value);
  const { t, v, r } = key();
  state.keys[state.at] = { t, v, r, a: mine };
  props.value = state;
  mine = null;
  asked = performance.now();
  trigger("input");
};
root.addEventListener("input", (event) => {
  const name = event.target.dataset.name;
  const a = { ...(mine || key().a || {}) };
  a[name] = Number(event.target.value);
  const others = Object.keys(a).filter((one) => one !== name);
  const sum = others.reduce((so_far, one) => so_far + a[one], 0);
  const room = 1 - a[name];
  if (sum > room) for (const one of others) a[one] = sum ? (a[one] * room) / sum : 0;
  show(a);
  mine = a;
  event.stopPropagation();
  if (!asked || performance.now() - asked > 1500) send();
});
root.addEventListener("change", (event) => event.stopPropagation());
watch("value", () => {
  if (!key() || key().d === undefined) return; // our own question, no answer yet
  asked = 0;
  if (mine) send();
  else show(key().a || {});
});
show(key().a || {});
