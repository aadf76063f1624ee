// The chat page: shows what the service tells, and sends what the user says.

import {Connection} from "./connection.js";
import {render} from "./markdown.js";

const settings = JSON.parse(document.documentElement.dataset.settings);
const labels = {
  attach: "Add image",
  answer: "Answer",
  answering: "Answering…",
  begin: "New conversation",
  close: "Close",
  connecting: "Connecting…",
  conversation: "Conversation",
  copy: "Copy",
  download: "Download",
  images: "images",
  lost: "No connection. Trying again…",
  message: "Message",
  notSent: "Not sent.",
  remove: "Remove",
  replaced: "This chat is open in other tabs.",
  retry: "Try again",
  send: "Send",
  signIn: "Sign in",
  stop: "Stop",
  table: "Table",
  token: "Access key",
  tooLarge: "This image is too large, or of another kind.",
  wrongToken: "This key was not accepted.",
  you: "You",
  ...settings.labels,
};
const element = id => document.getElementById(id);
const framed = window.parent !== window;
const unsent = new Map(); // what the service has not confirmed, by id
const shown = new Map(); // entries by id, each with its list item
let attached = [];
let dirty = new Set();
let commands = {};
let hasTried = false;

// --- what the service tells

const events = {
  connected: () => status(""),
  lost: () => status(labels.lost),
  replaced: () => status(labels.replaced, labels.retry, () => connection.wake()),
  unauthorized: () => askForToken(),
  state(state) {
    shown.forEach(({item}) => item.remove());
    shown.clear();
    state.entries.forEach(show);
    for (const [id, entry] of unsent) if (!shown.has(id)) show(entry);
    events.busy(state);
    events.commands(state);
    greeting();
  },
  entry(entry) {
    show(entry);
    if (entry.role === "agent" && !entry.draft) announce(entry.id);
  },
  delta({id, text}) {
    const entry = shown.get(id);
    if (!entry) return;
    entry.text += text;
    later(id);
  },
  done({id, ...extra}) {
    const entry = shown.get(id);
    if (!entry) return;
    show({...entry, ...extra, draft: false});
    announce(id);
  },
  remove({id}) {
    shown.get(id)?.item.remove();
    shown.delete(id);
  },
  busy({busy}) {
    element("stop").hidden = !busy;
    document.body.classList.toggle("busy", busy);
    element("log").setAttribute("aria-busy", String(busy));
    if (busy) element("announcer").textContent = labels.answering;
  },
  commands(told) {
    commands = told.commands;
    suggest();
  },
};

const base = new URL(".", import.meta.url);
const connection = new Connection(base, framed, (kind, data) => {
  if (["connected", "lost", "replaced", "unauthorized"].includes(kind)) document.body.dataset.state = kind;
  events[kind]?.(data);
});

// --- the conversation

function show(entry) {
  const known = shown.get(entry.id);
  const item = known?.item ?? document.createElement("li");
  item.className = entry.role;
  item.classList.toggle("draft", Boolean(entry.draft));
  if (!known) element("log").append(item);
  shown.set(entry.id, {...entry, item});
  if (entry.role === "user" && entry.state === undefined) unsent.delete(entry.id);
  draw(entry.id);
}

function later(id) {
  if (!dirty.size) requestAnimationFrame(() => {
    const all = dirty;
    dirty = new Set();
    all.forEach(draw);
  });
  dirty.add(id);
}

