// Fetches the list anew. Without it the page has links that do.
"use strict";
(() => {
  const rows = document.getElementById("rows");
  const pause = document.getElementById("pause");
  if (!rows || !pause) return;
  const EACH = 2000;
  let timer;

  const refresh = async () => {
    const began = performance.now();
    try {
      const answer = await fetch(rows.dataset.rows + location.search, { headers: { accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.status);
      const html = await answer.text();
      const focus = rows.contains(document.activeElement) ? document.activeElement.id : "";
      rows.innerHTML = html;
      if (focus) document.getElementById(focus)?.focus();
      rows.classList.remove("stale");
    } catch {
      rows.classList.add("stale");
    }
    // A store that takes long to list is asked less often.
    plan(Math.max(EACH, 10 * (performance.now() - began)));
  };

  const is_paused = () => pause.getAttribute("aria-pressed") === "true";
  const plan = (after) => {
    clearTimeout(timer);
    if (!is_paused() && !document.hidden) timer = setTimeout(refresh, after);
  };
  pause.hidden = false;
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!is_paused()));
    plan(0);
  });
  document.addEventListener("visibilitychange", () => plan(0));
  plan(EACH);
})();
