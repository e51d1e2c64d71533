"use strict";
// The page is whole without this: it keeps what is shown up to date, and copies commands.
const live = document.getElementById("live"), asOf = document.getElementById("as-of");
let asked = 0, stream, late;
async function again() {
  const turn = ++asked;
  try {
    const answer = await fetch(location.pathname, {headers: {Accept: "text/html"}});
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (turn !== asked) return; // a newer one is on its way
    const held = document.activeElement && document.activeElement.id;
    document.querySelector("main").replaceWith(document.adoptNode(fresh.querySelector("main")));
    asOf.textContent = fresh.getElementById("as-of").textContent;
    if (held && document.getElementById(held)) document.getElementById(held).focus();
    live.textContent = "live";
  } catch { // no answer, or one that is not guardian's
    if (turn === asked) live.textContent = "not live, trying again";
  }
}
function listen() {
  if (stream) stream.close();
  stream = new EventSource("/events");
  stream.onopen = again; // what was missed meanwhile
  stream.addEventListener("changed", () => {
    again();
    clearTimeout(late);
    late = setTimeout(again, 3000); // the replica that answers may see it a little later than the one that told
  });
  stream.onerror = () => {
    live.textContent = "not live, trying again";
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => { if (!document.hidden) listen(); }, 5000); // a browser does not, after an answer
  };
}
listen();
// A browser has few connections to one server: a tab that nobody looks at needs none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream.close();
  else listen();
});
setInterval(() => { if (!document.hidden) again(); }, 30000);
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
