"use strict";
// Fetches what changes once a second, and puts it where it belongs. What it is, and how it is drawn, the service says.
const main = document.querySelector("main");
const pause = document.getElementById("pause");
const gone = document.getElementById("gone");
const PERIOD_MS = 1000;
const shown = new Map();
let isPaused = false;

const show = (parts) => {
  for (const [id, html] of Object.entries(parts)) {
    if (shown.get(id) !== html) {
      shown.set(id, html);
      const part = document.getElementById(id);
      part.innerHTML = html;
      part.closest("figure, section, [data-part]").hidden = html === "";
    }
  }
};

const refresh = async () => {
  try {
    const answer = await fetch("live", { signal: AbortSignal.timeout(5 * PERIOD_MS) });
    if (!answer.ok) {
      throw new Error(answer.statusText);
    }
    const parts = await answer.json();
    if (!isPaused) {
      show(parts);
    }
    gone.hidden = true;
  } catch {
    gone.hidden = false;
  }
  main.classList.toggle("gone", !gone.hidden);
};

const run = async () => {
  if (!isPaused && !document.hidden) {
    await refresh();
  }
  setTimeout(run, PERIOD_MS);
};

pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", String(isPaused));
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !isPaused) {
    refresh();
  }
});
setTimeout(run, PERIOD_MS);
