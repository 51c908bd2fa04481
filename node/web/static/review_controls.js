// The controls beside the planes: each shows the state and changes it.

import { WASH } from "./review_picture.js";

const ROLES = [
  ["drawn", "Targets as drawn"],
  ["refined", "Targets refined"],
  ["derived", "Derived from targets"],
  ["other", "Other targets"],
  ["organ", "Organs"],
  ["body", "Outline of the patient"],
];
const WORDS_BEFORE = {
  "registration received": "as the registration that was received says",
  "shared frame of reference": "as the shared frame of reference says",
  "coordinates as told": "coordinates as they came, of another frame of reference",
};

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export class Controls {
  constructor(view) {
    this.view = view;
    this.boxes = new Map(); // check boxes by ROI number
    this.heads = new Map(); // check boxes of all of a role
  }

  build() {
    const { view } = this;
    this.buildMr();
    this.buildWindows();
    this.buildRois();
    this.buildTargets();
    this.buildDose();
    const numberOf = (id) => Number(byId(id).value);
    byId("share").addEventListener("input", () => view.change({ share: numberOf("share") / 100 }));
    byId("square").addEventListener("input", () => view.change({ squareMm: numberOf("square") }));
    byId("cross").addEventListener("change", (e) => view.change({ cross: e.target.checked }));
    for (const radio of document.getElementsByName("mode")) {
      radio.disabled = !view.mrs.length && radio.value !== "ct";
      radio.addEventListener("change", () => view.change({ mode: radio.value }));
    }
    for (const radio of document.getElementsByName("when")) {
      radio.addEventListener("change", () => view.change({ before: radio.value === "before" }));
    }
    for (const radio of document.getElementsByName("tool")) {
      radio.addEventListener("change", () => view.change({ tool: radio.value }));
    }
    for (const slider of document.querySelectorAll("input[data-slider]")) {
      const planeView = view.viewOf(slider.dataset.slider);
      slider.max = planeView.plane.count;
      slider.addEventListener("input", () => view.goTo(planeView, Number(slider.value) - 1));
    }
    for (const button of document.querySelectorAll("button[data-enlarge]")) {
      button.addEventListener("click", () => this.enlarge(button.dataset.enlarge));
    }
    byId("zoom-in").addEventListener("click", () => view.zoom(1.25));
    byId("zoom-out").addEventListener("click", () => view.zoom(0.8));
    byId("zoom-all").addEventListener("click", () => view.zoom(0));
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    byId("help-close").addEventListener("click", () => byId("help").close());
    view.enlarge = (name) => this.enlarge(name);
    view.showHelp = () => byId("help").showModal();
    view.listeners.push(() => this.show());
    view.onHover = () => this.showReadOut();
    this.enlarge(view.state.main);
  }

  enlarge(name) {
    for (const figure of document.querySelectorAll("figure[data-figure]")) {
      figure.classList.toggle("main", figure.dataset.figure === name);
    }
    for (const button of document.querySelectorAll("button[data-enlarge]")) {
      button.setAttribute("aria-pressed", button.dataset.enlarge === name);
    }
    this.view.last = null;
    this.view.change({ main: name });
  }

  buildMr() {
    const { view } = this;
    const choice = byId("mr");
    for (const series of view.mrs) {
      const caution = series.status === "pass" ? "" : ` (registration: ${series.status})`;
      choice.append(element("option", { value: series.key }, `${series.label}${caution}`));
    }
    choice.disabled = !view.mrs.length;
    if (!view.mrs.length) choice.append(element("option", { value: "" }, "none that can be shown"));
    choice.addEventListener("change", () => view.chooseMr(choice.value));
  }

  buildWindows() {
    const { view } = this;
    const preset = byId("window");
    for (const { name, center, width } of view.ct.windows) {
      preset.append(element("option", { value: name }, `${name} (C ${center}, W ${width})`));
    }
    preset.append(element("option", { value: "" }, "own"));
    preset.addEventListener("change", () => {
      if (preset.value) view.choosePreset(preset.value);
    });
    for (const key of ["ct", "mr"]) {
      for (const part of ["center", "width"]) {
        byId(`${key}-${part}`).addEventListener("change", (event) => {
          const value = Number(event.target.value);
          if (!Number.isFinite(value) || (part === "width" && value <= 0)) {
            this.show();
            return;
          }
          view.setWindow(key, { ...view.state.windows[key], name: "", [part]: value });
        });
      }
    }
    byId("mr-automatic").addEventListener("click", () =>
      view.setWindow("mr", view.mrWindow(view.byKey.get(view.state.mr))),
    );
  }

  buildRois() {
    const { view } = this;
    const list = byId("rois");
    for (const [role, title] of ROLES) {
      const rois = view.document.rois.filter((roi) => roi.role === role);
      if (!rois.length) continue;
      const numbers = rois.map((roi) => roi.number);
      const head = element("input", { type: "checkbox" });
      head.addEventListener("change", () => view.show(numbers, head.checked));
      this.heads.set(role, { head, numbers });
      const group = element("details", { class: "rois" });
      group.open = role === "drawn" || role === "refined";
      group.append(
        element("summary", {}, `${title} (${rois.length})`),
        element("label", { class: "all" }, head, ` all: ${title.toLowerCase()}`),
      );
      for (const roi of rois) group.append(this.roiLine(roi));
      list.append(group);
    }
  }

  roiLine(roi) {
    const box = element("input", { type: "checkbox" });
    box.addEventListener("change", () => this.view.show([roi.number], box.checked));
    this.boxes.set(roi.number, box);
    const color = `rgb(${roi.color.join(",")})`;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", `line ${roi.role}`);
    svg.setAttribute("viewBox", "0 0 28 12");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", "M1 6H27");
    line.setAttribute("stroke", color);
    svg.append(line);
    return element("label", {}, box, svg, ` ${roi.name}`);
  }

  buildDose() {
    const { view } = this;
    byId("for-dose").hidden = !view.doses.length;
    for (const each of document.querySelectorAll("[data-of-dose]")) {
      each.hidden = !view.doses.length;
    }
    const choice = byId("dose");
    for (const { key, label } of view.doses) choice.append(element("option", { value: key }, label));
    choice.addEventListener("change", () => view.chooseDose(choice.value));
    byId("dose-from").addEventListener("change", (event) => {
      const value = Number(event.target.value);
      if (Number.isFinite(value) && value >= 0) view.change({ doseFromGy: value });
      else this.show();
    });
    const scale = byId("dose-colors");
    const pen = scale.getContext("2d");
    for (let i = 0; i < 256; i++) {
      pen.fillStyle = `rgb(${WASH[3 * i]}, ${WASH[3 * i + 1]}, ${WASH[3 * i + 2]})`;
      pen.fillRect(i, 0, 1, scale.height);
    }
  }

  buildTargets() {
    const { view } = this;
    const list = byId("targets");
    for (const target of view.document.targets) {
      const button = element("button", { type: "button" }, target.name);
      button.addEventListener("click", () => view.lookAtTarget(target.number));
      list.append(button);
    }
  }

  // bring every control up to the state
  show() {
    const { view } = this;
    const { state } = view;
    byId("share").value = Math.round(state.share * 100);
    byId("share-told").textContent = `${Math.round(state.share * 100)} % ${view.word()}`;
    byId("square").value = state.squareMm;
    byId("square-told").textContent = `${state.squareMm} mm`;
    byId("for-share").hidden = state.mode !== "fused";
    byId("for-square").hidden = state.mode !== "checker";
    byId("cross").checked = state.cross;
    byId("mr").value = state.mr;
    check("mode", state.mode);
    check("when", state.before ? "before" : "after");
    check("tool", state.tool);
    for (const each of document.querySelectorAll("[data-word]")) each.textContent = view.word();
    this.showBefore();
    this.showDose();
    byId("window").value = view.ct.windows.some((w) => w.name === state.windows.ct.name)
      ? state.windows.ct.name
      : "";
    for (const key of ["ct", "mr"]) {
      byId(`${key}-center`).value = rounded(state.windows[key].center);
      byId(`${key}-width`).value = rounded(state.windows[key].width);
    }
    for (const slider of document.querySelectorAll("input[data-slider]")) {
      const { index, plane } = view.viewOf(slider.dataset.slider);
      slider.value = index + 1;
      slider.setAttribute("aria-valuetext", `${plane.words(index)}, ${index + 1} of ${plane.count}`);
    }
    for (const [number, box] of this.boxes) box.checked = !state.hidden.has(number);
    for (const { head, numbers } of this.heads.values()) {
      const shown = numbers.filter((number) => !state.hidden.has(number)).length;
      head.checked = shown > 0;
      head.indeterminate = shown > 0 && shown < numbers.length;
    }
    this.showReadOut();
  }

  showBefore() {
    const { view } = this;
    const before = view.before();
    for (const radio of document.getElementsByName("when")) radio.disabled = !before;
    let told = `The ${view.word()} as it came does not reach the targets.`;
    if (before) told = `Before: ${WORDS_BEFORE[before.placed_by]}; around the targets only.`;
    if (!view.mrs.length) told = "No MR and no other CT can be shown.";
    byId("before-told").textContent = told;
  }

  showDose() {
    const { view } = this;
    const dose = view.dose();
    byId("dose").value = view.state.dose;
    byId("dose-shown").hidden = !dose;
    if (!dose) return;
    byId("dose-from").value = view.state.doseFromGy;
    byId("dose-lowest").textContent = `${rounded(view.state.doseFromGy)} Gy`;
    byId("dose-largest").textContent = `${rounded(dose.largest_gy)} Gy`;
  }

  showReadOut() {
    const { view } = this;
    const { hover } = view;
    const at = hover ? hover.point : view.state.at;
    const planeView = hover ? hover.view : view.viewOf(view.state.main);
    byId("read-title").textContent = hover ? "At the pointer" : "At the cross-hair";
    const { ct, mr } = view.series();
    const [x, y, z] = at.map((value) => value.toFixed(1));
    byId("read-place").textContent = `x ${x}, y ${y}, z ${z} mm`;
    const hu = planeView.valueAt(ct, at);
    byId("read-ct").textContent = hu === null ? "–" : `${Math.round(hu)} HU`;
    const value = mr ? planeView.valueAt(mr, at) : null;
    const isCt = mr?.kind === "other" || view.byKey.get(mr?.of)?.kind === "other";
    const unit = isCt ? " HU" : "";
    byId("read-mr").textContent = value === null ? "–" : `${rounded(value)}${unit}`;
    const dose = view.dose();
    const given = dose ? planeView.valueAt(dose, at) : null;
    byId("read-dose").textContent = given === null ? "–" : `${given.toFixed(2)} Gy`;
  }
}

function check(name, value) {
  for (const radio of document.getElementsByName(name)) radio.checked = radio.value === value;
}

// as many digits as a number of its size needs
function rounded(value) {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 1 ? 1 : 4)));
}
