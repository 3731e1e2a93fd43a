document.getElementById("all")?.addEventListener("change", (event) => {
  for (const code of document.querySelectorAll("details.code")) code.open = event.target.checked;
});
// A table wider than the page gets smaller; on a phone it scrolls.
for (const table of document.querySelectorAll(".dataframe")) {
  const over = table.scrollWidth > table.parentElement.clientWidth + 1;
  table.classList.toggle("wide", over && innerWidth > 640);
}
// What is wider than its place scrolls, by keyboard too.
for (const wide of document.querySelectorAll("pre, .output_html, .text_cell table, math")) {
  if (wide.scrollWidth > wide.clientWidth + 1) wide.tabIndex = 0;
}
// Charts grow with the type of the page. Where there is no room their panels, titles and legends get
// narrow, and narrower by what the names beside the panels still lack: shrunk, nobody could read them.
// The picture stays where a chart cannot be drawn.
const grown = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
const room = document.querySelector("main").clientWidth;

// text: a line, or a list of lines
function wrapped(text, most) {
  return [text].flat().flatMap((whole) => {
    const lines = [""];
    for (const word of whole.split(" ")) {
      if (lines.at(-1) && (lines.at(-1) + word).length > most) lines.push(word);
      else lines[lines.length - 1] += (lines.at(-1) && " ") + word;
    }
    return lines;
  });
}

function narrow(spec, most = 260) {
  if (spec.width > most) spec.width = most;
  if (spec.columns > 1) spec.columns = Math.ceil(spec.columns / 2);
  if (spec.config?.legend) spec.config.legend.columns = 2;
  for (const channel of Object.values(spec.encoding ?? {})) {
    if (channel.legend?.columns > 2) channel.legend.columns = 2;
  }
  if (spec.title?.text) {
    spec.title.text = wrapped(spec.title.text, 36);
    if (spec.title.subtitle) spec.title.subtitle = wrapped(spec.title.subtitle, 48);
  }
  const { vconcat = [], concat = [], layer = [] } = spec;
  for (const part of [...vconcat, ...concat, ...layer, ...(spec.spec ? [spec.spec] : [])]) narrow(part, most);
  return spec;
}

async function show(chart) {
  const spec = JSON.parse(chart.querySelector("script").textContent);
  const mode = chart.dataset.mode ?? "vega-lite";
  spec.description ??= chart.querySelector("img")?.alt ?? "chart"; // said by a screen reader
  const actions = { export: true, source: false, compiled: false, editor: false };
  const place = chart.querySelector(".drawn");
  const draw = (one) => vegaEmbed(place, one, { mode, renderer: "svg", actions });
  const width = () => place.querySelector("svg").viewBox.baseVal.width;
  const narrows = mode === "vega-lite" && room < 640;
  await draw(narrows ? narrow(structuredClone(spec)) : spec);
  const lacking = Math.ceil(width() - room);
  if (narrows && lacking > 0) await draw(narrow(spec, Math.max(130, 260 - lacking)));
  place.querySelector("svg").style.width = `${width() * grown}px`;
  chart.querySelector("details > summary")?.setAttribute("aria-label", "save this chart");
}

for (const chart of document.querySelectorAll("figure.chart")) show(chart).catch(console.error);
