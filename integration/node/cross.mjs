// Peers of the cross-protocol table that are JavaScript: stompjs, mqtt.js, and the WebSocket of a browser, over
// WebSocket. Each line of the input is a call, {n, conn, do, …}; its answer, {n, …} or {n, error}, is a line of the
// output. Bodies and correlation data are in base64.
import { createInterface } from 'node:readline';
import { WebSocket } from 'ws';
import { Client as Stomp, Versions } from '@stomp/stompjs';
import mqtt from 'mqtt';
import { chromium } from 'playwright-core';

const bytes = (b64) => Buffer.from(b64 ?? '', 'base64');
const b64 = (b) => Buffer.from(b ?? '').toString('base64');

/** Inbox is what came and nobody has asked for, or who asked and nothing has come. */
class Inbox {
  #items = []; #wanted = [];
  put(x) { const w = this.#wanted.shift(); if (w) w(x); else this.#items.push(x); }
  take(limitMs) {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.#wanted = this.#wanted.filter((w) => w !== got); reject(new Error(`nothing came in ${limitMs} ms`)); }, limitMs);
      const got = (x) => { clearTimeout(timer); resolve(x); };
      this.#wanted.push(got);
    });
  }
}

const standard = new Set(['subscription', 'message-id', 'destination', 'ack', 'redelivered', 'x-delivery-count', 'JMSXDeliveryCount', 'expires', 'priority',
  'timestamp', 'persistent', 'correlation-id', 'reply-to', 'content-type', 'content-length', 'retained']);

class StompPeer {
  #client; #inbox = new Inbox(); #receipts = 0;
  async connect({ url, version, identity, binary }) {
    const client = this.#client = new Stomp({
      webSocketFactory: () => new WebSocket(url, [`v${version.replace('.', '')}.stomp`]), stompVersions: new Versions([version]), reconnectDelay: 0,
      connectHeaders: identity ? { 'client-id': identity } : {}, forceBinaryWSFrames: binary, heartbeatIncoming: 0, heartbeatOutgoing: 0,
    });
    await new Promise((resolve, reject) => {
      client.onConnect = resolve;
      client.onStompError = (f) => reject(new Error(f.headers.message));
      client.onWebSocketClose = (e) => reject(new Error(`closed: ${e.code} ${e.reason}`));
      client.activate();
    });
    if (client.connectedVersion !== version) throw new Error(`connected by ${client.connectedVersion}`);
    Object.assign(this, { identity, bare: version === '1.1' }); // in 1.1 stompjs escapes no headers: it is given none
  }
  #confirmed(f) {
    const receipt = `r${++this.#receipts}`;
    return new Promise((resolve, reject) => {
      this.#client.onStompError = (e) => reject(new Error(e.headers.message));
      this.#client.onWebSocketClose = (e) => reject(new Error(`closed: ${e.code} ${e.reason}`));
      this.#client.watchForReceipt(receipt, resolve);
      f(receipt);
    });
  }
  send({ to, body, text, persistent, retain, contentType, replyTo, correlation, headers, expiresMs }) {
    const h = {};
    if (this.bare) contentType = replyTo = correlation = headers = expiresMs = undefined;
    for (const [name, value] of headers ?? []) h[name] ??= value; // of two with one name the first counts
    if (contentType) h['content-type'] = contentType;
    if (correlation) h['correlation-id'] = bytes(correlation).toString();
    if (replyTo?.stomp) h['reply-to'] = replyTo.stomp;
    if (expiresMs) h.expires = String(Date.now() + expiresMs);
    if (persistent) h.persistent = 'true';
    if (retain) h.retain = 'true';
    const content = text ? { body: bytes(body).toString(), skipContentLengthHeader: true } : { binaryBody: new Uint8Array(bytes(body)) };
    return this.#confirmed((receipt) => this.#client.publish({ destination: to.stomp, headers: { ...h, receipt }, ...content }));
  }
  subscribe({ from, durable, retained }) {
    const h = { id: '1', ack: 'client-individual' };
    if (durable) h['activemq.subscriptionName'] = this.identity;
    if (retained) h.retained = 'true';
    return this.#confirmed((receipt) => this.#client.subscribe(from.stomp, (m) => this.#inbox.put(m), { ...h, receipt }));
  }
  async receive({ limitMs }) {
    const m = await this.#inbox.take(limitMs), h = m.headers;
    await this.#confirmed((receipt) => m.ack({ receipt }));
    return {
      body: b64(m.binaryBody), to: { stomp: h.destination }, contentType: h['content-type'], replyTo: { stomp: h['reply-to'] },
      correlation: b64(h['correlation-id']), persistent: h.persistent === 'true', retain: h.retained === 'true',
      expiresMs: Number(h.expires ?? 0) > 0 ? Number(h.expires) - Date.now() : 0,
      headers: Object.entries(h).filter(([name]) => !standard.has(name)).reverse(), // stompjs reads them last first
    };
  }
  async leave({ forget }) {
    if (forget) await this.#confirmed((receipt) => this.#client.unsubscribe('1', { 'activemq.subscriptionName': this.identity, receipt }));
    this.#client.onWebSocketClose = () => {};
    await this.#client.deactivate();
  }
}

