// One plane on its canvas: picture, outlines, cross-hair, letters, scale bar.

import { GREY, WARM, paint, washOf } from "./review_picture.js";

const INK = { text: "#f2f2f2", caution: "#ffcd3c", cross: "rgba(255, 255, 255, 0.75)" };
const NOTE = "Not for diagnosis: a proposal for a clinician";
const SHORT_NOTE = "Not for diagnosis";
const STYLES = {
  drawn: { width: 2, dash: [] },
  refined: { width: 2, dash: [7, 5] },
  derived: { width: 1.6, dash: [10, 3, 2, 3] },
  other: { width: 1.4, dash: [3, 3] },
  organ: { width: 1.1, dash: [] },
  body: { width: 1, dash: [1, 3] },
};

export class PlaneView {
  // view: what all planes share (state, slices, outlines, document)
  constructor(canvas, plane, view) {
    this.canvas = canvas;
    this.plane = plane;
    this.view = view;
    this.picture = document.createElement("canvas");
    this.picture.width = plane.columns;
    this.picture.height = plane.rows;
    this.pixels = this.picture.getContext("2d").createImageData(plane.columns, plane.rows);
    this.painted = ""; // what the picture shows now
    this.shown = -1; // which plane that is: all that is drawn belongs to it
    this.isCurrent = false; // whether that is what should be shown
    this.lines = new Map(); // outlines of this plane by ROI
    this.linesAt = -1;
    this.problem = "";
  }

  get index() {
    return this.plane.indexOf(this.view.state.at);
  }

  get isShown() {
    return this.canvas.clientWidth > 0;
  }

