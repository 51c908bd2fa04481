"use strict";
// Keeps the list of cases as the node has it; needs live.js.
(() => {
  const table = document.getElementById("cases");
  const body = table.tBodies[0];
  const model = document.getElementById("row").content.firstElementChild;
  const tones = JSON.parse(table.dataset.tones);
  const news = document.getElementById("news");

  function field(row, name) {
    return row.querySelector(`[data-field="${name}"]`);
  }

  function write(row, name, text) {
    const place = field(row, name);
    if (place.textContent !== text) place.textContent = text;
    return place;
  }

  function chip(row, name, word) {
    write(row, name, word).className = `chip ${tones[word] || ""}`;
  }

  function fill(row, found) {
    row.dataset.case = found.case_id;
    write(row, "name", found.patient_name || "unnamed").href = `/cases/${found.case_id}`;
    write(row, "patient_id", found.patient_id);
    for (const name of ["state", "registration", "target", "worst"]) chip(row, name, found[name]);
    for (const name of ["reason", "protocol"]) write(row, name, found[name]);
    write(row, "revision", String(found.revision));
    const progress = field(row, "progress");
    progress.hidden = !found.progress;
    if (found.progress) {
      progress.querySelector("progress").value = found.progress.share;
      write(row, "step", found.progress.step);
    }
    const changed = field(row, "changed").querySelector("time");
    changed.dateTime = found.updated_at;
  }

  function show(found) {
    const known = new Map([...body.rows].map((row) => [row.dataset.case, row]));
    const told = [];
    found.cases.forEach((each, place) => {
      let row = known.get(each.case_id);
      const name = each.patient_name || `case ${each.case_id}`;
      if (!row) {
        row = model.cloneNode(true);
        told.push(`${name}: new, ${each.state}`);
      } else if (field(row, "state").textContent !== each.state) {
        told.push(`${name}: ${each.state}`);
      }
      known.delete(each.case_id);
      fill(row, each);
      // what stands where it belongs is not moved: it may have the focus
      if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] || null);
    });
    for (const row of known.values()) row.remove();
    document.getElementById("nothing").hidden = found.cases.length > 0;
    const older = document.getElementById("older");
    older.hidden = !found.older;
    if (found.older) {
      const query = new URLSearchParams(location.search);
      query.set("older", found.older);
      older.href = `/?${query}`;
    }
    if (told.length) news.textContent = told.slice(0, 3).join("; ");
  }

  const query = new URLSearchParams(location.search);
  for (const [name, value] of [...query]) if (!value) query.delete(name);
  watch(`/api/v1/cases?${query}`, show, document.getElementById("live"));
})();
