"use strict";
// The page is whole without this: it keeps what is shown up to date, and copies commands.
const live = document.getElementById("live");
let asked = 0;
async function again() {
  const turn = ++asked;
  try {
    const answer = await fetch(location.pathname, {headers: {Accept: "text/html"}});
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    if (turn !== asked || !fresh) return; // a newer one is on its way
    const held = document.activeElement && document.activeElement.id;
    document.querySelector("main").replaceWith(document.adoptNode(fresh));
    if (held && document.getElementById(held)) document.getElementById(held).focus();
    live.textContent = "live";
  } catch {
    live.textContent = "not live: guardian does not answer";
  }
}
const stream = new EventSource("/events");
stream.onopen = again; // what was missed meanwhile
stream.addEventListener("changed", again);
stream.onerror = () => { live.textContent = "not live: trying again"; };
document.addEventListener("click", async event => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch { // without TLS a browser lends no clipboard
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
});
