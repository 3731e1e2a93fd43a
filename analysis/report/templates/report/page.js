document.getElementById("all")?.addEventListener("change", (event) => {
  for (const code of document.querySelectorAll("details.code")) code.open = event.target.checked;
});
// What is wider than its place scrolls, by keyboard too.
for (const wide of document.querySelectorAll("pre, .output_html, .text_cell table, math")) {
  if (wide.scrollWidth > wide.clientWidth + 1) wide.tabIndex = 0;
}
// Charts grow with the type of the page; where there is no room their panels and titles get narrow.
// The picture stays where a chart cannot be drawn.
const grown = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
const room = document.querySelector("main").clientWidth;

function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && (lines.at(-1) + word).length > most) lines.push(word);
    else lines[lines.length - 1] += (lines.at(-1) && " ") + word;
  }
  return lines;
}

function narrow(spec) {
  for (const one of [spec, ...(spec.vconcat ?? [])]) {
    if (one.width > 260) one.width = 260;
    if (!one.title?.text) continue;
    one.title.text = wrapped(one.title.text, 36);
    if (one.title.subtitle) one.title.subtitle = wrapped(one.title.subtitle, 48);
  }
}

for (const chart of document.querySelectorAll("figure.chart")) {
  const spec = JSON.parse(chart.querySelector("script").textContent);
  const mode = chart.dataset.mode ?? "vega-lite";
  spec.description ??= chart.querySelector("img")?.alt ?? "chart"; // said by a screen reader
  if (mode === "vega-lite" && room < 640) narrow(spec);
  const actions = { export: true, source: false, compiled: false, editor: false };
  vegaEmbed(chart.querySelector(".drawn"), spec, { mode, renderer: "svg", actions })
    .then(() => {
      const svg = chart.querySelector(".drawn svg");
      svg.style.width = `${svg.viewBox.baseVal.width * grown}px`;
      chart.querySelector("details > summary")?.setAttribute("aria-label", "save this chart");
    })
    .catch(console.error);
}
