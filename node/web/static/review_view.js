// What all planes share: where one looks, what is shown and how. Knows no control of the page.

import { Brightness } from "./review_picture.js";

const MODES = ["ct", "fused", "checker", "mr"];
const AHEAD = 4; // planes fetched ahead on either side
const ZOOMS = [1, 16];

// Which image is laid over the CT at first: MR before other CT, then what is registered beyond doubt,
// then anatomy before diffusion, then the series that was registered itself.
function rank(series) {
  const showsAnatomy = series.contrast !== "DWI" && series.contrast !== "ADC";
  const isSure = series.status === "pass";
  return (series.kind === "mr") * 8 + isSure * 4 + showsAnatomy * 2 + series.is_leading;
}

export class View {
  constructor(told, planes, outlines, slices) {
    this.document = told;
    this.planes = planes;
    this.outlines = outlines;
    this.slices = slices;
    this.byKey = new Map(told.series.map((series) => [series.key, series]));
    this.ct = this.byKey.get("ct");
    // all that can be laid over the CT; "mr" here and elsewhere: the one that is, whatever it is
    this.mrs = told.series.filter((series) => series.kind === "mr" || series.kind === "other");
    this.doses = told.series.filter((series) => series.kind === "dose");
    this.tables = { ct: new Brightness(), mr: new Brightness() };
    this.views = [];
    this.listeners = [];
    this.isDue = false;
    this.last = null;
    this.hover = null; // the plane beneath the pointer and the point there, until something changes
    this.onHover = () => {};
    const first = [...this.mrs].sort((a, b) => rank(b) - rank(a))[0];
    const { axial } = planes;
    const middle = axial.point(axial.count / 2, axial.rows / 2, axial.columns / 2);
    this.state = {
      at: this.snapped(told.targets[0]?.middle_mm ?? middle),
      mode: this.mrs.length ? "fused" : "ct",
      share: 0.5,
      squareMm: 30,
      mr: first?.key ?? "",
      before: false,
      dose: "",
      doseFromGy: 0,
      windows: { ct: { ...this.ct.windows[0] }, mr: this.mrWindow(first) },
      hidden: new Set(told.rois.filter((roi) => roi.role === "body").map((roi) => roi.number)),
      main: "axial",
      zoom: 1,
      cross: true,
      tool: "cross",
    };
  }

  mrWindow(series) {
    return series ? { ...series.windows[0] } : { name: "automatic", center: 0, width: 1 };
  }

  // the centre of the voxel in which a point lies
  snapped(point) {
    const { axial } = this.planes;
    const sizes = [axial.count, axial.rows, axial.columns];
    const within = axial.place(point).map((at, i) => Math.min(sizes[i] - 1, Math.max(0, Math.round(at))));
    return axial.point(...within);
  }

  // the volumes that are shown now
  series() {
    const { mr, before } = this.state;
    if (!mr) return { ct: this.ct, mr: null };
    const earlier = before ? this.before() : null;
    return { ct: this.ct, mr: earlier ?? this.byKey.get(mr) };
  }

  // what people call the image that is laid over the CT
  word() {
    return this.byKey.get(this.state.mr)?.word ?? "MR";
  }

  // the image chosen as it came, or null
  before() {
    return this.document.series.find((series) => series.of === this.state.mr) ?? null;
  }

  dose() {
    return this.byKey.get(this.state.dose) ?? null;
  }

  ctTable() {
    return this.tables.ct.of(this.ct, this.state.windows.ct);
  }

  mrTable() {
    return this.tables.mr.of(this.series().mr, this.state.windows.mr);
  }

