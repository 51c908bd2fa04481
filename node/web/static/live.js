"use strict";
// Asks the node again and again while somebody looks; gently when it does not answer.
/* exported watch, showAges */

const OFTEN_MS = 2000;
const SELDOM_MS = 30000;

// How far the clock of this machine is off the node's.
let clockOffMs = 0;

function ageText(seconds) {
  const left = Math.max(0, Math.floor(seconds));
  if (left >= 86400) return `${Math.floor(left / 86400)} d`;
  if (left >= 3600) return `${Math.floor(left / 3600)} h`;
  if (left >= 60) return `${Math.floor(left / 60)} min`;
  return `${left} s`;
}

function showAges() {
  for (const each of document.querySelectorAll("time[data-age]")) {
    const at = Date.parse(each.dateTime);
    if (!Number.isNaN(at)) each.textContent = ageText((Date.now() - clockOffMs - at) / 1000);
  }
}

function clockText() {
  return new Date().toLocaleTimeString();
}

/**
 * Ask for a document again and again while the page is visible.
 * @param {string} address of the document
 * @param {(found: any) => void} show is given what came
 * @param {HTMLElement | null} told says whether the node answers
 * @param {number} oftenMs from one question to the next
 */
function watch(address, show, told, oftenMs = OFTEN_MS) {
  let pauseMs = oftenMs;
  let timer = 0;
  let isAsking = false;
  let lostSince = "";

  function say(text, isLost) {
    if (!told || told.textContent === text) return;
    told.textContent = text;
    told.classList.toggle("lost", isLost);
  }

  async function ask() {
    if (document.hidden || isAsking) return;
    isAsking = true;
    try {
      const answer = await fetch(address, {
        headers: { accept: "application/json" },
        signal: AbortSignal.timeout(15000),
      });
      if (answer.status === 401) {
        say("You are logged out: load the page again.", true);
        pauseMs = SELDOM_MS;
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const sent = Date.parse(answer.headers.get("date") || "");
      if (!Number.isNaN(sent)) clockOffMs = Date.now() - sent;
      show(await answer.json());
      showAges();
      pauseMs = oftenMs;
      lostSince = "";
      say("Live", false);
    } catch {
      pauseMs = Math.min(2 * pauseMs, SELDOM_MS);
      lostSince = lostSince || clockText();
      say(`The node has not answered since ${lostSince}; this page is as it was then.`, true);
    } finally {
      isAsking = false;
      clearTimeout(timer);
      timer = setTimeout(ask, pauseMs);
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) ask();
  });
  timer = setTimeout(ask, oftenMs);
}
