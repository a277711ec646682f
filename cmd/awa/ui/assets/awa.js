// The pages need no script. This one says how old what they show is.
"use strict";

// words says how long something took, in seconds.
function words(seconds) {
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return Math.round(seconds / 3600) + " h";
}

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

showAges();
setInterval(showAges, 1000);
