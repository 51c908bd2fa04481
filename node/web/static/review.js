// The review view: fetches what there is, builds the planes, ties the controls to them.

import { Controls } from "./review_controls.js";
import { drawHistograms } from "./review_dvh.js";
import { Plane } from "./review_geometry.js";
import { listenEverywhere, listenOn } from "./review_moves.js";
import { Outlines } from "./review_outlines.js";
import { PlaneView } from "./review_plane.js";
import { Slices, problemOf } from "./review_slices.js";
import { View } from "./review_view.js";

const POLL_MS = 1500;

const root = document.getElementById("review");
const { caseId, revision } = root.dataset;
const address = `/api/v1/cases/${encodeURIComponent(caseId)}`;

async function fetched(what, options) {
  const answer = await fetch(`${address}/${what}?revision=${revision}`, {
    credentials: "same-origin",
    ...options,
  });
  if (!answer.ok) throw new Error(await problemOf(answer));
  return answer.json();
}

function say(text) {
  const place = document.getElementById("review-state");
  place.textContent = text;
  place.hidden = !text;
}

// --- pictures that are not there -----------------------------------------------------------------

async function makePictures() {
  const button = document.getElementById("make-pictures");
  button.disabled = true;
  try {
    let made = await fetched("pictures", {
      method: "POST",
      headers: { "X-CSRF-Token": document.body.dataset.csrf || "" },
    });
    while (made.state === "waiting" || made.state === "working") {
      say(made.state === "working" ? "The pictures are being made." : "The pictures will be made.");
      await new Promise((done) => setTimeout(done, POLL_MS));
      made = await fetched("pictures");
    }
    if (made.state === "ready") {
      document.getElementById("no-pictures").hidden = true;
      await start();
      return;
    }
    say(`The pictures could not be made: ${made.reason || made.state}.`);
  } catch (error) {
    say(`The pictures could not be made: ${error.message}.`);
  }
  button.disabled = false;
}

// --- pictures ------------------------------------------------------------------------------------

async function start() {
  say("Loading the pictures.");
  const [told, contours] = await Promise.all([fetched("review"), fetched("contours")]);
  const planes = Object.fromEntries(
    Object.entries(told.planes).map(([name, plane]) => [
      name,
      new Plane(name, plane, told.slice_plane),
    ]),
  );
  const slices = new Slices(address, revision);
  const view = new View(told, planes, new Outlines(contours.contours, planes), slices);
  document.getElementById("viewer").hidden = false;
  for (const canvas of document.querySelectorAll("canvas[data-plane]")) {
    const planeView = new PlaneView(canvas, planes[canvas.dataset.plane], view);
    canvas.setAttribute("aria-valuemin", 1);
    canvas.setAttribute("aria-valuemax", planeView.plane.count);
    view.views.push(planeView);
    listenOn(view, planeView);
  }
  new Controls(view).build();
  listenEverywhere(view);
  new ResizeObserver(() => view.redraw()).observe(document.getElementById("planes"));
  const wanted = new URLSearchParams(location.search).get("target");
  const target = told.targets.find((each) => each.name === wanted || String(each.number) === wanted);
  if (target) view.lookAtTarget(target.number);
  view.redraw();
  root.view = view;
  say("");
}

async function open() {
  document.getElementById("make-pictures").addEventListener("click", makePictures);
  const dose = fetched("dvh");
  let trouble = "";
  try {
    const pictures = await fetched("pictures");
    if (pictures.state === "ready") await start();
    else {
      say("");
      document.getElementById("no-pictures").hidden = false;
      if (pictures.state === "working" || pictures.state === "waiting") await makePictures();
    }
  } catch (error) {
    trouble = `The pictures cannot be shown: ${error.message}. `;
  }
  try {
    const bodies = (root.view?.document.rois ?? []).filter((roi) => roi.role === "body");
    const names = new Set(bodies.map((roi) => roi.name));
    drawHistograms(document.getElementById("histograms"), (await dose).dose, names);
  } catch (error) {
    trouble += `The histograms cannot be shown: ${error.message}.`;
  }
  if (trouble) say(trouble);
  root.dataset.ready = "yes";
}

open();
