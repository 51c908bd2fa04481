// Where structures cross a plane, as lines in pixels of the plane (column, row).
//
// On the slices that they were drawn on, contours are shown as drawn. Across them a contour counts
// for the whole thickness of its slice, and contours of one slice are combined by the even-odd rule:
// the outline is a staircase, and nothing is invented between two slices.

import { planeOfSlice } from "./review_geometry.js";

export class Outlines {
  // told: by ROI number a list of [slice, [x, y, z, ...]]
  constructor(told, planes) {
    this.planes = planes;
    this.rois = new Map();
    const slicePlane = Object.values(planes).find((plane) => plane.isSlice);
    for (const [number, contours] of Object.entries(told)) {
      this.rois.set(
        Number(number),
        contours.map(([slice, points]) => ({
          plane: planeOfSlice(slicePlane, slice),
          points: Float64Array.from(points),
        })),
      );
    }
  }

  // closed lines of an ROI on a plane: arrays [column, row, column, row, ...]
  of(number, planeName, index) {
    const contours = this.rois.get(number) || [];
    const plane = this.planes[planeName];
    return plane.isSlice ? drawn(contours, plane, index) : across(contours, plane, index);
  }
}

function drawn(contours, plane, index) {
  const lines = [];
  for (const contour of contours) {
    if (contour.plane !== index) continue;
    const line = new Float64Array((contour.points.length / 3) * 2);
    for (let i = 0, j = 0; i < contour.points.length; i += 3, j += 2) {
      const [, row, column] = plane.place(contour.points.subarray(i, i + 3));
      line[j] = column;
      line[j + 1] = row;
    }
    lines.push(line);
  }
  return lines;
}

// the coefficients that turn a point into one of its places on a plane
function linear(plane, step) {
  const length = step[0] ** 2 + step[1] ** 2 + step[2] ** 2;
  const [a, b, c] = step.map((part) => part / length);
  const offset = -(plane.origin[0] * a + plane.origin[1] * b + plane.origin[2] * c);
  return (p, i) => p[i] * a + p[i + 1] * b + p[i + 2] * c + offset;
}

function across(contours, plane, index) {
  const height = linear(plane, plane.step);
  const along = linear(plane, plane.slicesDown ? plane.columnStep : plane.rowStep);
  const order = linear(plane, plane.slicesDown ? plane.rowStep : plane.columnStep);
  const crossings = new Map(); // place among the slices -> where their contours cross the plane
  for (const { points } of contours) {
    const last = points.length - 3;
    let before = height(points, last) - index;
    let found = null;
    for (let i = 0, j = last; i < points.length; j = i, i += 3) {
      const here = height(points, i) - index;
      if (before <= 0 !== here <= 0) {
        const part = before / (before - here);
        const [a, b] = [along(points, j), along(points, i)];
        if (found === null) {
          const slice = Math.round(order(points, 0));
          if (!crossings.has(slice)) crossings.set(slice, []);
          found = crossings.get(slice);
        }
        found.push(a + part * (b - a));
      }
      before = here;
    }
  }
  for (const found of crossings.values()) found.sort((a, b) => a - b);
  return staircase(crossings).map((loop) => (plane.slicesDown ? loop : swapped(loop)));
}

function swapped(loop) {
  return loop.map((_, i) => loop[i ^ 1]);
}

// Closed loops around the intervals of slices that are one thick each.
function staircase(crossings) {
  const edges = new Map(); // corner -> corners it is joined with
  const join = (u1, v1, u2, v2) => {
    if (u1 === u2 && v1 === v2) return;
    for (const [u, v, other] of [
      [u1, v1, [u2, v2]],
      [u2, v2, [u1, v1]],
    ]) {
      const key = `${u} ${v}`;
      if (!edges.has(key)) edges.set(key, { at: [u, v], to: [] });
      edges.get(key).to.push(other);
    }
  };
  for (const [slice, ends] of crossings) {
    for (const end of ends) join(end, slice - 0.5, end, slice + 0.5);
    // what lies in one of two neighbours alone borders on nothing
    border(ends, crossings.get(slice + 1) || [], slice + 0.5, join);
    if (!crossings.has(slice - 1)) border([], ends, slice - 0.5, join);
  }
  return loops(edges);
}

function border(ends, others, v, join) {
  const both = [...ends, ...others].sort((a, b) => a - b);
  for (let i = 0; i + 1 < both.length; i += 2) join(both[i], v, both[i + 1], v);
}

function loops(edges) {
  const found = [];
  const take = (key, other) => {
    const to = edges.get(key).to;
    const i = to.findIndex((each) => each[0] === other[0] && each[1] === other[1]);
    return i < 0 ? null : to.splice(i, 1)[0];
  };
  for (const [first, corner] of edges) {
    while (corner.to.length) {
      const loop = [];
      let key = first;
      let at = corner.at;
      do {
        const next = edges.get(key).to.pop();
        if (!next) break;
        const nextKey = `${next[0]} ${next[1]}`;
        take(nextKey, at);
        loop.push(...at);
        [key, at] = [nextKey, next];
      } while (key !== first);
      if (loop.length >= 6) found.push(loop);
    }
  }
  return found;
}
