// The pages' one script. Every page works without it but for live figures, keys, marks and dropping files.

const $ = (what, where = document) => where.querySelector(what);
const $$ = (what, where = document) => [...where.querySelectorAll(what)];

// -- said for a moment, at the foot of the page

let silence;
export function say(text) {
  const box = $("#say");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { box.hidden = true; }, 4000);
}

// -- times by the reader's own clock

function localise(where) {
  const today = new Date().toDateString();
  for (const time of $$("time[datetime]", where)) {
    const at = new Date(time.dateTime);
    const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    time.title = at.toLocaleString();
    time.textContent = at.toDateString() === today ? clock : `${at.toLocaleDateString([], { day: "numeric", month: "short" })} ${clock}`;
  }
}

// -- live figures: the page is asked for again where something has changed, and what differs is put in place

const KEPT = new Set(["checked", "open"]); // what is the reader's

function patch(now, then) {
  if (now.isEqualNode(then)) return;
  for (const { name } of [...now.attributes]) if (!then.hasAttribute(name) && !KEPT.has(name) && name !== "tabindex") now.removeAttribute(name);
  for (const { name, value } of then.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  const kept = new Map($$(":scope > [id]", now).map(child => [child.id, child]));
  let at = now.firstChild;
  for (const next of [...then.childNodes]) {
    const same = next.id ? kept.get(next.id) : at && !at.id && at.nodeName === next.nodeName ? at : null;
    if (!same) { now.insertBefore(document.importNode(next, true), at); continue; }
    if (same !== at) now.insertBefore(same, at); else at = at.nextSibling;
    if (same.nodeType === Node.TEXT_NODE) { if (same.data !== next.data) same.data = next.data; }
    else if (same.nodeType === Node.ELEMENT_NODE) patch(same, next);
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  localise(page);
  for (const part of $$("[data-live]")) {
    const next = page.getElementById(part.id);
    if (next) patch(part, next);
  }
  document.title = page.title;
  marked();
}

let tag = "", failed = 0;
async function look() {
  try {
    const answer = await fetch("/api/live", { headers: tag ? { "if-none-match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      const first = !tag;
      tag = answer.headers.get("etag") || "";
      if (!first || !tag) await refresh();
    }
    if (failed) { document.body.classList.remove("lost"); await refresh(); }
    failed = 0;
  } catch {
    if (++failed === 2) { document.body.classList.add("lost"); say("The server does not answer; this page shows what was true before."); }
  }
}
async function watch() {
  for (;;) {
    if (document.visibilityState === "visible") await look();
    await new Promise(wake => setTimeout(wake, 2000));
  }
}

// -- the overview: marking for comparing

function marked() {
  const button = $("#compare");
  if (!button) return;
  const boxes = $$("#rows input[type=checkbox]"), on = boxes.filter(box => box.checked);
  button.disabled = on.length < 2 || on.length > 6;
  button.textContent = on.length > 1 ? `Compare ${on.length} batches` : "Compare";
  $("#marked").textContent = on.length > 6 ? "Six at most." : on.length > 1 ? "" : "Mark two to six batches.";
  const input = on.length ? on[0].closest("tr").dataset.input : "";
  for (const box of boxes) {
    const row = box.closest("tr");
    row.classList.toggle("same", !!input && row.dataset.input === input);
  }
}
document.addEventListener("change", event => { if (event.target.matches("#rows input")) marked(); });

// -- forms that ask first, or that are answered in place

document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.sure && !confirm(button.dataset.sure)) { event.preventDefault(); return; }
  if (button.matches("[data-copy]")) copy(button);
  if (button.closest("dialog")) return;
  if (button.formMethod === "post" && button.hasAttribute("formaction") && /\/(pause|resume|cancel)$/.test(button.formAction)) {
    event.preventDefault();
    control(button);
  }
});

async function control(button) {
  button.disabled = true;
  const answer = await fetch(button.formAction, { method: "POST", redirect: "manual", body: new URLSearchParams({ back: "/" }) });
  button.disabled = false;
  if (answer.type !== "opaqueredirect" && !answer.ok) return say(`Not done: the server said ${answer.status}.`);
  say(`${button.textContent}: asked for`);
  setTimeout(refresh, 700);
}

async function copy(button) {
  const text = $("pre", button.closest(".snippet"));
  try { await navigator.clipboard.writeText(text.textContent); } catch { getSelection().selectAllChildren(text); }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

// -- sending files: an upload, then a batch of it, as every client does

const suffix = name => (name.match(/\.jsonl(\.gz|\.zst)?$/) || [""])[0];

async function endpoint(file) {
  if (!file.name.endsWith(".jsonl")) return "/v1/chat/completions";
  try { return JSON.parse((await file.slice(0, 1 << 20).text()).split("\n").find(line => line.trim())).url || "/v1/chat/completions"; }
  catch { return "/v1/chat/completions"; }
}

function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const form = new FormData(), request = new XMLHttpRequest();
    form.append("purpose", "batch");
    form.append("file", file, file.name);
    request.open("POST", "/v1/files");
    request.responseType = "json";
    request.upload.onprogress = event => { if (event.lengthComputable) { progress.max = event.total; progress.value = event.loaded; } };
    request.onerror = () => reject(new Error("the connection broke; nothing was sent"));
    request.onload = () => request.status === 200 ? resolve(request.response) : reject(new Error(request.response?.error?.message || `the server said ${request.status}`));
    request.send(form);
  });
}

