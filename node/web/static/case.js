"use strict";
// Keeps the page of a case as the node has it; needs live.js and anew.js.
(() => {
  let isLoading = false;

  function place() {
    return document.getElementById("case");
  }

  async function loadAgain(state) {
    if (isLoading) return;
    isLoading = true;
    try {
      if (!(await takeAnew("case"))) return;
      document.getElementById("news").textContent = `The case is ${state} now.`;
      document.getElementById("live").textContent = "Live";
    } finally {
      isLoading = false;
    }
  }

  function show(found) {
    const row = found.row;
    const progress = document.getElementById("progress");
    progress.hidden = !row.progress;
    if (row.progress) {
      document.getElementById("share").value = row.progress.share;
      document.getElementById("step").textContent = row.progress.step;
    }
    const reason = document.getElementById("reason");
    if (reason && reason.textContent !== row.reason) reason.textContent = row.reason;
    const [state, revision, ...at] = place().dataset.mark.split(" ");
    const isSame = state === row.state && Number(revision) === row.revision;
    if (!isSame || Date.parse(at.join(" ")) !== Date.parse(row.updated_at)) loadAgain(row.state);
  }

  const live = { get textContent() { return document.getElementById("live").textContent; },
    set textContent(text) { document.getElementById("live").textContent = text; },
    get classList() { return document.getElementById("live").classList; } };
  watch(place().dataset.address, show, live);
})();
