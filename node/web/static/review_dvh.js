// Dose-volume histograms as drawings: curves told apart by color and by dash, limits as marks, values
// beneath the pointer or the arrow keys, and a table. All figures of the report stand in tables of
// their own; what is read off here is read off a curve of some 200 points.

const NS = "http://www.w3.org/2000/svg";
const BOX = { left: 46, top: 12, width: 560, height: 300, right: 14, bottom: 40 };
const MOST_ORGANS = 9; // curves of organs that are shown at first, as in the report
const DASHES = ["", "8 4", "2 3", "10 3 2 3", "5 2", "14 4"];
const TARGET_DASHES = { drawn: "", refined: "8 5", derived: "12 3 2 3" };
const TABLE_STEPS = 10;
const MAXIMUM_CM3 = 0.035; // what "Dmax" of a limit is measured in

function svg(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// bodies: names of what encloses or carries the patient: no curve
export function drawHistograms(place, dose, bodies) {
  if (!dose?.plans?.length) return; // the page says so already
  for (const plan of dose.plans) {
    const curves = curvesOf(plan, bodies);
    if (curves.length) new Histogram(plan, curves).build(place);
  }
}

// what is drawn of a plan: targets first, then organs, those with exceeded limits before others
function curvesOf(plan, bodies) {
  const told = plan.structures.filter(
    (each) => each.dvh && each.volume_cm3 > 0 && (each.version || !bodies.has(each.name)),
  );
  const targets = told.filter((each) => each.version);
  const limits = (organ) => plan.limits.filter((limit) => limit.roi === organ.name);
  const rank = (organ) => [
    limits(organ).some((limit) => limit.status === "exceeded") ? 0 : 1,
    limits(organ).length ? 0 : 1,
    -organ.dvh.dose_gy.at(-1),
  ];
  const organs = told
    .filter((each) => !each.version)
    .map((organ) => ({ organ, rank: rank(organ) }))
    .sort((a, b) => a.rank[0] - b.rank[0] || a.rank[1] - b.rank[1] || a.rank[2] - b.rank[2])
    .map((each) => each.organ);
  return [...targets, ...organs].map((structure, i) => ({
    structure,
    key: i < 26 ? String.fromCharCode(97 + i) : String(i + 1),
    isTarget: i < targets.length,
    isShown: i < targets.length + MOST_ORGANS,
    color: i < targets.length ? "var(--text)" : `var(--curve-${(i - targets.length) % 8})`,
    dash:
      i < targets.length
        ? TARGET_DASHES[structure.version]
        : DASHES[Math.floor((i - targets.length) / 2) % DASHES.length],
    limits: limits(structure),
  }));
}

// volume that gets at least a dose, in percent of the structure
export function percentAt({ dvh, volume_cm3: whole }, dose) {
  const doses = dvh.dose_gy;
  const volumes = dvh.volume_cm3;
  if (dose <= doses[0]) return (100 * volumes[0]) / whole;
  if (dose > doses.at(-1)) return 0;
  let [low, high] = [0, doses.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (doses[middle] < dose) low = middle;
    else high = middle;
  }
  const part = (dose - doses[low]) / Math.max(doses[high] - doses[low], 1e-9);
  return (100 * (volumes[low] + part * (volumes[high] - volumes[low]))) / whole;
}

// dose and percent that a limit names, or null if it is no point of the plot
export function limitPoint({ metric, bound, unit }, whole) {
  const percent = (cm3) => Math.min(100, (100 * cm3) / whole);
  const inPercent = (value) => (unit === "%" ? value : percent(value));
  if (metric === "Dpoint") return [bound, 0];
  const named = metric === "Dmax" ? `D${MAXIMUM_CM3}cc` : metric;
  const found = /^(CV|D|V)([0-9.]+)(cc|%|Gy)$/.exec(named);
  if (!found) return null;
  const [, kind, at, of] = found;
  if (kind === "D") return [bound, of === "cc" ? percent(Number(at)) : Number(at)];
  if (kind === "V") return [Number(at), inPercent(bound)];
  return [Number(at), Math.max(0, 100 - inPercent(bound))];
}

class Histogram {
  constructor(plan, curves) {
    this.plan = plan;
    this.curves = curves;
    this.dose = null;
    const highest = Math.max(
      ...curves.map((curve) => curve.structure.dvh.dose_gy.at(-1)),
      plan.prescription?.dose_gy ?? 0,
    );
    this.step = [1, 2, 5, 10, 20, 50].find((step) => highest / step <= 10) ?? 100;
    this.end = Math.max(this.step, Math.ceil((highest * 1.02) / this.step) * this.step);
  }

  x(dose) {
    return BOX.left + (Math.min(dose, this.end) / this.end) * BOX.width;
  }

  y(percent) {
    return BOX.top + (1 - percent / 100) * BOX.height;
  }

  build(place) {
    const { plan } = this;
    const title = `Histogram of plan ${plan.plan}: ${plan.label}`;
    this.drawing = svg("svg", {
      viewBox: `0 0 ${BOX.left + BOX.width + BOX.right} ${BOX.top + BOX.height + BOX.bottom}`,
      class: "dvh",
      role: "img",
      tabindex: "0",
      "aria-label": `${title}; the table below tells the same. Arrow keys read values.`,
    });
    this.axes();
    for (const curve of this.curves) this.draw(curve);
    this.line = svg("path", { class: "read", d: "" });
    this.drawing.append(this.line);
    const read = html("p", { class: "muted", role: "status" });
    this.read = read;
    const part = html("div", { class: "histogram" });
    part.append(html("div", {}, html("h3", {}, title), this.drawing, read), this.legend());
    place.append(part, this.table());
    this.listen();
    this.show();
  }

  axes() {
    const bottom = BOX.top + BOX.height;
    for (let percent = 0; percent <= 100; percent += 20) {
      const y = this.y(percent);
      this.drawing.append(
        svg("path", { class: "grid", d: `M${BOX.left} ${y}H${BOX.left + BOX.width}` }),
        svg("text", { x: BOX.left - 6, y: y + 4, "text-anchor": "end" }, percent),
      );
    }
    for (let dose = 0; dose <= this.end + 1e-9; dose += this.step) {
      const x = this.x(dose);
      this.drawing.append(
        svg("path", { class: "grid", d: `M${x} ${BOX.top}V${bottom}` }),
        svg("text", { x, y: bottom + 16, "text-anchor": "middle" }, dose),
      );
    }
    const middle = BOX.left + BOX.width / 2;
    this.drawing.append(
      svg("text", { x: middle, y: bottom + 34, "text-anchor": "middle" }, "Dose in Gy"),
      svg(
        "text",
        { transform: `translate(12 ${BOX.top + BOX.height / 2}) rotate(-90)`, "text-anchor": "middle" },
        "Volume in %",
      ),
    );
    const prescribed = this.plan.prescription?.dose_gy;
    if (prescribed) {
      const x = this.x(prescribed);
      this.drawing.append(
        svg("path", { class: "prescribed", d: `M${x} ${BOX.top}V${bottom}` }),
        svg("text", { x: x - 4, y: bottom - 6, "text-anchor": "end" }, "prescribed"),
      );
    }
  }

  draw(curve) {
    const { dvh, volume_cm3: whole } = curve.structure;
    const points = dvh.dose_gy.map((dose, i) => [this.x(dose), this.y((100 * dvh.volume_cm3[i]) / whole)]);
    points.unshift([this.x(0), points[0][1]]);
    points.push([points.at(-1)[0], this.y(0)]);
    const text = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
    curve.group = svg("g", {});
    const line = svg("path", { class: "curve", d: `M${text}`, "stroke-dasharray": curve.dash });
    line.style.stroke = curve.color;
    line.style.strokeWidth = curve.isTarget ? 2.4 : 1.5;
    curve.group.append(line);
    const judged = curve.limits.filter(({ status }) => status === "met" || status === "exceeded");
    for (const limit of judged) this.mark(curve, limit, whole);
    // the letter where the curve falls below some percentage, another one for each neighbour
    const level = 25 + 12 * (this.curves.indexOf(curve) % 5);
    const half = dvh.dose_gy.find((dose) => percentAt(curve.structure, dose) <= level) ?? 0;
    const letter = svg(
      "text",
      { class: "letter", x: this.x(half) + 4, y: this.y(percentAt(curve.structure, half)) - 4 },
      curve.key,
    );
    letter.style.fill = curve.color;
    curve.group.append(letter);
    this.drawing.append(curve.group);
  }

  mark(curve, limit, whole) {
    const point = limitPoint(limit, whole);
    if (!point || point[0] > this.end) return;
    const [x, y] = [this.x(point[0]), this.y(point[1])];
    const isExceeded = limit.status === "exceeded";
    const cross = `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}`;
    const shape = isExceeded ? cross : `M${x - 4} ${y - 7}H${x + 4}L${x} ${y}Z`;
    const mark = svg("path", { class: isExceeded ? "mark exceeded" : "mark", d: shape });
    mark.style.stroke = curve.color;
    const words = `${curve.structure.name}: ${limit.metric} below ${limit.bound} ${limit.unit}, ${limit.status}`;
    mark.append(svg("title", {}, words));
    curve.group.append(mark);
  }

  legend() {
    const list = html("div", { class: "legend" });
    for (const curve of this.curves) {
      const { structure } = curve;
      const box = html("input", { type: "checkbox" });
      box.checked = curve.isShown;
      box.addEventListener("change", () => {
        curve.isShown = box.checked;
        this.show();
      });
      const sample = svg("svg", { viewBox: "0 0 34 12", class: "line", "aria-hidden": "true" });
      const line = svg("path", { d: "M1 6H33", "stroke-dasharray": curve.dash });
      line.style.stroke = curve.color;
      sample.append(line);
      curve.value = html("output", { class: "number" });
      const version = structure.version ? `, ${structure.version}` : "";
      const name = html("span", {}, `${curve.key} ${structure.name}${version}`);
      list.append(html("label", {}, box, sample, name, curve.value));
    }
    list.append(html("p", { class: "muted" }, "▽ limit met, × limit exceeded"));
    return list;
  }

  table() {
    const doses = Array.from({ length: TABLE_STEPS }, (_, i) => (this.end * i) / TABLE_STEPS);
    const head = html("tr", {}, html("th", { scope: "col" }, "Structure"));
    for (const dose of doses) {
      head.append(html("th", { scope: "col", class: "number" }, `${dose.toFixed(dose % 1 ? 1 : 0)} Gy`));
    }
    const body = html("tbody");
    for (const { structure } of this.curves) {
      const version = structure.version ? `, ${structure.version}` : "";
      const row = html("tr", {}, html("th", { scope: "row" }, `${structure.name}${version}`));
      for (const dose of doses) {
        row.append(html("td", { class: "number" }, percentAt(structure, dose).toFixed(1)));
      }
      body.append(row);
    }
    const caption = html("caption", {}, "Volume that gets at least a dose, in percent of the structure");
    const table = html("table", {}, caption, html("thead", {}, head), body);
    const wide = html("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Histogram as a table" }, table);
    return html("details", {}, html("summary", {}, "Histogram as a table"), wide);
  }

  listen() {
    const at = (event) => {
      const box = this.drawing.getBoundingClientRect();
      const width = BOX.left + BOX.width + BOX.right;
      const x = ((event.clientX - box.left) / box.width) * width;
      this.readAt(((x - BOX.left) / BOX.width) * this.end);
    };
    this.drawing.addEventListener("pointermove", at);
    this.drawing.addEventListener("pointerdown", at);
    this.drawing.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.readAt((this.dose ?? this.end / 2) + (by * this.end) / 200);
    });
  }

  readAt(dose) {
    this.dose = Math.min(this.end, Math.max(0, dose));
    this.show();
  }

  show() {
    const { dose } = this;
    for (const curve of this.curves) {
      curve.group.style.display = curve.isShown ? "" : "none";
      curve.value.textContent =
        dose === null ? "" : `${percentAt(curve.structure, dose).toFixed(1)} %`;
    }
    if (dose === null) return;
    this.line.setAttribute("d", `M${this.x(dose)} ${BOX.top}V${BOX.top + BOX.height}`);
    this.read.textContent = `At ${dose.toFixed(1)} Gy: volumes are in the list of structures.`;
  }
}
