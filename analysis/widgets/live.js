// Two learning curves over a progress bar on one canvas, drawn from the model's state.
let INK, QUIET, GRID, FONT; // of the charts, and of the text around; the same for every widget
const WIDEST = 690, HEIGHT = 300;

const count = (n) => Math.round(n).toLocaleString("en");
const clock = (s) => (s < 90 ? `${Math.ceil(s)} s` : `${Math.ceil(s / 60)} min`);

function status(model) {
  const [done, total] = [model.get("done"), model.get("total")];
  const left = model.get("seconds_left");
  if (!model.get("phase")) return "starting";
  const text = `${model.get("phase")} training: ${count(done)} of ${count(total)} ${model.get("unit")}`;
  return left && done < total ? `${text}, about ${clock(left)} left` : text;
}

// A number of ticks near six at 1, 2 or 5 times a power of ten.
function ticks(low, high) {
  const rough = (high - low) / 6, ten = 10 ** Math.floor(Math.log10(rough));
  const step = ten * [1, 2, 5, 10].find((m) => m * ten >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// One panel with its plot area at (left, top): points [x, y], y from `low` to `high`.
function panel(pen, { left, top, width, height, title, right, low, high, unit, points, reference, colour }) {
  const x = (v) => left + (v / right) * width, y = (v) => top + height - ((v - low) / (high - low)) * height;
  pen.textAlign = "left";
  pen.fillStyle = INK;
  pen.font = `bold 15px ${FONT}`;
  pen.fillText(title, left - 34, top - 16);
  pen.font = `13px ${FONT}`;
  pen.lineWidth = 1;
  pen.strokeStyle = GRID;
  pen.textAlign = "right";
  for (const v of ticks(low, high)) {
    pen.fillText(String(+v.toPrecision(6)), left - 8, y(v) + 4);
    pen.beginPath();
    pen.moveTo(left, Math.round(y(v)) + 0.5);
    pen.lineTo(left + width, Math.round(y(v)) + 0.5);
    pen.stroke();
  }
  const kilo = right >= 1000;
  pen.textAlign = "center";
  for (const v of ticks(0, right)) pen.fillText(String(+(kilo ? v / 1000 : v).toPrecision(6)), x(v), top + height + 18);
  pen.fillText(kilo ? `${unit} (thousands)` : unit, left + width / 2, top + height + 38);
  if (reference !== null) {
    pen.strokeStyle = QUIET;
    pen.lineWidth = 2;
    pen.setLineDash([6, 5]);
    pen.beginPath();
    pen.moveTo(left, y(reference));
    pen.lineTo(left + width, y(reference));
    pen.stroke();
    pen.setLineDash([]);
    pen.textAlign = "right";
    pen.fillText("Monte-Carlo return", left + width, y(reference) + 17);
  }
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 3;
  pen.lineJoin = "round";
  pen.beginPath();
  for (const [px, py] of points) pen.lineTo(x(px), y(py));
  pen.stroke();
  if (!points.length) return;
  const [px, py] = points[points.length - 1];
  pen.beginPath();
  pen.arc(x(px), y(py), 5, 0, 7);
  pen.fill();
}

function draw(model, canvas, room) {
  ({ quiet: QUIET, grid: GRID, font: FONT } = model.get("look"));
  INK = getComputedStyle(canvas).color; // dark or light, as the theme is
  const width = Math.min(room, WIDEST), scale = window.devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${HEIGHT}px`;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  canvas.setAttribute("aria-label", `${model.get("title")}: ${status(model)}`);
  const pen = canvas.getContext("2d");
  const colour = model.get("colour") === "currentColor" ? INK : model.get("colour");
  pen.scale(scale, scale);

  pen.fillStyle = INK;
  pen.font = `bold 16px ${FONT}`;
  pen.fillText(model.get("title"), 8, 20);
  pen.font = `14px ${FONT}`;
  pen.fillText(status(model), 8, 42);
  const share = Math.min(model.get("done") / model.get("total"), 1);
  pen.fillStyle = GRID;
  pen.fillRect(8, 52, width - 16, 6);
  pen.fillStyle = colour;
  pen.fillRect(8, 52, (width - 16) * share, 6);

  const points = model.get("points"), reference = model.get("reference");
  const series = (column) => points.filter((p) => p[column] !== null).map((p) => [p[0], p[column]]);
  const values = series(2);
  const top = Math.max(reference ?? 0, 1, ...values.map((p) => p[1]));
  const bottom = Math.min(0, ...values.map((p) => p[1]));
  const shared = { top: 102, height: HEIGHT - 150, right: model.get("total"), unit: model.get("unit"), colour };
  const half = width / 2 - 64;
  panel(pen, { ...shared, left: 42, width: half, title: "Test win rate (%)", low: 0, high: 100, points: series(1), reference: null });
  panel(pen, {
    ...shared, left: width / 2 + 50, width: half, title: "Mean Q_tot of the fixed battles",
    low: 2 * Math.floor(bottom / 2), high: 2 * Math.ceil(top / 2), points: values, reference,
  });
}

function render({ model, el }) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  el.append(canvas);
  let asked = 0;
  const ask = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => draw(model, canvas, el.clientWidth || WIDEST));
  };
  model.on("change", ask);
  const watch = new ResizeObserver(ask);
  watch.observe(el);
  return () => {
    model.off("change", ask);
    watch.disconnect();
    cancelAnimationFrame(asked);
  };
}

export default { render };