class MqttPeer {
  #client; #inbox = new Inbox();
  async connect({ url, version, identity }) {
    const v5 = version === '5';
    const client = this.#client = mqtt.connect(url, {
      protocolVersion: v5 ? 5 : 4, clean: !identity, reconnectPeriod: 0, ...(identity && { clientId: identity }),
      ...(v5 && identity && { properties: { sessionExpiryInterval: 3600 } }),
    });
    this.v5 = v5;
    client.on('message', (topic, payload, packet) => this.#inbox.put({ topic, payload, packet }));
    this.present = (await new Promise((resolve, reject) => { client.once('connect', resolve); client.once('error', reject); client.once('close', () => reject(new Error('closed'))); })).sessionPresent;
  }
  send({ to, body, text, persistent, retain, contentType, replyTo, correlation, headers, expiresMs }) {
    const userProperties = {};
    for (const [name, value] of headers ?? []) (userProperties[name] ??= []).push(value);
    const properties = this.v5 ? {
      ...(contentType && { contentType }), ...(replyTo?.mqtt && { responseTopic: replyTo.mqtt }), ...(correlation && { correlationData: bytes(correlation) }),
      ...(text && { payloadFormatIndicator: true }), ...(expiresMs && { messageExpiryInterval: Math.floor(expiresMs / 1000) }),
      ...(Object.keys(userProperties).length && { userProperties }), // mqtt.js sends nothing at all for an empty one
    } : undefined;
    return this.#client.publishAsync(to.mqtt, bytes(body), { qos: persistent ? 1 : 0, retain: Boolean(retain), properties });
  }
  async subscribe({ from, durable }) {
    this.from = from.mqtt;
    if (durable && this.present) return; // the session has it
    const [granted] = await this.#client.subscribeAsync(from.mqtt, { qos: 1 });
    if (granted?.qos !== 1) throw new Error(`granted ${JSON.stringify(granted)}`);
  }
  async receive({ limitMs }) {
    const { topic, payload, packet } = await this.#inbox.take(limitMs), p = packet.properties ?? {};
    return {
      body: b64(payload), to: { mqtt: topic }, persistent: packet.qos > 0, retain: packet.retain, contentType: p.contentType, replyTo: { mqtt: p.responseTopic },
      correlation: b64(p.correlationData), expiresMs: (p.messageExpiryInterval ?? 0) * 1000,
      headers: Object.entries(p.userProperties ?? {}).flatMap(([name, v]) => [v].flat().map((value) => [name, value])),
    };
  }
  async leave({ forget }) {
    if (forget) await this.#client.unsubscribeAsync(this.from);
    await this.#client.endAsync(false);
  }
}

