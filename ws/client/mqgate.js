// mqgate: client of the JSON protocol (mqgate.json.v1) for browsers and Node 22 or newer. No dependencies.
// It reconnects with back-off and jitter, resumes topics with history where they were, sends again what was
// not confirmed (the server drops duplicates where it stores), and never gives up unless the server says so.
// The types, with a description of each option, are in mqgate.d.ts.

const FINAL = new Set([1002, 1003, 1007, 1008, 1009, 1010]); // and 4400 to 4499: coming back would end the same way

export class MqgateError extends Error {
  constructor({ code = 'internal', message = '', retry = false, retryAfterMs = 0 }) {
    super(message || code);
    Object.assign(this, { name: 'MqgateError', code, retry, retryAfterMs });
  }
}

export class Client {
  #o; #ws; #id = 0; #subN = 0; #attempt = 0; #timer; #watch; #closed = false;
  #waiting = new Map(); // request id -> {resolve, reject, message, again}
  #outbox = [];         // what waits for a connection, in order
  #subs = new Map();
  state = 'offline';

  constructor(options = {}) {
    this.#o = {
      url: defaultURL(), minDelayMs: 500, maxDelayMs: 30000, maxPending: 1000, pingMs: 20000, timeoutMs: 15000,
      onstate: () => {}, onerror: (e) => console.warn('mqgate:', e.message), WebSocket: globalThis.WebSocket, ...options,
    };
    globalThis.addEventListener?.('online', this.#online);
    globalThis.addEventListener?.('offline', this.#offline);
    this.#open();
  }

  /** Publishes; resolves once the server has confirmed, also across reconnects. */
  publish(to, payload, options = {}) {
    return this.#request({ op: 'publish', dedupId: uuid(), ...options, to, ...body(payload) }, true);
  }

  /** Publishes what is worthless later, such as "is typing": dropped while offline, and nobody hears. */
  hint(to, payload) {
    if (this.state === 'online') this.#send({ op: 'publish', to, persistent: false, ...body(payload) });
  }

  /** Publishes and resolves with the reply of whoever consumes it. */
  async request(to, payload, options = {}) {
    return (await this.#request({ op: 'request', ...options, to, ...body(payload) }, false)).message;
  }

  /** Lists who receives what is published to a topic. */
  async presence(to) { return (await this.#request({ op: 'presence', to }, true)).present; }

  /** Subscribes until close() of the result; kept across reconnects. */
  subscribe(to, onmessage, options = {}) {
    const { onpresence, onmissed, onready, ...wire } = options;
    const id = `s${++this.#subN}`;
    const sub = { id, to, wire, onmessage, onpresence, onmissed, onready, people: new Map(), close: () => this.#unsubscribe(sub) };
    this.#subs.set(id, sub);
    if (this.state === 'online') this.#subscribe(sub);
    return { to, close: sub.close };
  }

  /** Ends the connection for good. What was not confirmed is rejected. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.('online', this.#online);
    globalThis.removeEventListener?.('offline', this.#offline);
    this.#ws?.close(1000);
    this.#lost(1000, 'closed');
  }

  #offline = () => { const ws = this.#ws; if (ws) { this.#lost(1006, 'no network'); ws.close(); } }; // no ping has to tell
  #online = () => { if (!this.#ws && !this.#closed) { this.#attempt = 0; clearTimeout(this.#timer); this.#open(); } };

  #open() {
    this.#setState('connecting');
    let ws;
    try { ws = new this.#o.WebSocket(this.#o.url, 'mqgate.json.v1'); } catch (e) { this.#o.onerror(e); return this.#again(); }
    this.#ws = ws;
    ws.onopen = () => { if (ws === this.#ws) this.#login(); };
    ws.onmessage = (e) => { if (ws === this.#ws) { this.#beat(); this.#receive(JSON.parse(e.data)); } };
    ws.onerror = () => {}; // onclose follows
    ws.onclose = (e) => { if (ws === this.#ws) this.#lost(e.code, e.reason); };
    this.#beat();
  }

  async #login() {
    const { user, password, token, clientId, name } = this.#o;
    const ws = this.#ws;
    try {
      const hello = await this.#request({ op: 'connect', user, password, token: await (typeof token === 'function' ? token() : token), clientId, name }, false, true);
      if (ws !== this.#ws) return;
      this.#attempt = 0;
      this.#setState('online', hello);
      for (const sub of this.#subs.values()) this.#subscribe(sub);
      const waiting = this.#outbox;
      this.#outbox = [];
      for (const message of waiting) this.#send(message);
    } catch (e) { this.#o.onerror(e); ws.close(); } // the close code says whether to come back
  }

  async #subscribe(sub) {
    const history = sub.epoch ? { ...sub.wire.history, epoch: sub.epoch, seq: sub.seq } : sub.wire.history;
    try {
      const wire = { op: 'subscribe', sub: sub.id, to: sub.to, ...sub.wire, history, presence: Boolean(sub.onpresence) };
      await this.#request(wire, false, true, (r) => { // at once: the first message may be behind it
        const resumed = sub.epoch !== undefined;
        // Before the first message the position is where the history begins for us; messages move it.
        if (r.epoch && sub.epoch !== r.epoch) { sub.epoch = r.epoch; sub.seq = wantsPast(history) ? Math.max(r.first - 1, 0) : r.last; }
        if (resumed && r.complete === false) sub.onmissed?.();
        sub.onready?.(r);
      });
    } catch (e) { if (e.code !== 'connection-lost') this.#o.onerror(e); }
  }

  #unsubscribe(sub) {
    if (this.#subs.delete(sub.id) && this.state === 'online') this.#send({ op: 'unsubscribe', sub: sub.id });
  }

  #request(message, again, now = false, onreply = undefined) {
    if (this.#closed) return Promise.reject(new MqgateError({ code: 'closed', message: 'the client is closed' }));
    if (this.#waiting.size >= this.#o.maxPending) return Promise.reject(new MqgateError({ code: 'full', message: 'too much waits for the connection', retry: true }));
    const m = { id: ++this.#id, ...message };
    return new Promise((resolve, reject) => {
      this.#waiting.set(m.id, { resolve, reject, message: m, again, onreply });
      if (now || this.state === 'online') this.#send(m); else this.#outbox.push(m);
    });
  }

  #send(m) { if (this.#ws?.readyState === 1) this.#ws.send(JSON.stringify(m)); }

  #receive(m) {
    if (m.reply) {
      const w = this.#waiting.get(m.reply);
      this.#waiting.delete(m.reply);
      if (m.error) w?.reject(new MqgateError(m.error)); else { w?.onreply?.(m); w?.resolve(m); }
      return;
    }
    const sub = this.#subs.get(m.sub);
    if (m.event === 'error') this.#o.onerror(new MqgateError(m.error));
    else if (m.event === 'message' && sub) this.#deliver(sub, m);
    else if (m.event === 'missed') sub?.onmissed?.();
    else if (m.event === 'presence' && sub) {
      if (m.present) sub.people = new Map(m.present.map((p) => [p.session, p]));
      for (const p of m.left ?? []) sub.people.delete(p.session);
      for (const p of m.joined ?? []) sub.people.set(p.session, p);
      sub.onpresence?.([...sub.people.values()], m);
    }
  }

  #deliver(sub, m) {
    if (m.seq) {
      if (m.seq <= sub.seq) return; // seen before the connection broke
      sub.seq = m.seq;
    }
    if (m.delivery) {
      m.ack = () => this.#request({ op: 'ack', sub: sub.id, delivery: m.delivery }, false);
      m.nack = (o = {}) => this.#request({ op: 'nack', sub: sub.id, delivery: m.delivery, ...o }, false);
    }
    try { sub.onmessage(m); } catch (e) { this.#o.onerror(e); }
  }

  // A connection that dies without a word is noticed by a ping that nobody answers.
  #beat() {
    clearTimeout(this.#watch);
    const quiet = this.state === 'online' ? this.#o.pingMs : this.#o.timeoutMs;
    this.#watch = setTimeout(() => {
      if (this.state === 'online') this.#send({ id: ++this.#id, op: 'ping' });
      this.#watch = setTimeout(() => { const ws = this.#ws; this.#lost(4501, 'no answer'); ws?.close(); }, this.state === 'online' ? this.#o.timeoutMs : 0);
    }, quiet);
  }

  #lost(code, reason) {
    clearTimeout(this.#watch);
    this.#ws = undefined;
    const final = this.#closed || FINAL.has(code) || (code >= 4400 && code < 4500);
    const error = new MqgateError({ code: final ? 'closed' : 'connection-lost', message: reason || `connection lost (${code})`, retry: !final });
    this.#outbox = [];
    for (const [id, w] of this.#waiting) {
      if (w.again && !final) { this.#outbox.push(w.message); continue; }
      this.#waiting.delete(id);
      w.reject(error);
    }
    if (final) { this.#closed = true; this.#setState('closed', { code, reason }); } else this.#again(code);
  }

  #again(code) {
    const ceiling = Math.min(this.#o.maxDelayMs, this.#o.minDelayMs * 2 ** this.#attempt++);
    const delayMs = ceiling / 2 + Math.random() * ceiling / 2; // jitter: a restart must not bring all back at once
    this.#setState('offline', { code, delayMs });
    this.#timer = setTimeout(() => this.#open(), delayMs);
  }

  #setState(state, info) { this.state = state; this.#o.onstate(state, info); }
}

const body = (p) => (p instanceof Uint8Array ? { base64: btoa(Array.from(p, (b) => String.fromCharCode(b)).join('')) } : typeof p === 'string' ? { body: p } : { data: p ?? null });
const wantsPast = (h) => Boolean(h && (h.last || h.sinceMs || h.epoch));
const uuid = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
const defaultURL = () => (globalThis.location ? `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws` : 'ws://127.0.0.1:8080/ws');
