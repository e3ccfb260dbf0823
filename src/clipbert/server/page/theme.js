"use strict";
// Colors before the first paint: those of the system, or those that the reader chose here.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const names = {system: "as the system", light: "light", dark: "dark"};
  let chosen = "system";
  try { chosen = localStorage.getItem("clipbert-theme") || "system"; } catch { /* no storage: the system's */ }

  function apply() {
    const theme = chosen === "system" ? (system.matches ? "dark" : "light") : chosen;
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-label", `Colors: ${names[chosen]}`);
    if (button) button.title = `Colors: ${names[chosen]}`;
  }

  apply();
  system.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      const order = system.matches ? ["system", "light", "dark"] : ["system", "dark", "light"];
      chosen = order[(order.indexOf(chosen) + 1) % order.length];
      try { localStorage.setItem("clipbert-theme", chosen); } catch { /* kept for this visit only */ }
      apply();
    });
  });
})();
