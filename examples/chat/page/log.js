// The list of a room's messages. Text reaches the page as text nodes only.
import { links } from './payload.js';

const NEAR_END = 80;
const FAR = 600; // from the end: a way back is offered
const TOGETHER_MS = 5 * 60_000; // messages of one sender within this are one block

export function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

const letters = new Intl.Segmenter();

/** A round sign with the first letter of a name, in one of a dozen colours. */
export function avatar(name) {
  let hash = 2166136261;
  for (const c of name) hash = Math.imul(hash ^ c.codePointAt(0), 16777619);
  const a = element('span', `avatar c${(hash >>> 8) % 12}`, ([...letters.segment(name)][0]?.segment ?? '?').toUpperCase());
  a.setAttribute('aria-hidden', 'true');
  return a;
}

export function button(className, text, onclick) {
  const b = element('button', className, text);
  b.type = 'button';
  b.addEventListener('click', onclick);
  return b;
}

export class Log {
  #list; #jump; #room; #divider; #active; #missed = 0; #pinned = true;

  /** on: {report(room, item), retry(room, item), discard(room, item)} */
  constructor(list, jump, on) {
    this.#list = list;
    this.#jump = jump;
    this.on = on;
    list.addEventListener('keydown', (e) => this.#keydown(e));
    list.addEventListener('focusin', (e) => this.#activate(e.target.closest('.msg')));
    list.addEventListener('scroll', () => { this.#pinned = this.#fromEnd() < NEAR_END; this.#showMissed(this.#pinned ? 0 : this.#missed); });
    jump.addEventListener('click', () => { this.toEnd(); this.focusLast(); });
    new ResizeObserver(() => { if (this.#pinned) this.toEnd(); }).observe(list); // a keyboard on a phone comes up
  }

  show(room) {
    this.#room = room;
    this.#divider = room.firstUnread();
    this.#active = undefined;
    this.#list.setAttribute('aria-busy', 'true'); // a whole room is not read aloud
    this.#list.replaceChildren();
    room.items.forEach((item, i) => this.#list.append(this.#draw(room, item, room.items[i - 1])));
    this.#showMissed(0);
    this.toEnd();
    this.#divider?.element.scrollIntoView({ block: 'nearest' });
    this.#activate(this.#list.lastElementChild, false);
  }

  busy(yes) { this.#list.setAttribute('aria-busy', String(yes)); }

  // ---- the room's view

  insert(room, item) {
    if (room !== this.#room) return;
    const at = room.items.indexOf(item);
    const follow = this.#pinned || (item.mine && item.sending);
    if (!this.#divider && room.unread && document.hidden) this.#divider = room.firstUnread() === item ? item : undefined;
    this.#list.insertBefore(this.#draw(room, item, room.items[at - 1]), room.items[at + 1]?.element ?? null);
    if (room.items[at + 1]) this.#decorate(room.items[at + 1], item);
    // Tab leads to the newest message, unless someone is among the others.
    if (!this.#active || (follow && !this.#list.contains(document.activeElement))) this.#activate(this.#list.lastElementChild, false);
    if (follow) this.toEnd(); else if (!item.mine && !item.note && !room.behind) this.#showMissed(this.#missed + 1);
  }

  refresh(room, item) {
    if (room !== this.#room) return;
    const focused = item.element.contains(document.activeElement);
    const old = item.element;
    old.replaceWith(this.#draw(room, item, room.items[room.items.indexOf(item) - 1]));
    if (this.#active === old) this.#activate(item.element, focused);
    if (this.#pinned) this.toEnd();
  }

  drop(room, item) {
    if (room !== this.#room) return;
    const next = item.element.nextElementSibling;
    if (this.#active === item.element) this.#activate(next ?? item.element.previousElementSibling, item.element.contains(document.activeElement));
    item.element.remove();
    const i = room.items.findIndex((x) => x.element === next);
    if (i >= 0) this.#decorate(room.items[i], room.items[i - 1]);
  }

  // ---- one message

  #draw(room, item, before) {
    const e = element('article', 'msg');
    e.tabIndex = -1;
    item.element = e;
    if (item.note) {
      e.classList.add('note');
      e.append(element('p', 'what', item.text));
    } else {
      e.classList.add(item.system ? 'system' : item.mine ? 'mine' : 'theirs');
      for (const state of ['sending', 'failed', 'removed', 'data']) e.classList.toggle(state, Boolean(item[state]));
      const row = element('div', 'row');
      const bubble = element('div', 'bubble');
      bubble.append(this.#who(item), this.#what(item));
      if (item.sending) bubble.append(this.#fate(room, item));
      row.append(bubble);
      if (!item.system && !item.mine) row.prepend(avatar(item.from));
      if (!item.system && !item.mine && !item.removed) row.append(this.#report(room, item));
      e.append(row);
    }
    for (const x of e.querySelectorAll('button, a')) x.tabIndex = -1; // see #activate
    e.setAttribute('aria-label', item.note ? item.text : `${item.from}, ${clock(item.timeMs)}: ${item.removed ? REMOVED : item.text}`);
    this.#decorate(item, before);
    return e;
  }

  #who(item) {
    const who = element('div', 'who');
    const time = element('time', '', clock(item.timeMs));
    time.dateTime = new Date(item.timeMs).toISOString();
    time.title = new Date(item.timeMs).toLocaleString();
    who.append(element('bdi', 'name', item.from), time);
    return who;
  }

  #what(item) {
    if (item.removed) return element('p', 'what', REMOVED);
    if (item.data) return element('pre', 'what', item.text);
    const what = element('p', 'what');
    for (const [text, url] of links(item.text)) {
      if (!url) { what.append(text); continue; }
      const a = element('a', '', text);
      Object.assign(a, { href: url, target: '_blank', rel: 'noopener noreferrer nofollow' });
      what.append(a);
    }
    return what;
  }

  /** What becomes of a message that is not in the room yet. */
  #fate(room, item) {
    const fate = element('div', 'fate', item.failed ? `Not sent: ${item.failed}` : item.offline ? 'Waiting for the connection' : 'Sending…');
    if (item.failed) fate.append(button('', 'Try again', () => this.on.retry(room, item)), button('', 'Discard', () => this.on.discard(room, item)));
    return fate;
  }

  #report(room, item) {
    const b = button('report', '', () => this.on.report(room, item));
    b.title = item.reported ? 'Reported' : 'Report to the moderators';
    b.setAttribute('aria-label', item.reported ? 'Reported' : `Report this message of ${item.from}`);
    b.disabled = Boolean(item.reported);
    return b;
  }

  /** What depends on the message before: a block's head, a new day, the line above what is new. */
  #decorate(item, before) {
    const e = item.element;
    for (const x of e.querySelectorAll(':scope > .line')) x.remove();
    const day = dayOf(item.timeMs);
    const isNew = item === this.#divider;
    const newDay = !before || dayOf(before.timeMs) !== day;
    if (isNew) e.prepend(element('div', 'line new', 'New'));
    if (newDay) e.prepend(element('div', 'line day', day));
    const plain = !item.note && !item.system && before && !before.note && !before.system;
    const together = plain && !isNew && !newDay && before.from === item.from && before.mine === item.mine && before.author === item.author
      && item.timeMs - before.timeMs < TOGETHER_MS;
    e.classList.toggle('head', !together);
  }

  // ---- place and focus

  toEnd() { this.#list.scrollTop = this.#list.scrollHeight; this.#pinned = true; this.#showMissed(0); }
  focusLast() { this.#activate(this.#list.lastElementChild, true); }

  #fromEnd() { return this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight; }

  #showMissed(n) {
    this.#missed = n;
    this.#jump.hidden = n === 0 && this.#fromEnd() < FAR;
    const text = n === 0 ? '↓ To the newest' : n === 1 ? '↓ 1 new message' : `↓ ${n} new messages`;
    if (this.#jump.textContent !== text) this.#jump.textContent = text;
  }

  // The list is one stop of the Tab key; the arrows go from message to message, and Tab on to the message's buttons.
  #activate(e, focus = false) {
    if (!e) return;
    for (const [of, index] of e === this.#active ? [] : [[this.#active, -1], [e, 0]]) {
      if (!of) continue;
      of.tabIndex = index;
      for (const x of of.querySelectorAll('button, a')) x.tabIndex = index;
    }
    this.#active = e;
    if (focus) e.focus();
  }

  #keydown(e) {
    const at = this.#active;
    if (!at || e.altKey || e.ctrlKey || e.metaKey) return;
    const to = { ArrowUp: at.previousElementSibling, ArrowDown: at.nextElementSibling, Home: this.#list.firstElementChild, End: this.#list.lastElementChild }[e.key];
    if (!to) return;
    e.preventDefault();
    this.#activate(to, true);
    to.scrollIntoView({ block: 'nearest' });
  }
}

const REMOVED = 'Removed by a moderator';
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

function dayOf(ms) {
  const day = (t) => new Date(t).toDateString();
  if (day(ms) === day(Date.now())) return 'Today';
  if (day(ms) === day(Date.now() - 86_400_000)) return 'Yesterday';
  return new Date(ms).toLocaleDateString([], { weekday: 'long', day: 'numeric', month: 'long' });
}
