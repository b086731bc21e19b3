"use strict";
const rows = [...document.querySelectorAll(".row")];
const lines = [...document.querySelectorAll(".transcript li[data-row]")];
const sources = [...document.querySelectorAll(".source")];
const list = document.querySelector(".transcript");
const step = document.querySelector(".step");
let at = -1;
function show(row) {
  if (!rows.length) return;
  at = Math.max(0, Math.min(rows.length - 1, row));
  const now = rows[at];
  rows.forEach((one) => one.classList.toggle("now", one === now));
  lines.forEach((line) => line.classList.toggle("now", Number(line.dataset.row) === at));
  sources.forEach((source) => { source.hidden = source.dataset.source !== now.dataset.source; });
  step.querySelector(".count").textContent = `${at + 1} of ${rows.length}`;
  step.querySelector(".says").textContent = now.querySelector("title").textContent;
  now.scrollIntoView({ block: "nearest" });
  // The list scrolls by itself: the page stays where the picture is.
  const line = lines.find((line) => line.classList.contains("now"));
  if (line) list.scrollTop = line.offsetTop - list.offsetTop - list.clientHeight / 2;
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(to);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-step]");
  const chosen = event.target.closest("[data-row]");
  if (button) show(at + Number(button.dataset.step));
  else if (chosen) show(Number(chosen.dataset.row));
});
document.documentElement.classList.add("script");
step.hidden = false;
document.querySelector(".hint").hidden = false;
show(0);