/** The JSON protocol by the WebSocket of a page in Chromium, and nothing else. */
class BrowserPeer {
  static #page;
  static async page(url) {
    if (!this.#page) {
      const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox'] });
      this.#page = browser.newPage().then(async (page) => {
        await page.goto(url.replace('ws://', 'http://').replace(/\/ws$/, '/client/PROTOCOL.md')); // a page of the gateway's origin
        await page.evaluate(inPage);
        return page;
      });
      BrowserPeer.close = () => browser.close();
    }
    return this.#page;
  }
  static async close() {}
  async #call(what, ...args) { return (await BrowserPeer.page(this.url)).evaluate(([id, f, a]) => globalThis.peers[f](id, ...a), [this.id, what, args]); }
  async connect({ url, identity, conn }) {
    Object.assign(this, { url, id: conn, identity });
    await this.#call('open', url, { op: 'connect', ...(identity && { clientId: identity }) });
  }
  send({ to, body, text, persistent, retain, contentType, replyTo, correlation, headers, expiresMs }) {
    const h = {};
    for (const [name, value] of headers ?? []) h[name] ??= value;
    return this.#call('request', {
      op: 'publish', to: to.stomp, ...(text ? { body: bytes(body).toString() } : { base64: body ?? '' }), persistent: Boolean(persistent), retain: Boolean(retain),
      headers: h, ...(contentType && { contentType }), ...(replyTo?.stomp && { replyTo: replyTo.stomp }),
      ...(correlation && { correlationId: bytes(correlation).toString() }), ...(expiresMs && { ttlMs: expiresMs }),
    });
  }
  subscribe({ from, durable, retained }) {
    return this.#call('request', { op: 'subscribe', sub: 's', to: from.stomp, ack: 'client', ...(durable && { durable: this.identity }), retained: Boolean(retained) });
  }
  async receive({ limitMs }) {
    const m = await this.#call('receive', limitMs);
    if (m.delivery) await this.#call('request', { op: 'ack', sub: 's', delivery: m.delivery });
    return {
      body: m.base64 ?? b64(m.body ?? JSON.stringify(m.data)), to: { stomp: m.to }, persistent: m.persistent !== false, retain: m.retained === true,
      contentType: m.contentType, replyTo: { stomp: m.replyTo }, correlation: b64(m.correlationId), headers: Object.entries(m.headers ?? {}),
      expiresMs: m.expiresMs ? m.expiresMs - Date.now() : 0,
    };
  }
  async leave({ forget }) {
    if (forget) await this.#call('request', { op: 'unsubscribe', sub: 's', durable: this.identity, forget: true });
    await this.#call('close');
  }
}

/** Runs in the page. */
function inPage() {
  const all = new Map();
  const within = (ms, what, f) => new Promise((resolve, reject) => { setTimeout(() => reject(new Error(what)), ms); f(resolve, reject); });
  globalThis.peers = {
    async open(id, url, connect) {
      const c = { ws: new WebSocket(url, 'mqgate.json.v1'), n: 0, waiting: new Map(), came: [], wanted: [] };
      all.set(id, c);
      c.ws.onmessage = (e) => {
        const m = JSON.parse(e.data);
        if (m.reply) { const [ok, bad] = c.waiting.get(m.reply); if (m.error) bad(new Error(JSON.stringify(m.error))); else ok(m); return; }
        if (m.event === 'error') throw new Error(e.data);
        const w = c.wanted.shift();
        if (w) w(m); else c.came.push(m);
      };
      c.ws.onclose = (e) => { for (const [, bad] of c.waiting.values()) bad(new Error(`closed: ${e.code} ${e.reason}`)); };
      await within(10000, 'no connection', (ok) => { c.ws.onopen = ok; });
      await this.request(id, connect);
    },
    request(id, r) {
      const c = all.get(id), n = ++c.n;
      return within(30000, `no reply to ${r.op}`, (ok, bad) => { c.waiting.set(n, [ok, bad]); c.ws.send(JSON.stringify({ id: n, ...r })); });
    },
    receive(id, ms) {
      const c = all.get(id);
      return c.came.length ? c.came.shift() : within(ms, `nothing came in ${ms} ms`, (ok) => c.wanted.push(ok));
    },
    async close(id) { const c = all.get(id); await within(10000, 'no close', (ok) => { c.ws.onclose = ok; c.ws.close(1000); }); all.delete(id); },
  };
}

const kinds = { stomp: StompPeer, mqtt: MqttPeer, browser: BrowserPeer };
const conns = new Map();

async function call(c) {
  if (c.do === 'connect') conns.set(c.conn, new kinds[c.kind]());
  const peer = conns.get(c.conn);
  const answer = await peer[c.do](c);
  if (c.do === 'leave') conns.delete(c.conn);
  return ['receive'].includes(c.do) ? answer : {};
}

for await (const line of createInterface({ input: process.stdin })) {
  const c = JSON.parse(line);
  call(c).then((a) => ({ n: c.n, ...a }), (e) => ({ n: c.n, error: String(e?.message ?? e) })).then((a) => process.stdout.write(`${JSON.stringify(a)}\n`));
}
await BrowserPeer.close();
process.exit(0);
