"use strict";
// Goes on with the log while it is followed; needs live.js.
(() => {
  const list = document.getElementById("log");
  const follow = document.getElementById("follow");
  const model = document.getElementById("line").content.firstElementChild;
  const tones = JSON.parse(list.dataset.tones);

  function text(value) {
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  function made(found) {
    const line = model.cloneNode(true);
    const write = (name, told) => {
      const place = line.querySelector(`[data-field="${name}"]`);
      place.textContent = told;
      return place;
    };
    write("time", found.time.slice(11, 19)).dateTime = found.time;
    write("level", found.level).className = `chip ${tones[found.level] || ""}`;
    write("event", found.event);
    const fields = Object.entries(found.fields).map(([name, value]) => `${name}=${text(value)}`);
    write("fields", fields.join(" "));
    return line;
  }

  function show(found) {
    if (!follow.checked) return;
    list.replaceChildren(...found.map(made));
    document.getElementById("nothing").hidden = found.length > 0;
    list.scrollTop = list.scrollHeight;
  }

  list.scrollTop = list.scrollHeight;
  watch(`/api/v1/log?${new URLSearchParams(location.search)}`, show, document.getElementById("live"));
})();
