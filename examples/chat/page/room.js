// A room as this browser knows it: its messages in order, who is there, who is typing, what was read.

import { cleanName } from './payload.js';

const KEPT = 400;              // messages in memory; the gateway keeps 200
const COMES_BACK_MS = 5000;    // who is away shorter than this (a reload, a tunnel) has not left
const TYPING_MS = 4000;

export class Room {
  items = [];           // in the order of the room; what is not confirmed is at the end
  unread = 0;
  people = new Map();   // name -> {name, connections, protocols}
  typing = new Map();   // name -> timer
  behind = true;        // the history is still coming
  #ids = new Map();     // message id -> item
  #keys = new Map();    // sender's key -> item: shown once, however often it was stored
  #removed = new Set(); // message ids, also of messages that come later
  #leaving = new Map(); // name -> timer
  #away;                // people, while the connection is lost
  #clock = 0;
  #last = {};           // the history's end when the subscription was confirmed
  #read;                // {epoch, seq}: the last message that was seen here

  /** view: {insert(room, item), refresh(room, item), drop(room, item), changed(room)} */
  constructor(name, view, readPosition) { Object.assign(this, { name, view }); this.#read = readPosition; }

  // ---- messages

  /** A message of the room's history or a new one. mine: it is from this browser's user. */
  receive(item, seq) {
    const own = item.key && this.#keys.get(item.key);
    // A second copy may be stored when a message is sent again long after its confirmation was lost.
    if (this.#ids.has(item.id) || own?.id) return this.#caughtUp(seq);
    // Clocks may jump; the room's order is that of its sequence.
    item.timeMs = this.#clock = Math.max(this.#clock, item.timeMs);
    item.seq = seq;
    if (this.#removed.has(item.id)) item.removed = true;
    if (own) { // what was sent from here takes its place among the others
      this.#take(own);
      item = Object.assign(own, { id: item.id, timeMs: item.timeMs, seq, sending: false, failed: undefined });
    }
    this.#typed(item.from);
    if (!item.mine && !item.removed && seq > (this.#read?.seq ?? Infinity)) this.unread++;
    this.#put(item);
    this.#caughtUp(seq);
  }

  /** A message that is on its way; receive() with the same key settles it. */
  sending(item) { this.#put(Object.assign(item, { sending: true })); }

  /** Shown here only, where it happens: who came and went. */
  note(text) {
    const last = this.items.findLast((i) => !i.sending);
    if (last?.note && last.notes < 6) {
      Object.assign(last, { text: `${last.text} · ${text}`, notes: last.notes + 1 });
      return this.view.refresh(this, last);
    }
    this.#put({ note: true, notes: 1, text, timeMs: Math.max(Date.now(), this.#clock) });
  }

  /** A message of the house: from a topic of its own, whose messages have an order of their own. */
  notice(item) {
    if (this.#ids.has(item.id)) return;
    if (this.#removed.has(item.id)) item.removed = true;
    this.#put(Object.assign(item, { system: true }));
  }

  remove(id) {
    if (typeof id !== 'string' || this.#removed.has(id)) return;
    this.#removed.add(id);
    const item = this.#ids.get(id);
    if (!item) return;
    if (!item.mine && !item.removed && item.seq > (this.#read?.seq ?? Infinity)) this.unread = Math.max(0, this.unread - 1);
    item.removed = true;
    this.view.refresh(this, item);
    this.view.changed(this);
  }

  discard(item) { this.#take(item); this.#keys.delete(item.key); }

  #put(item) {
    if (item.id) this.#ids.set(item.id, item);
    if (item.key) this.#keys.set(item.key, item);
    let at = this.items.length;
    while (at > 0 && after(this.items[at - 1], item)) at--;
    this.items.splice(at, 0, item);
    this.view.insert(this, item);
    if (this.items.length > KEPT) this.#forget(this.items[0]);
    this.view.changed(this);
  }

  #take(item) {
    const at = this.items.indexOf(item);
    if (at < 0) return;
    this.items.splice(at, 1);
    this.view.drop(this, item);
  }

  #forget(item) { this.#take(item); this.#ids.delete(item.id); this.#keys.delete(item.key); }

  // ---- catching up, and what was read

  /** The subscription is confirmed; the history up to r.last follows. */
  ready(r) {
    this.#last = { epoch: r.epoch, seq: r.last };
    if (this.#read?.epoch !== r.epoch) this.#read = { epoch: r.epoch, seq: r.last }; // at the first visit all is old
    this.behind = r.last > (this.items.findLast((i) => i.seq)?.seq ?? 0) && r.last > 0 && r.first > 0;
    if (!this.behind) this.view.changed(this);
  }

  /** The connection is lost: nobody knows who is there. */
  lost() {
    this.behind = true;
    this.#away ??= this.people;
    this.people = new Map();
    for (const name of [...this.typing.keys()]) this.#typed(name);
  }

  #caughtUp(seq) {
    if (this.behind && seq >= this.#last.seq) { this.behind = false; this.view.changed(this); }
  }

  /** Where the messages begin that nobody here has seen; undefined if there are none. */
  firstUnread() { return this.unread ? this.items.find((i) => i.seq > this.#read.seq && !i.mine && !i.removed) : undefined; }

  /** All that is there has been seen. Returns the position if it is new. */
  markRead() {
    this.unread = 0;
    const seq = this.items.findLast((i) => i.seq)?.seq;
    if (!this.#read || !(seq > this.#read.seq)) return undefined;
    this.#read = { ...this.#read, seq };
    return this.#read;
  }

  /** Another tab has seen more. */
  seenElsewhere(position) {
    if (!this.#read || position?.epoch !== this.#read.epoch || position.seq <= this.#read.seq) return;
    this.#read = position;
    this.unread = this.items.filter((i) => i.seq > position.seq && !i.mine && !i.removed).length;
    this.view.changed(this);
  }

  // ---- people

  /** quiet: a list after a connection, whose differences are not news. */
  setPeople(list, quiet) {
    const before = this.#away ?? this.people;
    this.#away = undefined;
    this.people = new Map();
    for (const p of list) { // several tabs of one user are one person
      const name = cleanName(p.name || p.user || '') || `${protocols[p.protocol] ?? p.protocol} client`;
      const known = this.people.get(name) ?? { name, connections: 0, protocols: new Set() };
      known.connections++;
      known.protocols.add(p.protocol);
      this.people.set(name, known);
    }
    for (const name of this.people.keys()) if (!before.has(name) && !this.#returned(name) && !quiet) this.note(`${name} joined`);
    for (const name of before.keys()) if (!this.people.has(name)) this.#leaves(name);
    this.view.changed(this);
  }

  #returned(name) {
    clearTimeout(this.#leaving.get(name));
    return this.#leaving.delete(name);
  }

  #leaves(name) {
    clearTimeout(this.#leaving.get(name));
    this.#leaving.set(name, setTimeout(() => {
      this.#leaving.delete(name);
      this.#typed(name);
      this.note(`${name} left`);
    }, COMES_BACK_MS));
  }

  /** Someone types, or stops. */
  types(name, on) {
    this.#typed(name);
    if (on) this.typing.set(name, setTimeout(() => this.types(name, false), TYPING_MS));
    this.view.changed(this);
  }

  #typed(name) {
    clearTimeout(this.typing.get(name));
    this.typing.delete(name);
  }
}

export const protocols = { ws: 'Web', mqtt: 'MQTT', stomp: 'STOMP' };

/** a stands behind b: unconfirmed ones last, then by time; equal ones in the order of their coming. */
const after = (a, b) => (Boolean(a.sending) !== Boolean(b.sending) ? Boolean(a.sending) : !a.sending && a.timeMs > b.timeMs);
