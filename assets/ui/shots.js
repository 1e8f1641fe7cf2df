// The shots of a scene as rows. What is changed here is asked of the server, which changes the text;
// its answer has `told`. One question at a time: changes made meanwhile are asked afterwards.
const root = element.querySelector(".shots");
const node = (tag, attributes, parent) => {
  const one = Object.assign(document.createElement(tag), attributes);
  if (parent) parent.append(one);
  return one;
};
const copy = (value) => (value?.rows || []).map((row) => ({ ...row }));
let rows = copy(props.value), sent = null, asked = 0, turn = 0, later = false, focus = null, drawing = false;
const head = node("div", { className: "shot head" }, root);
for (const text of ["", "What is seen", "Seconds", "Comes in by", ""]) node("span", { textContent: text }, head);
const list = node("div", { className: "list" }, root);
const foot = node("div", { className: "foot" }, root);
const add = node("button", { type: "button", textContent: "Add a shot" }, foot);
const sum = node("span", {}, foot);
const why = node("p", { className: "why", role: "alert" }, root);
const send = () => {
  if (sent && performance.now() - asked < 3000) { later = true; return; }
  sent = rows.slice();
  asked = performance.now();
  later = false;
  why.textContent = "";
  turn += 1;
  props.value = { rows: copy({ rows }), of: props.value.of, ways: props.value.ways, turn };
  trigger("input");
};
const told = () => {
  const value = props.value, before = sent;
  if (!value?.told) return; // our own question
  if (sent && value.turn !== turn && performance.now() - asked < 3000) return; // to an earlier one
  sent = null;
  why.textContent = value.why || "";
  if (later && before && !value.why) {
    before.forEach((row, index) => { row.n = index; });
    send();
    return;
  }
  later = false;
  rows = copy(value);
  draw();
};
const field = (tag, index, name, label, attributes, parent) => {
  const one = node(tag, attributes, parent);
  one.dataset.at = `${index}.${name}`;
  one.setAttribute("aria-label", `Shot ${index + 1}: ${label}`);
  return one;
};
const button = (index, name, sign, label, disabled, parent) =>
  field("button", index, name, label, { type: "button", textContent: sign, disabled, title: label }, parent);
const draw = () => {
  const at_hand = list.contains(document.activeElement) ? document.activeElement : null;
  const held = at_hand?.dataset.at, typed = at_hand?.value;
  drawing = true;
  list.replaceChildren();
  rows.forEach((row, index) => {
    const line = node("div", { className: "shot" }, list);
    node("span", { className: "n", textContent: index + 1 }, line);
    if (row.kind === "prompt")
      field("input", index, "what", "what is seen", { type: "text", value: row.what, maxLength: 2000 }, line);
    else node("span", { className: "what", textContent: `${row.kind}: ${row.what}`, title: row.what }, line);
    field("input", index, "seconds", "seconds", {
      type: "number", min: 0.25, max: 300, step: 0.1, value: row.seconds ?? "", disabled: row.timed,
      placeholder: "open", inputMode: "decimal", title: "seconds; open: as long as what is said, or a share of what is left",
    }, line);
    const way = field("select", index, "way", "how it comes in", { title: "how it comes in" }, line);
    for (const name of props.value.ways || []) node("option", { value: name, textContent: name }, way);
    way.value = row.way;
    const tools = node("span", { className: "tools" }, line);
    button(index, "up", "↑", "earlier", !index, tools);
    button(index, "down", "↓", "later", index + 1 === rows.length, tools);
    button(index, "remove", "×", "remove", rows.length < 2, tools);
  });
  const known = rows.reduce((so_far, row) => so_far + (row.seconds || 0), 0);
  const open = rows.filter((row) => row.seconds === null).length;
  sum.textContent = `${Math.round(10 * known) / 10} s${open ? `, and ${open} left open` : ""}`;
  const wanted = focus || held;
  const one = wanted && list.querySelector(`[data-at="${wanted}"]`);
  if (one) {
    if (!focus && one.tagName === "INPUT") one.value = typed; // somebody is at it
    one.focus();
    if (focus?.endsWith("what")) one.select();
  }
  focus = null;
  drawing = false;
};
root.addEventListener("input", (event) => event.stopPropagation());
const changed = (event) => {
  event.stopPropagation();
  const [index, name] = (event.target.dataset.at || "").split(".");
  const row = rows[Number(index)], text = event.target.value;
  if (drawing || !row || !(name in row)) return;
  const said = name === "seconds" ? (text === "" ? null : Number(text)) : text;
  if (said === row[name]) return;
  row[name] = said;
  send();
};
root.addEventListener("change", changed);
root.addEventListener("focusout", changed);
root.addEventListener("click", (event) => {
  const [at, name] = (event.target.dataset.at || "").split("."), index = Number(at);
  if (event.target === add) {
    rows.push({ n: null, kind: "prompt", what: "the sky", seconds: 3, way: "cut", timed: false });
    focus = `${rows.length - 1}.what`;
  } else if (name === "remove" && rows.length > 1) {
    rows.splice(index, 1);
    focus = `${Math.min(index, rows.length - 1)}.remove`;
  } else if (name === "up" || name === "down") {
    const to = index + (name === "up" ? -1 : 1);
    if (!rows[to]) return;
    [rows[index], rows[to]] = [rows[to], rows[index]];
    focus = `${to}.${name}`;
  } else return;
  draw();
  send();
});
watch("value", told);
told();
