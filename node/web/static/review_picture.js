// Values to pixels: windows, blending, checkerboard. All of it here, so that no slider asks the node.

// red, orange, pale yellow, as in the pictures of the result set; brightness never falls
const STOPS = [
  [0, 0, 0, 0],
  [0.35, 150, 20, 0],
  [0.7, 255, 140, 0],
  [1, 255, 250, 190],
];

export const WARM = palette(STOPS);
export const GREY = palette([
  [0, 0, 0, 0],
  [1, 255, 255, 255],
]);

// dose, from the lowest that is shown to the largest: blue, cyan, green, yellow, red, as is usual
export const WASH = palette([
  [0, 40, 70, 255],
  [0.25, 0, 200, 255],
  [0.5, 0, 220, 80],
  [0.75, 255, 230, 0],
  [1, 255, 50, 0],
]);
const WASH_SHARE = 0.4; // of the color beside the picture beneath

// From which stored value a dose is shown, and how many colors a stored step is.
export function washOf(dose, fromGy) {
  const lowest = (fromGy - dose.intercept) / dose.slope;
  const range = Math.max(dose.largest_gy - fromGy, dose.slope) / dose.slope;
  return { lowest, scale: 255 / range };
}

function palette(stops) {
  const colors = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = i / 255;
    const next = Math.max(1, stops.findIndex((stop) => stop[0] >= at));
    const [a, b] = [stops[next - 1], stops[next]];
    const part = (at - a[0]) / (b[0] - a[0]);
    for (let c = 0; c < 3; c++) colors[3 * i + c] = a[c + 1] + part * (b[c + 1] - a[c + 1]);
  }
  return colors;
}

// brightness 0 to 255 of every stored value (index: value + 32768)
export class Brightness {
  constructor() {
    this.table = new Uint8Array(65536);
    this.told = "";
  }

  // the table of a window, told in values of the volume
  of(series, window) {
    const told = `${series.key} ${window.center} ${window.width}`;
    if (told !== this.told) {
      this.told = told;
      const low = (window.center - window.width / 2 - series.intercept) / series.slope;
      const scale = (255 * series.slope) / window.width;
      for (let i = 0; i < 65536; i++) {
        this.table[i] = Math.max(0, Math.min(255, Math.round((i - 32768 - low) * scale)));
      }
    }
    return this.table;
  }
}

// Fill `pixels` (RGBA) from the values of one plane.
//   mode: "ct", "mr", "fused" or "checker"; share: of the MR in "fused", 0 to 1
//   ct, mr: {values, table}; mr may be null; 0 of the MR is no value
//   dose: {values, lowest, scale} as of washOf, or null; 0 is no value
//   checker: {rows, columns}: size of a square in pixels
export function paint(pixels, plane, { mode, share, ct, mr, dose, colors, checker }) {
  const words = new Uint32Array(pixels.buffer, pixels.byteOffset, pixels.byteLength >> 2);
  const { rows, columns } = plane;
  const opaque = 255 << 24;
  const beneath = ct.table;
  for (let row = 0, i = 0; row < rows; row++) {
    const odd = checker ? Math.floor(row / checker.rows) : 0;
    for (let column = 0; column < columns; column++, i++) {
      const grey = beneath[ct.values[i] + 32768];
      const stored = mr ? mr.values[i] : 0;
      let part = 0;
      if (mode === "mr") part = 1;
      else if (stored === 0) part = 0;
      else if (mode === "fused") part = share;
      else if (mode === "checker") part = (odd + Math.floor(column / checker.columns)) & 1;
      let [r, g, b] = [grey, grey, grey];
      if (part !== 0) {
        const at = 3 * (stored === 0 ? 0 : mr.table[stored + 32768]);
        const rest = 1 - part;
        r = part * colors[at] + rest * grey;
        g = part * colors[at + 1] + rest * grey;
        b = part * colors[at + 2] + rest * grey;
      }
      const given = dose ? dose.values[i] : 0;
      if (given !== 0 && given >= dose.lowest) {
        const at = 3 * Math.min(255, Math.floor((given - dose.lowest) * dose.scale));
        r += WASH_SHARE * (WASH[at] - r);
        g += WASH_SHARE * (WASH[at + 1] - g);
        b += WASH_SHARE * (WASH[at + 2] - b);
      }
      words[i] = opaque | (b << 16) | (g << 8) | r;
    }
  }
}