  // from the outermost to the targets, which are drawn last
  shownRois() {
    const order = ["body", "organ", "other", "derived", "drawn", "refined"];
    return this.document.rois
      .filter((roi) => !this.state.hidden.has(roi.number))
      .sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role));
  }

  // --- changes ---------------------------------------------------------------------------------

  change(parts) {
    this.hover = null;
    Object.assign(this.state, parts);
    this.redraw();
  }

  pointAt(view, point) {
    this.hover = view ? { view, point } : null;
    this.onHover();
  }

  redraw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      for (const view of this.views) view.draw();
      for (const listener of this.listeners) listener();
      this.fetchAhead();
    });
  }

  lookAt(point) {
    this.change({ at: point });
  }

  goTo(view, index) {
    const at = Math.min(view.plane.count - 1, Math.max(0, index));
    this.last = { name: view.plane.name, sense: Math.sign(at - view.index) || 1 };
    this.lookAt(view.plane.onto(this.state.at, at));
  }

  step(view, by) {
    this.goTo(view, view.index + by);
  }

  // the cross-hair by pixels of a plane
  nudge(view, rows, columns) {
    const { plane } = view;
    const [index, row, column] = plane.place(this.state.at);
    const within = (at, count) => Math.min(count - 1, Math.max(0, Math.round(at)));
    this.lookAt(
      plane.point(index, within(row + rows, plane.rows), within(column + columns, plane.columns)),
    );
  }

  // by how far something was dragged: across the width, down the level
  changeWindow(dx, dy) {
    const isMr = this.state.mode === "mr";
    const key = isMr ? "mr" : "ct";
    const window = this.state.windows[key];
    const step = isMr ? Math.max(window.width / 200, this.series().mr.slope) : 2;
    this.setWindow(key, {
      name: "",
      center: window.center + dy * step,
      width: Math.max(step, window.width + dx * step),
    });
  }

  setWindow(key, window) {
    this.change({ windows: { ...this.state.windows, [key]: window } });
  }

  // a window by its name: of the CT, and of what is laid over it if that is a CT, too
  choosePreset(name) {
    const windows = { ...this.state.windows };
    for (const [key, series] of [["ct", this.ct], ["mr", this.byKey.get(this.state.mr)]]) {
      const found = series?.windows.find((window) => window.name === name);
      if (found) windows[key] = { ...found };
    }
    this.change({ windows });
  }

  nextWindow() {
    const names = this.ct.windows.map((window) => window.name);
    this.choosePreset(names[(names.indexOf(this.state.windows.ct.name) + 1) % names.length]);
  }

  nextImage() {
    if (this.mrs.length < 2) return;
    const at = this.mrs.findIndex((series) => series.key === this.state.mr);
    this.chooseMr(this.mrs[(at + 1) % this.mrs.length].key);
  }

  // at first from half of what is prescribed, or of the largest dose if that is less (one fraction's)
  chooseDose(key) {
    const dose = this.byKey.get(key);
    const whole = dose ? Math.min(dose.prescribed_gy || Infinity, dose.largest_gy) : 0;
    this.change({ dose: key, doseFromGy: Math.round(5 * whole) / 10 });
  }

  toggleDose() {
    if (this.doses.length) this.chooseDose(this.state.dose ? "" : this.doses[0].key);
  }

  chooseMr(key) {
    const windows = { ...this.state.windows, mr: this.mrWindow(this.byKey.get(key)) };
    this.change({ mr: key, windows, before: false });
  }

  nextMode() {
    const modes = this.mrs.length ? MODES : ["ct"];
    this.change({ mode: modes[(modes.indexOf(this.state.mode) + 1) % modes.length] });
  }

  changeShare(by) {
    const share = Math.min(1, Math.max(0, Math.round((this.state.share + by) * 100) / 100));
    this.change({ share });
  }

  toggleBefore() {
    if (this.before()) this.change({ before: !this.state.before });
  }

  toggleRole(role) {
    const numbers = this.document.rois.filter((roi) => roi.role === role).map((roi) => roi.number);
    const isShown = numbers.some((number) => !this.state.hidden.has(number));
    this.show(numbers, !isShown);
  }

  show(numbers, isShown) {
    const hidden = new Set(this.state.hidden);
    for (const number of numbers) {
      if (isShown) hidden.delete(number);
      else hidden.add(number);
    }
    this.change({ hidden });
  }

  toggleCross() {
    this.change({ cross: !this.state.cross });
  }

  // 0: the whole plane again
  zoom(by) {
    const zoom = by === 0 ? 1 : this.state.zoom * by;
    this.change({ zoom: Math.min(ZOOMS[1], Math.max(ZOOMS[0], zoom)) });
  }

  lookAtTarget(number) {
    const target = this.document.targets.find((each) => each.number === number);
    if (target) this.change({ at: this.snapped(target.middle_mm) });
  }

  nextTarget() {
    const { targets } = this.document;
    if (!targets.length) return;
    const away = (target) =>
      Math.hypot(...this.snapped(target.middle_mm).map((x, i) => x - this.state.at[i]));
    const here = targets.findIndex((target) => away(target) < 0.5);
    this.lookAtTarget(targets[(here + 1) % targets.length].number);
  }

  // --- planes ----------------------------------------------------------------------------------

  viewOf(name) {
    return this.views.find((view) => view.plane.name === name);
  }

  // the neighbours of what was scrolled last, or of the large plane
  fetchAhead() {
    const name = this.last?.name ?? this.state.main;
    const sense = this.last?.sense ?? 1;
    const view = this.viewOf(name);
    if (!view || !view.isShown) return;
    const { mr } = this.series();
    const keys = ["ct", ...(mr && this.state.mode !== "ct" ? [mr.key] : [])];
    if (this.state.dose) keys.push(this.state.dose);
    const wanted = [];
    for (let i = 1; i <= AHEAD; i++) {
      for (const index of [view.index + sense * i, ...(i <= AHEAD / 2 ? [view.index - sense * i] : [])]) {
        if (index < 0 || index >= view.plane.count) continue;
        for (const key of keys) wanted.push([key, name, index]);
      }
    }
    this.slices.ahead(wanted);
  }
}
