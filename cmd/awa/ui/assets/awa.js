// The pages need no script. This one keeps what they show new, and says how old it is.
"use strict";

// words says how long something took, in seconds.
function words(seconds) {
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return Math.round(seconds / 3600) + " h";
}

// showAges writes beside each time of reading how long ago that was, by a clock that nobody sets.
function showAges() {
  for (const time of document.querySelectorAll("time[data-age]")) {
    if (time.dataset.since === undefined) {
      time.dataset.since = String(performance.now());
      time.dataset.text = time.textContent;
    }
    const age = (performance.now() - Number(time.dataset.since)) / 1000;
    time.textContent = time.dataset.text + ", " + words(age) + " ago";
    time.closest(".age").classList.toggle("old", age > 60);
  }
}

// replacePanel puts a new panel in the place of an old one, with what the reader has opened, scrolled and focused.
function replacePanel(old, fresh) {
  const open = [...old.querySelectorAll("details")].map((d) => d.open);
  const scrolled = [...old.querySelectorAll(".scroll, pre, ol")].map((e) => [e.scrollLeft, e.scrollTop]);
  const active = document.activeElement;
  const focused = old.contains(active) ? [...old.querySelectorAll("a, summary, button, [tabindex]")].indexOf(active) : -1;
  const href = focused >= 0 ? active.getAttribute("href") : null;
  old.replaceWith(fresh);
  fresh.querySelectorAll("details").forEach((d, i) => { d.open = open[i] || false; });
  fresh.querySelectorAll(".scroll, pre, ol").forEach((e, i) => {
    if (scrolled[i]) [e.scrollLeft, e.scrollTop] = scrolled[i];
  });
  if (focused >= 0) {
    const candidates = [...fresh.querySelectorAll("a, summary, button, [tabindex]")];
    const same = candidates.find((e) => href !== null && e.getAttribute("href") === href) || candidates[focused];
    if (same) same.focus({preventScroll: true});
  }
}

// update shows the panels of a new reading. It waits where the reader types, has selected text or jobs, or is about to
// press a button: another one could take its place.
function update(html) {
  const read = new DOMParser().parseFromString(html, "text/html");
  const selection = document.getSelection();
  for (const old of document.querySelectorAll("[data-panel]")) {
    const fresh = read.getElementById(old.id);
    const isTyping = old.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
    const isSelecting = selection && !selection.isCollapsed && old.contains(selection.anchorNode);
    const isFilled = [...old.querySelectorAll(".actions input")].some((e) => e.value !== e.defaultValue);
    const isActing = isFilled || old.querySelector(".actions:hover, .actions:focus-within, input:checked") !== null;
    if (fresh && !isTyping && !isSelecting && !isActing) replacePanel(old, document.adoptNode(fresh));
  }
  showAges();
}

// A browser has six connections to a server over HTTP/1.1. So the pages that are seen at once, in several windows, have
// this many streams in all: the oldest ones end theirs, and are read again instead.
const mostStreams = 3;

// watch keeps a page new while it is seen: by a stream or, where none passes, by reading the page again.
function watch(main) {
  const name = Math.random().toString(36), others = new Set(); // the streams of other windows that this one has heard of
  const channel = window.BroadcastChannel ? new BroadcastChannel("awa streams") : null;
  let source = null, heard = 0, isPolling = false, isCrowded = false, isPaused = false, polledAt = performance.now();
  const tell = (isOpen) => { if (channel) channel.postMessage({name, isOpen}); };
  const close = () => {
    if (!source) return;
    source.close();
    source = null;
    tell(false);
  };
  const open = () => {
    close();
    heard = performance.now();
    source = new EventSource(main.dataset.stream);
    tell(true);
    source.addEventListener("beat", () => { heard = performance.now(); });
    source.addEventListener("page", (event) => { heard = performance.now(); update(event.data); });
    source.onerror = () => { if (source && source.readyState === EventSource.CLOSED) { close(); isPolling = true; } };
  };
  const poll = async () => {
    polledAt = performance.now();
    try {
      const response = await fetch(location.href);
      if (response.ok) update(await response.text());
    } catch { /* what is shown gets older, and says so */ }
  };
  const isSeen = () => document.visibilityState === "visible" && !isPaused;
  const tick = () => {
    showAges();
    if (!isSeen()) return;
    if (source && performance.now() - heard > 40000) { close(); isPolling = true; }
    if (isCrowded && others.size < mostStreams) {
      isCrowded = isPolling = false;
      open();
    }
    if (isPolling && performance.now() - polledAt > 20000) poll();
  };
  const change = () => { if (!isSeen()) close(); else if (!isPolling && !source) open(); };
  if (channel) channel.onmessage = (event) => {
    if (event.data.isOpen) others.add(event.data.name); else others.delete(event.data.name);
    if (!source || others.size < mostStreams) return;
    close();
    isCrowded = isPolling = true;
  };
  const button = document.createElement("button");
  button.type = "button";
  button.className = "pause";
  button.textContent = "Pause updates";
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Resume updates" : "Pause updates";
    change();
  });
  main.querySelector("h1").after(button);
  document.addEventListener("visibilitychange", change); // a tab that is not seen holds no connection
  addEventListener("pagehide", close);
  addEventListener("pageshow", change);
  setInterval(tick, 1000);
  change();
}

showAges();
const main = document.getElementById("main");
if (main.dataset.stream && window.EventSource) watch(main);
else setInterval(showAges, 1000);
