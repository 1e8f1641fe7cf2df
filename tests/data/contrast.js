// Texts that are seen with less contrast than WCAG 2.2 AA asks (4.5 to 1, large ones 3 to 1), each
// with its contrast. Pictures behind words, and what is disabled, are left out.
() => {
  const channel = (x) => {
    x /= 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  };
  const light = ([r, g, b]) =>
    0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const read = (text) => {
    const numbers = (text.startsWith("rgb") ? text : "0 0 0 0").match(/[\d.]+/g).map(Number);
    return numbers.length > 3 ? numbers : [...numbers, 1];
  };
  const over = (front, back) => {
    const rest = 1 - front[3];
    return [0, 1, 2].map((k) => front[k] + back[k] * back[3] * rest)
      .concat(front[3] + back[3] * rest);
  };
  const behind = (node) => {
    let back = [0, 0, 0, 0];
    for (let one = node; one && back[3] < 0.99; one = one.parentElement)
      back = over(back, read(getComputedStyle(one).backgroundColor));
    const base = document.body.classList.contains("dark") ? 11 : 255;
    return over(back, [base, base, base, 1]);
  };
  const low = new Set();
  const left_out = "[disabled], [aria-disabled=true], footer, svg, .cm-editor, .sr-only";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const node = walker.currentNode.parentElement;
    if (!text || node.closest(left_out)) continue;
    if (!node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    const box = node.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    const style = getComputedStyle(node);
    if (!style.color.startsWith("rgb")) continue;
    const back = behind(node);
    const [r, g, b, a] = read(style.color);
    const front = [r, g, b].map((x, k) => x * a + back[k] * (1 - a));
    const [dim, bright] = [light(front), light(back)].sort((x, y) => x - y);
    const ratio = (bright + 0.05) / (dim + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.6 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) low.add(`${text.slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return [...low];
}
