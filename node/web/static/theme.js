"use strict";
// Light or dark: as the system says, unless somebody chose. Runs before the page is drawn.
(() => {
  const KEY = "hilum-theme";
  const root = document.documentElement;

  function kept() {
    try {
      return localStorage.getItem(KEY) || "";
    } catch {
      return ""; // a browser that keeps nothing shows what the system says
    }
  }

  function show(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  show(kept());
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    if (!choice) return;
    choice.hidden = false;
    choice.value = root.dataset.theme || "";
    choice.addEventListener("change", () => {
      show(choice.value);
      try {
        localStorage.setItem(KEY, choice.value);
      } catch {
        // shown all the same, until the page is left
      }
    });
  });
})();
