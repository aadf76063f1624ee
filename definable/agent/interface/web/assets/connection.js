// The way to the service: who we are, messages that go out, events that come in.

const SILENCE = 40_000; // milliseconds; the service sends a comment every 15 s
const MAX_DELAY = 15_000;
const TRIES = 6;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export class Connection {
  // `tell(kind, data)` hears of events, and of "connected", "lost" and "unauthorized".
  constructor(base, framed, tell) {
    this.base = base;
    this.framed = framed;
    this.tell = tell;
    this.token = kept(sessionStore(), this.key("token"));
    this.visitor = framed ? kept(localStore(), this.key("visitor")) : null;
    this.lastId = "";
    this.replaced = false;
    this.wake = () => {};
    for (const event of ["online", "pageshow"]) addEventListener(event, () => this.wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.wake());
  }

  key(name) {
    return `definable-chat:${name}:${this.base.pathname}`;
  }

  useToken(token) {
    this.token = token;
    keep(sessionStore(), this.key("token"), token);
    this.wake();
  }

  fetch(path, options = {}) {
    const headers = {...options.headers};
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    if (this.visitor) headers["X-Chat-Visitor"] = this.visitor;
    return fetch(new URL(path, this.base), {...options, headers, credentials: "same-origin", cache: "no-store"});
  }

  post(path, body) {
    return this.fetch(path, {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify(body),
    });
  }

  // Sends a message, again and again with the same id while nobody says what became of it.
  async send(message) {
    for (let attempt = 1; ; attempt++) {
      let response = null;
      try {
        response = await this.post("messages", message);
      } catch {
        // the network: the message may have arrived, and its id says so
      }
      if (response?.ok) return;
      const status = response?.status ?? 0;
      if (status === 401) await this.introduce();
      const again = status === 0 || status === 401 || status === 429 || status === 503;
      if (!again || attempt === TRIES) throw new Refused(status, response ? await detail(response) : "");
      await this.pause(attempt, Number(response?.headers.get("Retry-After")) * 1000);
    }
  }

  // Becomes somebody whom the service knows.
  async introduce() {
    const token = this.token;
    const response = await this.post("session", {framed: this.framed});
    if (response.status === 401) {
      if (this.token !== token) return this.introduce(); // one that has come meanwhile
      this.token = null;
      this.tell("unauthorized");
      throw new Refused(401, await detail(response));
    }
    if (!response.ok) throw new Refused(response.status, await detail(response));
    const {visitor} = await response.json();
    if (visitor) {
      this.visitor = visitor;
      keep(localStore(), this.key("visitor"), visitor);
    }
  }

  // Listens for ever; what was missed comes first after every break.
  async listen() {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.introduce();
        await this.follow(() => { attempt = 0; });
        attempt = Math.max(attempt, 1);
      } catch (error) {
        if (error instanceof Refused && error.status === 401) {
          if (!this.token) await new Promise(resolve => { this.wake = resolve; }); // else one has come meanwhile
          attempt = 0;
          continue;
        }
      }
      if (this.replaced) {
        this.tell("replaced");
        await new Promise(resolve => { this.wake = resolve; });
        this.replaced = false;
        attempt = 0;
        continue;
      }
      this.tell("lost");
      await this.pause(attempt + 1, 0);
    }
  }

  async follow(connected) {
    const abort = new AbortController();
    let timer = setTimeout(() => abort.abort(), SILENCE);
    try {
      const headers = {Accept: "text/event-stream", ...(this.lastId && {"Last-Event-ID": this.lastId})};
      const response = await this.fetch("events", {headers, signal: abort.signal});
      if (!response.ok) throw new Refused(response.status, await detail(response));
      connected();
      this.tell("connected");
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (let rest = ""; ;) {
        const {value, done} = await reader.read();
        clearTimeout(timer);
        if (done) return;
        timer = setTimeout(() => abort.abort(), SILENCE);
        const blocks = (rest + decoder.decode(value, {stream: true})).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) this.take(block);
      }
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }

  take(block) {
    let kind = "message", data = "", id = null;
    for (const line of block.split("\n")) {
      if (line.startsWith("event: ")) kind = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
      else if (line.startsWith("id: ")) id = line.slice(4);
    }
    if (!data) return;
    if (kind === "replaced") this.replaced = true;
    else this.tell(kind, JSON.parse(data));
    if (id !== null) this.lastId = id;
  }

  pause(attempt, least) {
    const delay = Math.min(MAX_DELAY, 500 * 2 ** attempt) * (0.75 + Math.random() / 2);
    return new Promise(resolve => {
      setTimeout(resolve, Math.max(delay, least || 0));
      if (!least) this.wake = resolve;
    });
  }
}

async function detail(response) {
  try {
    return (await response.json()).detail ?? "";
  } catch {
    return "";
  }
}

// Browsers may refuse storage in frames of other sites: then a visitor is known until the page is left.
function localStore() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

function sessionStore() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

function kept(store, key) {
  try {
    return store?.getItem(key) ?? null;
  } catch {
    return null;
  }
}

function keep(store, key, value) {
  try {
    store?.setItem(key, value);
  } catch {
    // as above
  }
}
