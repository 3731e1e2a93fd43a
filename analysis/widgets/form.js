// The cell that the form writes is the first one after it that begins with the line `own`. It is
// found through JupyterLab's own application, which `make lab` lets pages see.
// The last line that assigns a name counts, as in Python: where its value begins, and the value if
// it is one word or number that ends with its line. Anything else is left as it stands.
function assigned(source, name) {
  const lines = new RegExp(`^${name}[ \\t]*(?::[^=\\n]*)?=(?!=)[ \\t]*`, "gm");
  const found = [...source.matchAll(lines)].at(-1);
  if (!found) return null;
  const at = found.index + found[0].length;
  const value = /^("[^"\\\n]*"|'[^'\\\n]*'|[\w.+-]+)(?=[ \t]*(?:#.*)?(?:\n|$))/.exec(source.slice(at));
  return { at, value: value?.[0] };
}

function parametersCell(el, own) {
  for (const panel of window.jupyterapp?.shell.widgets("main") ?? []) {
    if (!panel.content?.widgets || !panel.node.contains(el)) continue;
    const cells = panel.content.widgets, form = cells.findIndex((cell) => cell.node.contains(el));
    const found = cells.find((cell, n) => n > form && cell.model.sharedModel.source.startsWith(own));
    if (found) return found.model.sharedModel;
  }
  return null;
}

function render({ model, el }) {
  const fields = {};
  const add = (tag, parent, more) => parent.appendChild(Object.assign(document.createElement(tag), more));
  el.style.color = "var(--jp-ui-font-color1, inherit)";
  const row = add("div", el, { style: "display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:end" });
  for (const [name, values] of Object.entries(model.get("choices"))) {
    const label = add("label", row, { textContent: name, style: "display:grid" });
    fields[name] = add(values.length ? "select" : "input", label, values.length ? {} : { type: "number", min: 0, step: 1, style: "width:6em" });
    for (const value of values) add("option", fields[name], { value, textContent: value });
    fields[name].addEventListener("change", () => write(name));
  }
  const start = add("button", row, { textContent: "Start" }), stop = add("button", row, { textContent: "Stop" });
  const said = add("p", el, { style: "margin:.5rem 0" });
  said.setAttribute("role", "status");
  start.addEventListener("click", () => model.send("start"));
  stop.addEventListener("click", () => model.send("stop"));
  let cell = null;

  const text = (name) => (fields[name].type === "number" ? String(Number(fields[name].value)) : JSON.stringify(fields[name].value));
  function show() {
    const off = cell ? "" : ` This page does not let the form write or start (make lab does). Put into the cell below: ${Object.keys(fields).map((n) => `${n} = ${text(n)}`).join("; ")}.`;
    said.textContent = model.get("said") + off;
    start.disabled = !cell || model.get("busy");
    stop.disabled = !model.get("busy");
  }
  function read() {
    for (const [name, field] of Object.entries(fields)) {
      const found = assigned(cell.source, name);
      const value = (found ? found.value ?? "" : model.get("defaults")[name]).replace(/^["']|["']$/g, "");
      if (field.options && ![...field.options].some((o) => o.value === value)) add("option", field, { value, textContent: value || "see the cell" });
      field.value = value;
    }
    model.set("source", cell.source);
    model.save_changes();
  }
  function write(name) {
    if (!cell) return show();
    if (!fields[name].reportValidity() || fields[name].value === "") return;
    const source = cell.source, found = assigned(source, name);
    if (!found?.value) return cell.setSource(`${source}\n${name} = ${text(name)}`);
    cell.setSource(source.slice(0, found.at) + text(name) + source.slice(found.at + found.value.length));
  }
  model.on("change:said", show);
  model.on("change:busy", show);
  show();

  let tries = 0; // the form may be drawn before its notebook is
  const wait = setInterval(() => {
    cell = parametersCell(el, model.get("own"));
    if (!cell && ++tries < 50) return;
    clearInterval(wait);
    cell?.changed.connect(read);
    if (cell) read();
    show();
  }, 100);
  return () => {
    clearInterval(wait);
    cell?.changed.disconnect(read);
    model.off("change:said", show);
    model.off("change:busy", show);
  };
}

export default { render };
