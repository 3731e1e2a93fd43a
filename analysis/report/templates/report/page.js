document.getElementById("all").addEventListener("change", (event) => {
  for (const code of document.querySelectorAll("details.code")) code.open = event.target.checked;
});
// Charts grow with the type of the page; where there is no room they get narrow, and panels that
// stood side by side stand one above the other. The picture stays where a chart cannot be drawn.
const NARROW = 640, grown = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
for (const chart of document.querySelectorAll("figure.chart")) {
  const spec = JSON.parse(chart.querySelector("script").textContent);
  if (chart.clientWidth < NARROW) {
    if (spec.hconcat) {
      spec.vconcat = spec.hconcat;
      delete spec.hconcat;
    } else if (spec.width > 400) spec.width = 400;
  }
  const actions = { export: true, source: false, compiled: false, editor: false };
  vegaEmbed(chart.querySelector(".drawn"), spec, { renderer: "svg", actions })
    .then(() => {
      const svg = chart.querySelector(".drawn svg");
      svg.style.width = `${svg.viewBox.baseVal.width * grown}px`;
    })
    .catch(console.error);
}