function draw(id) {
  const entry = shown.get(id);
  if (!entry) return;
  const scroll = element("scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  const {item} = entry;
  if (!item.body) {
    const who = document.createElement("span");
    who.className = "unseen";
    who.textContent = entry.role === "user" ? `${labels.you}: ` : `${labels.answer}: `;
    item.body = document.createElement("div");
    item.body.dir = "auto";
    item.more = document.createElement("div");
    item.more.className = "more";
    item.append(who, item.body, item.more);
  }
  if (entry.role === "user") item.body.textContent = entry.text;
  else render(item.body, entry.text, labels);
  item.more.replaceChildren(...extras(entry));
  greeting();
  if (atEnd || entry.role === "user") scroll.scrollTop = scroll.scrollHeight;
}

function extras(entry) {
  const all = [];
  if (entry.images) all.push(note(`${entry.images} ${labels.images}`));
  for (const file of entry.files ?? []) all.push(fileOf(file, entry.item));
  for (const row of entry.buttons ?? []) all.push(buttonsOf(row, entry));
  if (entry.state === "failed") {
    all.push(note(`${labels.notSent} ${entry.reason ?? ""}`), button(labels.retry, () => deliver(entry.id)));
  }
  return all;
}

function buttonsOf(row, entry) {
  const line = document.createElement("div");
  line.className = "buttons";
  for (const {text, value, url} of row) {
    if (url === undefined) {
      const each = button(text, () => {
        entry.pressed = shown.get(entry.id).pressed = true;
        draw(entry.id);
        say(text, {button: value});
        element("text").focus();
      });
      each.disabled = Boolean(entry.pressed);
      line.append(each);
    } else {
      line.append(linkTo(url, text));
    }
  }
  return line;
}

// What comes with an answer; made once, since it is fetched.
function fileOf(file, item) {
  item.files ??= new Map();
  const key = file.id ?? file.url ?? file.name;
  if (item.files.has(key)) return item.files.get(key);
  const holder = document.createElement("div");
  item.files.set(key, holder);
  if (!file.id) {
    holder.append(file.url ? linkTo(file.url, file.name) : note(file.name));
    return holder;
  }
  const size = file.size < 1024 ? `${file.size} B` : `${Math.round(file.size / 1024)} KB`;
  holder.append(button(`${labels.download} ${file.name} (${size})`, async () => {
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(await contentOf(file));
    anchor.download = file.name;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
  }));
  if (file.kind !== "file") contentOf(file).then(content => {
    const media = document.createElement(file.kind === "image" ? "img" : file.kind);
    if (file.kind === "image") media.alt = file.name;
    else media.controls = true;
    media.src = URL.createObjectURL(content);
    holder.prepend(media);
  }, () => {});
  return holder;
}

async function contentOf(file) {
  const response = await connection.fetch(`files/${file.id}`);
  if (!response.ok) throw new Error(String(response.status));
  return response.blob();
}

function linkTo(url, text) {
  let address = null;
  try {
    address = new URL(url);
  } catch {
    // said as text
  }
  if (!address || !["http:", "https:", "mailto:"].includes(address.protocol)) return note(`${text}: ${url}`);
  const anchor = document.createElement("a");
  anchor.href = address.href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  anchor.textContent = text;
  return anchor;
}

function note(text) {
  const small = document.createElement("small");
  small.textContent = text;
  return small;
}

function button(text, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", press);
  return made;
}

function greeting() {
  const known = element("greeting");
  if (shown.size || !settings.greeting) known?.remove();
  else if (!known) {
    const box = document.createElement("div");
    box.id = "greeting";
    render(box, settings.greeting, labels);
    element("scroll").prepend(box);
  }
}

// A screen reader hears an answer once, when it is whole.
function announce(id) {
  element("announcer").textContent = `${labels.answer}: ${shown.get(id).item.body.textContent.slice(0, 2_000)}`;
}

function status(text, offer, act) {
  element("status").replaceChildren(...(text ? [document.createTextNode(text)] : []), ...(offer ? [button(offer, act)] : []));
}

// --- what the user says

function say(text, more = {}) {
  const id = crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
  const images = more.images ?? [];
  unsent.set(id, {id, role: "user", text, images: images.length, state: "sending", message: {id, text, ...more, ...place()}});
  if (!more.quiet) show(unsent.get(id));
  return deliver(id);
}

async function deliver(id) {
  const entry = unsent.get(id);
  entry.state = "sending";
  if (shown.has(id)) show(entry);
  try {
    await connection.send(entry.message);
    unsent.delete(id);
  } catch (error) {
    if (!unsent.has(id)) return; // an event has confirmed it
    entry.state = "failed";
    entry.reason = error.message;
    show(entry);
    status("");
  }
}

function place() {
  return {locale: navigator.language, timezone: Intl.DateTimeFormat().resolvedOptions().timeZone};
}

function submit() {
  const field = element("text");
  const text = field.value;
  if (!text.trim() && !attached.length) return;
  const images = attached;
  attached = [];
  field.value = "";
  drawImages();
  suggest();
  fit();
  say(text, images.length ? {images: images.map(({type, data}) => ({type, data}))} : {});
}

function suggest() {
  const typed = element("text").value;
  const names = /^\/\S*$/.test(typed) ? Object.keys(commands).filter(name => name.startsWith(typed.slice(1))) : [];
  const list = element("commands");
  list.hidden = !names.length;
  list.replaceChildren(...names.map(name => {
    const item = document.createElement("li");
    item.append(button(`/${name}`, () => {
      element("text").value = `/${name} `;
      suggest();
      element("text").focus();
    }), note(commands[name]));
    return item;
  }));
}

async function attach(files) {
  for (const file of files) {
    const total = attached.reduce((sum, each) => sum + each.size, file.size);
    if (!settings.imageTypes.includes(file.type) || total > settings.maxUpload || attached.length >= settings.maxImages) {
      status(labels.tooLarge);
      continue;
    }
    const bytes = new Uint8Array(await file.arrayBuffer());
    let binary = "";
    for (let at = 0; at < bytes.length; at += 32_768) binary += String.fromCharCode(...bytes.subarray(at, at + 32_768));
    attached.push({name: file.name, type: file.type, size: file.size, data: btoa(binary)});
  }
  drawImages();
}

function drawImages() {
  const list = element("images");
  list.hidden = !attached.length;
  list.replaceChildren(...attached.map((image, index) => {
    const item = document.createElement("li");
    item.append(note(image.name), button(`${labels.remove} ${image.name}`, () => {
      attached.splice(index, 1);
      drawImages();
      element("text").focus();
    }));
    return item;
  }));
}

function fit() {
  const field = element("text");
  field.rows = Math.min(8, field.value.split("\n").length);
}

function askForToken() {
  element("composer").hidden = true;
  element("sign-in").hidden = false;
  status(hasTried ? labels.wrongToken : "");
  hasTried = false;
  element("token").focus();
}

function useToken(token) {
  hasTried = true;
  element("sign-in").hidden = true;
  element("composer").hidden = false;
  status(labels.connecting);
  connection.useToken(token);
}

// --- the page

for (const each of document.querySelectorAll("[data-label]")) each.textContent = labels[each.dataset.label];
for (const each of document.querySelectorAll("[data-name]")) each.setAttribute("aria-label", labels[each.dataset.name]);
element("text").maxLength = settings.maxLength;
element("file").accept = settings.imageTypes.join(",");
element("attach").hidden = !settings.maxImages;
element("close").hidden = !framed;
element("composer").addEventListener("submit", event => {
  event.preventDefault();
  submit();
});
element("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
element("text").addEventListener("input", () => {
  suggest();
  fit();
});
element("text").addEventListener("paste", event => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    attach(files);
  }
});
element("attach").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", event => {
  attach([...event.target.files]).then(() => element("text").focus());
  event.target.value = "";
});
element("stop").addEventListener("click", () => say("/stop", {quiet: true}));
element("new").addEventListener("click", () => {
  say("/new", {quiet: true});
  element("text").focus();
});
element("sign-in").addEventListener("submit", event => {
  event.preventDefault();
  useToken(element("token").value.trim());
  element("token").value = "";
});

if (framed) {
  const leave = () => parent.postMessage({type: "definable-chat:close"}, "*"); // it says nothing of anybody
  element("close").addEventListener("click", leave);
  addEventListener("keydown", event => event.key === "Escape" && leave());
  addEventListener("message", event => {
    if (event.source !== parent || event.data?.type !== "definable-chat:token" || !isAllowed(event.origin)) return;
    useToken(String(event.data.token));
  });
  parent.postMessage({type: "definable-chat:ready"}, "*");
}

function isAllowed(origin) {
  return origin === location.origin || settings.origins.some(allowed => {
    const [scheme, host] = allowed.split("://");
    return host.startsWith("*.") ? origin.startsWith(`${scheme}://`) && origin.endsWith(host.slice(1)) : origin === allowed;
  });
}

status(labels.connecting);
connection.listen();
