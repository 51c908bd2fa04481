// Pointer, wheel and keys on a plane.

const SCROLL_PIXELS = 40; // of a wheel or finger for one plane

export function listenOn(view, planeView) {
  const { canvas } = planeView;
  let rest = 0;
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.ctrlKey) {
        view.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
        return;
      }
      const unit = event.deltaMode === 0 ? 1 : SCROLL_PIXELS;
      rest += event.deltaY * unit;
      const planes = Math.trunc(rest / SCROLL_PIXELS);
      if (planes) {
        rest -= planes * SCROLL_PIXELS;
        view.step(planeView, -planes);
      }
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => onKey(view, planeView, event));
  dragging(view, planeView);
}

function onKey(view, planeView, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { plane } = planeView;
  const by = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
  const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.shiftKey && (by === 1 || by === -1)) view.nudge(planeView, -by, 0);
  else if (event.shiftKey && sideways) view.nudge(planeView, 0, sideways);
  else if (by) view.step(planeView, by);
  else if (sideways) view.step(planeView, sideways);
  else if (event.key === "Home") view.goTo(planeView, 0);
  else if (event.key === "End") view.goTo(planeView, plane.count - 1);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function dragging(view, planeView) {
  const { canvas } = planeView;
  let from = null;
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return planeView.pointAt(event.clientX - box.left, event.clientY - box.top);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 2) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const windows = view.state.tool === "window" || event.shiftKey || event.button === 2;
    const tool = windows ? "window" : view.state.tool;
    from = { x: event.clientX, y: event.clientY, tool, left: 0 };
    if (tool === "cross") view.lookAt(point(event));
  });
  canvas.addEventListener("pointerleave", () => view.pointAt(null));
  canvas.addEventListener("pointermove", (event) => {
    if (!from) {
      view.pointAt(planeView, point(event));
      return;
    }
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    if (from.tool === "cross") view.lookAt(point(event));
    if (from.tool === "window") view.changeWindow(dx, dy);
    if (from.tool === "scroll") {
      from.left += dy;
      const planes = Math.trunc(from.left / (SCROLL_PIXELS / 4));
      if (planes) {
        from.left -= (planes * SCROLL_PIXELS) / 4;
        view.step(planeView, -planes);
      }
    }
    from.x = event.clientX;
    from.y = event.clientY;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      from = null;
    });
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
}

// keys that hold everywhere on the page but where one writes
export function listenEverywhere(view) {
  document.addEventListener("keydown", (event) => {
    const isWriting = event.target.matches("input[type=number], input[type=text], select, textarea");
    if (isWriting || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      a: () => view.enlarge("axial"),
      s: () => view.enlarge("sagittal"),
      c: () => view.enlarge("coronal"),
      m: () => view.nextMode(),
      b: () => view.toggleBefore(),
      d: () => view.toggleRole("drawn"),
      r: () => view.toggleRole("refined"),
      o: () => view.toggleRole("organ"),
      x: () => view.toggleCross(),
      t: () => view.nextTarget(),
      w: () => view.nextWindow(),
      i: () => view.nextImage(),
      g: () => view.toggleDose(),
      "[": () => view.changeShare(-0.1),
      "]": () => view.changeShare(0.1),
      "+": () => view.zoom(1.25),
      "-": () => view.zoom(0.8),
      0: () => view.zoom(0),
      "?": () => view.showHelp(),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
