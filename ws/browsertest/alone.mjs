// mqgate.js against a socket that the test plays: when it comes back, when it does not, and what it promises in its types.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Client, MqgateError } from './mqgate.js';

/** A socket in the hands of the test. */
class Socket {
  static all = [];
  static made = () => {};
  readyState = 0;
  sent = [];
  constructor(url, protocol) { Object.assign(this, { url, protocol }); Socket.all.push(this); queueMicrotask(() => Socket.made(this)); }
  send(text) { const m = JSON.parse(text); this.sent.push(m); this.onsend?.(m); }
  close() { this.readyState = 3; }
  open() { this.readyState = 1; this.onopen(); }
  say(m) { this.onmessage({ data: JSON.stringify(m) }); }
  lose(code, reason = '') { this.readyState = 3; this.onclose({ code, reason }); }
  /** Answers as a server does that likes everything. */
  agree() {
    this.onsend = (m) => { if (m.id) queueMicrotask(() => this.readyState === 1 && this.say({ reply: m.id, ok: true, present: [] })); };
    this.open();
  }
}
const states = (client, want) => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`state ${client.state}, not ${want}`)), 20000).unref();
  const look = () => (client.state === want ? resolve() : setTimeout(look, 1));
  look();
});
const options = { url: 'ws://nowhere/ws', WebSocket: Socket, minDelayMs: 4, maxDelayMs: 32, onerror: () => {} };

// Pauses double up to the longest, each with jitter, and begin anew after a success.
{
  const pauses = [];
  let done;
  const enough = new Promise((r) => { done = r; });
  Socket.made = (s) => s.lose(1006);
  const client = new Client({ ...options, onstate: (state, info) => { if (state === 'offline' && pauses.push(info.delayMs) === 12) done(); } });
  await enough;
  Socket.made = (s) => s.agree();
  const ceilings = pauses.map((_, i) => Math.min(32, 4 * 2 ** i));
  pauses.forEach((p, i) => assert.ok(p >= ceilings[i] / 2 && p <= ceilings[i], `pause ${i} is ${p} of ${ceilings[i]}`));
  assert.ok(new Set(pauses.slice(4)).size > 4, `no jitter: ${pauses}`);
  await states(client, 'online');
  Socket.made = () => {};
  Socket.all.at(-1).lose(1001);
  assert.ok(pauses.at(-1) <= 4, `after a success it waits ${pauses.at(-1)}`);
  client.close();
}

// Which close codes are final: as PROTOCOL.md says.
for (const [code, final] of [[1001, false], [1006, false], [1011, false], [1012, false], [1013, false], [4500, false], [4501, false], [4502, false], [4503, false],
  [1002, true], [1003, true], [1007, true], [1008, true], [1009, true], [4401, true], [4409, true], [4450, true]]) {
  Socket.made = (s) => s.agree();
  const client = new Client(options);
  await states(client, 'online');
  const waits = client.publish('/queue/a', 'x');
  Socket.made = () => {};
  const before = Socket.all.length;
  Socket.all.at(-1).lose(code, 'so it is');
  if (final) {
    assert.equal(client.state, 'closed', `${code}`);
    await assert.rejects(waits, (e) => e instanceof MqgateError && e.code === 'closed' && !e.retry && e.message === 'so it is');
    globalThis.dispatchEvent?.(new Event('online'));
    await new Promise((r) => setTimeout(r, 10));
    assert.equal(Socket.all.length, before, `${code} brought it back`);
  } else {
    assert.equal(client.state, 'offline', `${code}`);
    Socket.made = (s) => s.agree();
    await waits; // sent again, with the same id
    const ids = Socket.all.flatMap((s) => s.sent).filter((m) => m.op === 'publish').map((m) => m.dedupId);
    assert.equal(ids.at(-1), ids.at(-2));
  }
  client.close();
}

