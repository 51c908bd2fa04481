"use strict";
// Takes a part of the page from the node again, and keeps pages so whose document changes; needs
// live.js.
/* exported takeAnew, keepAnew */

// Somebody is about to order something, reads something that was folded away, or marks words.
function isInUse(place) {
  const focus = document.activeElement;
  const isMarking = !getSelection().isCollapsed && place.contains(getSelection().anchorNode);
  return (
    isMarking ||
    place.querySelector("details[open]:not([data-open])") !== null ||
    (place.contains(focus) && focus.matches("input, select, textarea"))
  );
}

// The element of a fresh part that is what had the focus in the old one.
function sameIn(fresh, focus) {
  const name = focus.getAttribute("aria-label") || focus.textContent;
  return [...fresh.querySelectorAll(focus.localName)].find(
    (each) => (each.getAttribute("aria-label") || each.textContent) === name,
  );
}

/**
 * Fetch this page again and put its element of an id in the place of the present one.
 * @param {string} id of the element
 * @returns {Promise<boolean>} whether that was done: not while somebody uses what lies in it
 */
async function takeAnew(id) {
  const place = document.getElementById(id);
  if (isInUse(place)) return false;
  const answer = await fetch(location.pathname + location.search);
  if (!answer.ok) return false;
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = found.getElementById(id);
  if (!fresh || isInUse(place)) return false;
  const focus = document.activeElement;
  const again = place.contains(focus) ? sameIn(fresh, focus) : null;
  place.replaceWith(document.adoptNode(fresh));
  if (again) again.focus({ preventScroll: true });
  showAges();
  return true;
}

const KEPT_MS = 5000; // from one question to the next: what waits for peers may take long to count
const OLDEST_MS = 15000; // what the document does not tell, such as signs of life, is as old at most

/**
 * Keep an element as the node has it.
 * @param {string} id of the element; its `data-address` is that of the document that it shows
 */
function keepAnew(id) {
  let known = "";
  let at = 0;
  let isLoading = false;

  async function show(found) {
    const told = JSON.stringify(found);
    if (isLoading || (told === known && performance.now() - at < OLDEST_MS)) return;
    isLoading = true;
    try {
      if (!(await takeAnew(id))) return;
      known = told;
      at = performance.now();
    } finally {
      isLoading = false;
    }
  }

  const { address } = document.getElementById(id).dataset;
  watch(address, show, document.getElementById("live"), KEPT_MS);
}
