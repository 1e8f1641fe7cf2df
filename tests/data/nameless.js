// What a person can use or see without a name that a screen reader could say. Pictures of gradio's
// own rows of examples cannot be named by us.
() => {
  const kinds = "button, input, textarea, select, [role=slider], img";
  const named = (one) =>
    ["aria-label", "aria-labelledby", "title", "alt"].some((name) => one.getAttribute(name)) ||
    one.labels?.length || one.textContent.trim() || one.closest("label");
  return [...document.querySelectorAll(kinds)]
    .filter((one) => one.checkVisibility() && !one.closest("[id^=samples-]"))
    .filter((one) => one.type !== "file" && one.type !== "hidden" && !named(one))
    .map((one) => one.outerHTML.slice(0, 160));
}