// A subscription resumes behind the last message, a request is not sent twice, and what is only a hint is not sent later.
{
  Socket.made = (s) => {
    s.onsend = (m) => { if (m.id) queueMicrotask(() => s.say({ reply: m.id, ok: true, ...(m.op === 'subscribe' && { epoch: 9, first: 1, last: 5, complete: true }) })); };
    s.open();
  };
  const asked = [];
  const client = new Client({ ...options, token: () => { asked.push('token'); return 'T'; } });
  await states(client, 'online');
  const seen = [];
  await new Promise((r) => client.subscribe('/topic/chat/a', (m) => seen.push(m.seq), { history: { last: 2 }, onready: r }));
  const first = Socket.all.at(-1);
  for (const seq of [4, 5, 5, 6]) first.say({ event: 'message', sub: 's1', seq, id: `${seq}`, to: '/topic/chat/a', timeMs: 1, body: 'x' });
  first.onsend = undefined; // it is silent now
  const call = client.request('/queue/a', 'x');
  first.lose(1006);
  await assert.rejects(call, (e) => e.code === 'connection-lost' && e.retry);
  client.hint('/topic/typing', 'x');
  await states(client, 'online');
  await new Promise((r) => setTimeout(r, 5));
  const second = Socket.all.at(-1);
  assert.notEqual(second, first);
  assert.deepEqual(second.sent.map((m) => m.op), ['connect', 'subscribe']);
  assert.deepEqual(second.sent[1].history, { last: 2, epoch: 9, seq: 6 });
  assert.equal(second.sent[0].token, 'T');
  assert.equal(asked.length, 2, 'a token for each connection');
  assert.deepEqual(seen, [4, 5, 6]);
  client.close();
}

// A server that says nothing more is noticed; what waits is bounded.
{
  Socket.made = (s) => s.agree();
  const lost = [];
  const client = new Client({ ...options, pingMs: 20, timeoutMs: 500, maxPending: 3, onstate: (state, info) => { if (state === 'offline') lost.push(info.code); } });
  await states(client, 'online');
  const silent = Socket.all.at(-1);
  silent.onsend = undefined;
  await states(client, 'offline');
  assert.deepEqual(lost, [4501]);
  assert.ok(silent.sent.some((m) => m.op === 'ping'));
  Socket.made = () => {};
  client.close();
  const idle = new Client({ ...options, maxPending: 3 });
  const waits = [1, 2, 3].map((n) => idle.publish('/queue/a', n).catch((e) => e.code));
  await assert.rejects(idle.publish('/queue/a', 4), (e) => e.code === 'full' && e.retry);
  idle.close();
  assert.deepEqual(await Promise.all(waits), ['closed', 'closed', 'closed']);
}

// The types name what is there.
const types = readFileSync(process.env.TYPES, 'utf8');
const code = readFileSync(new URL('./mqgate.js', import.meta.url), 'utf8');
const block = (name) => types.slice(types.indexOf(name)).match(/\{([\s\S]*?)\n\}/)[1].replace(/\/\*\*[\s\S]*?\*\//g, '');
for (const m of block('class Client').matchAll(/^ {2}(?:readonly )?(\w+)[(:<]/gm)) {
  if (m[1] !== 'constructor') assert.ok(m[1] === 'state' || m[1] in Client.prototype, `there is no ${m[1]}`);
}
const methods = Object.getOwnPropertyNames(Client.prototype).filter((n) => n !== 'constructor');
assert.ok(methods.length > 4);
for (const method of methods) assert.match(block('class Client'), new RegExp(`\\b${method}\\(`), `the types lack ${method}`);
for (const m of block('interface ClientOptions').matchAll(/^ {2}(\w+)\?:/gm)) assert.match(code, new RegExp(`\\b${m[1]}\\b`), `nothing reads the option ${m[1]}`);
for (const name of Object.keys(new MqgateError({}))) if (name !== 'name') assert.match(block('class MqgateError'), new RegExp(`\\b${name}\\b`));
console.log('alone: all done');
