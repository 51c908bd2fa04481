// Where pixels lie in the patient: planes in LPS millimetres, as the document tells them.
// A pixel's centre has whole coordinates; plane, row and column count from 0.

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

export class Plane {
  constructor(name, told, slicePlane) {
    this.name = name;
    this.count = told.count;
    this.rows = told.rows;
    this.columns = told.columns;
    this.letters = told.letters;
    this.isTilted = told.is_tilted;
    this.origin = told.origin_mm;
    this.step = told.step_mm;
    this.rowStep = told.row_step_mm;
    this.columnStep = told.column_step_mm;
    this.rowMm = Math.hypot(...told.row_step_mm);
    this.columnMm = Math.hypot(...told.column_step_mm);
    this.isSlice = name === slicePlane;
    // which way the CT's slices follow each other on a plane that cuts them
    this.slicesDown = told.axes[1][0] === 0;
    // of the plane that the slices are: whether its numbers run as the stored slices do
    this.runsAsStored = told.axes[0][1] > 0;
  }

  // [plane, row, column] of a point, fractional
  place(point) {
    const from = [point[0] - this.origin[0], point[1] - this.origin[1], point[2] - this.origin[2]];
    return [
      dot(from, this.step) / dot(this.step, this.step),
      dot(from, this.rowStep) / dot(this.rowStep, this.rowStep),
      dot(from, this.columnStep) / dot(this.columnStep, this.columnStep),
    ];
  }

  // the point of a plane, row and column
  point(index, row, column) {
    return [0, 1, 2].map(
      (i) =>
        this.origin[i] +
        index * this.step[i] +
        row * this.rowStep[i] +
        column * this.columnStep[i],
    );
  }

  // number of the plane on which a point lies, within the volume
  indexOf(point) {
    return Math.min(this.count - 1, Math.max(0, Math.round(this.place(point)[0])));
  }

  // the same point, moved along the normal onto a plane
  onto(point, index) {
    const [, row, column] = this.place(point);
    return this.point(index, row, column);
  }

  // where the plane lies, in words
  words(index) {
    const step = this.step.map(Math.abs);
    const axis = step.indexOf(Math.max(...step));
    const middle = this.point(index, (this.rows - 1) / 2, (this.columns - 1) / 2);
    const tilted = this.isTilted ? "tilted " : "";
    return `${tilted}${this.name}, ${"xyz"[axis]} = ${middle[axis].toFixed(1)} mm`;
  }
}

// number of a stored slice as plane of the slice plane
export function planeOfSlice(plane, slice) {
  return plane.runsAsStored ? slice : plane.count - 1 - slice;
}