  // how pixels of the plane lie on the canvas: x = left + (column + 0.5) * across
  layout() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const { plane } = this;
    const { zoom, at } = this.view.state;
    const fit = Math.min(
      width / (plane.columns * plane.columnMm),
      height / (plane.rows * plane.rowMm),
    );
    const across = fit * zoom * plane.columnMm;
    const down = fit * zoom * plane.rowMm;
    const [, row, column] = plane.place(at);
    const begin = (size, count, pixel, place) => {
      const middle = (size - count * pixel) / 2;
      if (count * pixel <= size) return middle;
      return Math.min(0, Math.max(size - count * pixel, size / 2 - (place + 0.5) * pixel));
    };
    return {
      left: begin(width, plane.columns, across, column),
      top: begin(height, plane.rows, down, row),
      across,
      down,
      width,
      height,
      mmToPixels: fit * zoom,
    };
  }

  // the point of the patient beneath a place on the canvas
  pointAt(x, y) {
    const { left, top, across, down } = this.layout();
    const column = Math.min(this.plane.columns - 1, Math.max(0, (x - left) / across - 0.5));
    const row = Math.min(this.plane.rows - 1, Math.max(0, (y - top) / down - 0.5));
    return this.plane.point(this.index, row, column);
  }

  draw() {
    if (!this.isShown) return;
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    const [width, height] = [clientWidth * ratio, clientHeight * ratio].map(Math.round);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, clientWidth, clientHeight);
    const layout = this.layout();
    this.compose();
    if (this.shown >= 0) {
      pen.imageSmoothingEnabled = true;
      pen.imageSmoothingQuality = "medium"; // linear where enlarged: a pixel keeps its value
      pen.drawImage(
        this.picture,
        layout.left,
        layout.top,
        this.plane.columns * layout.across,
        this.plane.rows * layout.down,
      );
      this.drawOutlines(pen, layout);
    }
    this.drawCross(pen, layout);
    this.drawWords(pen, layout);
    this.tell();
  }

  // paint the picture if what it is made of is there; ask for what is not, and until it comes go on
  // to show the plane before, with its own outlines and words
  compose() {
    const { state, slices } = this.view;
    const index = this.index;
    const shown = this.view.series();
    const wantsMr = state.mode !== "ct" && shown.mr;
    const ct = slices.now("ct", this.plane.name, index);
    const mr = wantsMr ? slices.now(shown.mr.key, this.plane.name, index) : null;
    const dose = state.dose ? slices.now(state.dose, this.plane.name, index) : null;
    this.isCurrent = Boolean(ct && (mr || !wantsMr) && (dose || !state.dose));
    if (!this.isCurrent) {
      const keys = ["ct", ...(wantsMr ? [shown.mr.key] : []), ...(state.dose ? [state.dose] : [])];
      Promise.all(keys.map((key) => slices.get(key, this.plane.name, index))).then(
        () => {
          this.problem = "";
          this.view.redraw();
        },
        (error) => {
          if (this.problem !== error.message) {
            this.problem = error.message;
            this.shown = -1;
            this.painted = "";
            this.view.redraw();
          }
        },
      );
      return;
    }
    this.problem = ""; // that of another plane, perhaps
    const { plane } = this;
    const told = JSON.stringify([
      index, state.mode, state.share, state.squareMm, state.windows.ct,
      wantsMr ? [shown.mr.key, state.windows.mr] : null, [state.dose, state.doseFromGy],
    ]);
    if (told !== this.painted) {
      paint(this.pixels.data, plane, {
        mode: wantsMr ? state.mode : "ct",
        share: state.share,
        ct: { values: ct, table: this.view.ctTable() },
        mr: wantsMr ? { values: mr, table: this.view.mrTable() } : null,
        dose: dose ? { values: dose, ...washOf(this.view.dose(), state.doseFromGy) } : null,
        colors: state.mode === "fused" ? WARM : GREY,
        checker:
          state.mode === "checker"
            ? { rows: state.squareMm / plane.rowMm, columns: state.squareMm / plane.columnMm }
            : null,
      });
      this.picture.getContext("2d").putImageData(this.pixels, 0, 0);
      this.painted = told;
      this.shown = index;
    }
  }

  outlinesOf(number) {
    if (this.linesAt !== this.shown) {
      this.lines.clear();
      this.linesAt = this.shown;
    }
    if (!this.lines.has(number)) {
      this.lines.set(number, this.view.outlines.of(number, this.plane.name, this.shown));
    }
    return this.lines.get(number);
  }

  drawOutlines(pen, { left, top, across, down }) {
    for (const roi of this.view.shownRois()) {
      const lines = this.outlinesOf(roi.number);
      if (!lines.length) continue;
      const style = STYLES[roi.role] || STYLES.organ;
      pen.beginPath();
      for (const line of lines) {
        for (let i = 0; i < line.length; i += 2) {
          const x = left + (line[i] + 0.5) * across;
          const y = top + (line[i + 1] + 0.5) * down;
          if (i === 0) pen.moveTo(x, y);
          else pen.lineTo(x, y);
        }
        pen.closePath();
      }
      pen.lineJoin = "round";
      pen.setLineDash(style.dash);
      pen.lineWidth = style.width + 1.6;
      pen.strokeStyle = "rgba(0, 0, 0, 0.65)";
      pen.stroke();
      pen.lineWidth = style.width;
      pen.strokeStyle = `rgb(${roi.color.join(", ")})`;
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  drawCross(pen, { left, top, across, down, width, height }) {
    if (!this.view.state.cross) return;
    const [, row, column] = this.plane.place(this.view.state.at);
    const x = left + (column + 0.5) * across;
    const y = top + (row + 0.5) * down;
    const gap = 14;
    pen.beginPath();
    for (const [x1, y1, x2, y2] of [
      [0, y, x - gap, y],
      [x + gap, y, width, y],
      [x, 0, x, y - gap],
      [x, y + gap, x, height],
    ]) {
      pen.moveTo(x1, y1);
      pen.lineTo(x2, y2);
    }
    pen.lineWidth = 1;
    pen.strokeStyle = INK.cross;
    pen.stroke();
  }

  drawWords(pen, { width, height, mmToPixels }) {
    const write = (text, x, y, align, color, size) => {
      pen.font = `${size}px system-ui, sans-serif`;
      pen.textAlign = align;
      pen.lineJoin = "round";
      pen.lineWidth = 3;
      pen.strokeStyle = "rgba(0, 0, 0, 0.85)";
      pen.strokeText(text, x, y);
      pen.fillStyle = color;
      pen.fillText(text, x, y);
    };
    const { letters } = this.plane;
    const large = width > 400 ? 16 : 13;
    const small = width > 400 ? 13 : 11;
    pen.textBaseline = "middle";
    write(letters.left, 6, height / 2, "left", INK.caution, large);
    write(letters.right, width - 6, height / 2, "right", INK.caution, large);
    pen.textBaseline = "top";
    write(letters.top, width / 2, 5, "center", INK.caution, large);
    const shown = this.shown < 0 ? this.index : this.shown;
    write(this.plane.words(shown), 6, 5, "left", INK.text, small);
    pen.textBaseline = "bottom";
    write(letters.bottom, width / 2, height - 5, "center", INK.caution, large);
    const note = width > 560 ? NOTE : SHORT_NOTE;
    if (this.canvas.closest(".main")) write(note, 6, height - 5, "left", INK.text, small);
    if (!this.isCurrent && !this.problem) {
      write("loading", width / 2, height / 2 - 20, "center", INK.caution, small);
    }
    if (this.problem) write(this.problem, 6, height / 2 - 20, "left", INK.caution, small);
    this.drawScale(pen, write, { width, height, mmToPixels, small });
  }

  drawScale(pen, write, { width, height, mmToPixels, small }) {
    const cm = [10, 5, 2, 1].find((each) => each * 10 * mmToPixels <= width / 4) || 1;
    const length = cm * 10 * mmToPixels;
    const [x, y] = [width - 10, height - 12];
    pen.beginPath();
    pen.moveTo(x - length, y - 4);
    pen.lineTo(x - length, y);
    pen.lineTo(x, y);
    pen.lineTo(x, y - 4);
    pen.lineWidth = 1.5;
    pen.strokeStyle = INK.text;
    pen.stroke();
    write(`${cm} cm`, x - length / 2, y - 3, "center", INK.text, small);
  }

  // for who cannot see the picture, and for tests
  tell() {
    const { canvas, plane } = this;
    canvas.setAttribute("aria-valuenow", this.index + 1);
    canvas.setAttribute("aria-valuetext", `${plane.words(this.index)}, ${this.index + 1} of ${plane.count}`);
    canvas.setAttribute("aria-busy", !this.isCurrent);
    canvas.dataset.index = this.index;
    canvas.dataset.shown = this.shown;
  }

  // value of a volume beneath the cross-hair, or null
  valueAt(series, point) {
    const values = this.view.slices.now(series.key, this.plane.name, this.index);
    if (!values) return null;
    const [, row, column] = this.plane.place(point).map(Math.round);
    const { rows, columns } = this.plane;
    if (row < 0 || column < 0 || row >= rows || column >= columns) return null;
    const stored = values[row * columns + column];
    if (series.has_padding && stored === 0) return null;
    return stored * series.slope + series.intercept;
  }
}