async function send(file) {
  const line = document.createElement("li"), name = document.createElement("bdi"), said = document.createElement("span"), progress = document.createElement("progress");
  name.textContent = file.name;
  said.className = "dim";
  said.textContent = "being sent";
  progress.max = 1; progress.value = 0; progress.setAttribute("aria-label", "sent");
  line.append(name, said, progress);
  $("#sent").prepend(line);
  try {
    if (!suffix(file.name)) throw new Error("its name must end in .jsonl, .jsonl.gz or .jsonl.zst");
    const stored = await upload(file, progress);
    const answer = await fetch("/v1/batches", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ input_file_id: stored.id, endpoint: await endpoint(file), completion_window: "24h" }) });
    const batch = await answer.json();
    if (!answer.ok) throw new Error(batch.error?.message || `the server said ${answer.status}`);
    const link = document.createElement("a");
    link.href = `/batches/${encodeURIComponent(batch.id)}`;
    link.textContent = "sent; it is a batch now";
    said.replaceChildren(link);
    refresh();
  } catch (error) {
    said.className = "state bad";
    said.textContent = `not sent: ${error.message}`;
  }
  progress.remove();
}

const field = $("#drop");
if (field) {
  field.hidden = false;
  $("input", field).addEventListener("change", event => { [...event.target.files].forEach(send); event.target.value = ""; });
  const files = event => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", event => { if (files(event)) { event.preventDefault(); field.classList.add("over"); } });
  addEventListener("dragleave", event => { if (!event.relatedTarget) field.classList.remove("over"); });
  addEventListener("drop", event => {
    if (!files(event)) return;
    event.preventDefault();
    field.classList.remove("over");
    [...event.dataTransfer.files].forEach(send);
    $("#sent").scrollIntoView({ block: "nearest" });
  });
}

// -- keys

const keys = $("#keys");
const KEYS = {
  "?": () => keys.showModal(),
  "/": () => $("input[type=search]")?.focus(),
  "[": () => $("[rel=prev]")?.click(),
  "]": () => $("[rel=next]")?.click(),
};
if ($("#rows")) {
  const step = by => {
    const links = $$("#rows .name a"), at = links.indexOf(document.activeElement?.closest("tr")?.querySelector(".name a"));
    links[Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
  };
  Object.assign(KEYS, {
    j: () => step(1),
    k: () => step(-1),
    x: () => $("input[type=checkbox]", document.activeElement?.closest("#rows tr") || document.createElement("i"))?.click(),
    c: () => { const button = $("#compare"); if (!button.disabled) button.click(); },
  });
}

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  if (event.target.matches("input:not([type=checkbox], [type=radio]), select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
  const does = KEYS[event.key];
  if (does) { event.preventDefault(); does(); }
});

localise(document);
for (const button of $$("[data-copy]")) button.hidden = false;
marked();
if ($("[data-live]")) watch();
