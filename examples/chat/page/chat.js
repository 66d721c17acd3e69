// The chat: rooms on topics of the gateway, by the client that the gateway serves.
import { Client } from '/client/mqgate.js';
import { cleanName, json, read } from './payload.js';
import { Room, protocols } from './room.js';
import { Log, avatar, button, element } from './log.js';
import { kept, random } from './kept.js';
import { setUpKeys } from './keys.js';

const $ = (id) => document.getElementById(id);
const DEFAULT_ROOMS = ['general', 'random'];
const topic = (kind, room) => `/topic/chat/${kind}/${room}`;
const rooms = new Map();
const tab = random();
let client, me, current, typingSub, retryAt, countdown;

const log = new Log($('log'), $('jump'), {
  report(room, item) {
    item.reported = true;
    log.refresh(room, item);
    client.publish('/queue/chat.moderation', { room: room.name, id: item.id, by: me }).then(
      () => toast('Reported. A moderator looks at it.'),
      (e) => { item.reported = false; log.refresh(room, item); toast(`Not reported: ${e.message}`); });
  },
  retry(room, item) { item.failed = undefined; item.offline = client.state !== 'online'; log.refresh(room, item); publish(room, item); },
  discard(room, item) { kept.sent(item.key); room.discard(item); $('text').focus(); },
});

// ---- entering and leaving

$('name').value = kept.name;
$('welcome').addEventListener('submit', (e) => {
  e.preventDefault();
  const name = cleanName($('name').value);
  if (name) enter(name); else $('name').value = '';
});

function enter(name) {
  me = kept.name = name;
  const user = $('user').value.trim() || undefined;
  kept.user = user ?? '';
  client = new Client({ name, user, password: user && $('password').value, onstate, onerror: (e) => toast(e.message), minDelayMs: 400, maxDelayMs: 15000 });
  $('welcome').hidden = true;
  $('refused').hidden = true;
  $('app').hidden = false;
  $('self-name').replaceChildren(avatar(me), element('bdi', '', me));
  for (const room of [...DEFAULT_ROOMS, ...kept.rooms]) join(room);
  show(roomName(location.hash.slice(1)) ?? 'general');
  for (const u of kept.unsent) { // of this tab, before it was reloaded
    const item = { from: me, text: u.text, key: u.key, timeMs: u.timeMs, mine: true, offline: true };
    join(u.room).sending(item);
    publish(rooms.get(u.room), item);
  }
  $('text').focus();
}

function leave(why) {
  client.close();
  kept.entered = false;
  for (const room of rooms.values()) room.lost();
  rooms.clear();
  current = typingSub = undefined;
  for (const id of ['rooms', 'people', 'log']) $(id).replaceChildren();
  $('password').value = '';
  $('app').hidden = true;
  $('welcome').hidden = false;
  $('refused').hidden = !why;
  $('refused').textContent = why ?? '';
  document.title = 'Chat';
  $('name').focus();
}
$('leave').addEventListener('click', () => leave());

function onstate(state, info) {
  $('app').dataset.state = state;
  if (state === 'online') {
    kept.entered = true;
    // If the end of a history does not come (the gateway forgot it just now), what came is all.
    setTimeout(() => { for (const r of rooms.values()) r.behind = false; showState(); }, 4000);
  } else if (state === 'closed') {
    if (info?.code === 1000) return;
    if (info?.code !== 4401) return leave(`The gateway ended the connection: ${info?.reason || info?.code}.`);
    leave(kept.user ? 'The gateway knows no such user, or the password is another.' : 'This gateway wants an account.');
    return askAccount();
  } else if (state === 'offline') {
    retryAt = Date.now() + (info?.delayMs ?? 0);
    for (const room of rooms.values()) room.lost();
    if (current) showRoom(current);
  }
  showState();
}

/** The line that says how the connection is, and what waits for it. */
function showState() {
  const state = client?.state ?? 'connecting';
  const waiting = [...rooms.values()].reduce((n, r) => n + r.items.filter((i) => i.sending).length, 0);
  const behind = state === 'online' && [...rooms.values()].some((r) => r.behind);
  const away = $('app').dataset.away === 'true';
  $('status').textContent = state !== 'online' ? (away ? 'Offline' : 'Connecting…') : behind && away ? 'Catching up…' : 'Online';
  $('banner').hidden = !away || (state === 'online' && !behind);
  const n = waiting === 1 ? '1 message waits' : `${waiting} messages wait`;
  const text = state === 'online' ? 'Back online, catching up…' : waiting ? `You are offline. ${n} to be sent.` : 'You are offline. You can go on writing; it is sent later.';
  if ($('banner-text').textContent !== text) $('banner-text').textContent = text; // said aloud once
  $('again').hidden = state === 'online';
  log.busy(current?.behind ?? false);
  clearInterval(countdown);
  if (state === 'online') {
    if (!behind) $('app').dataset.away = 'false';
    $('countdown').textContent = '';
  } else if (state === 'offline') {
    $('app').dataset.away = 'true';
    const tick = () => { $('countdown').textContent = `Trying again in ${Math.max(0, Math.ceil((retryAt - Date.now()) / 1000))} s.`; };
    tick();
    countdown = setInterval(tick, 500);
  } else $('countdown').textContent = 'Connecting…';
}

// The client tries at once when the browser says that there is a network again.
const tryNow = () => { if (client?.state === 'offline') window.dispatchEvent(new Event('online')); };
$('again').addEventListener('click', () => { tryNow(); $('text').focus(); });

// ---- rooms

function roomName(s) {
  const name = s.trim().toLowerCase();
  return /^[a-z0-9-]{1,24}$/.test(name) ? name : undefined;
}

function join(name) {
  if (rooms.has(name)) return rooms.get(name);
  const room = new Room(name, { insert: (r, i) => log.insert(r, i), refresh: (r, i) => log.refresh(r, i), drop: (r, i) => log.drop(r, i), changed }, kept.read(name));
  rooms.set(name, room);
  // Removals first, so that nothing removed is seen even for a moment.
  client.subscribe(topic('moderation', name), (m) => room.remove(json(m)?.remove), { history: { last: 200 } });
  client.subscribe(topic('rooms', name), (m) => receive(room, m), {
    history: { last: 200 },
    onready: (r) => room.ready(r),
    onpresence: (people, e) => room.setPeople(people, Boolean(e.present)),
    onmissed: () => room.note('Some messages are missing here: you were away longer than the room keeps them.'),
  });
  client.subscribe(topic('system', name), (m) => {
    const { text, from } = read(m);
    room.notice({ id: m.id, text, from: from || 'System', timeMs: m.timeMs });
  }, { history: { last: 50 } });
  room.button = button('room', '', () => { show(name); $('text').focus(); });
  room.button.append(element('span', 'hash', '#'), element('span', 'label', name), element('span', 'badge', ''));
  $('rooms').append(room.button);
  return room;
}

function receive(room, m) {
  const { from, text, key, author, data } = read(m);
  room.receive({ id: m.id, from: from || 'unnamed', text, key, author, data, timeMs: m.timeMs, mine: author === kept.author }, m.seq);
}

function show(name) {
  const room = current = join(name);
  typingSub?.close();
  typingSub = client.subscribe(topic('typing', name), (m) => {
    const { from, text, key } = read(m);
    if (from && key !== tab) room.types(from, text !== '');
  });
  history.replaceState(null, '', `#${name}`);
  $('title').textContent = `#${name}`;
  $('text').placeholder = `Message #${name}`;
  for (const r of rooms.values()) if (r === current) r.button.setAttribute('aria-current', 'page'); else r.button.removeAttribute('aria-current');
  log.show(current);
  drawer(false);
  changed(current);
}

const due = new Set();
/** Draws what is about a room, once for all that happens now. */
function changed(room) {
  if (due.size === 0) queueMicrotask(() => { const all = [...due]; due.clear(); for (const r of all) if (rooms.has(r.name)) showRoom(r); });
  due.add(room);
}

function showRoom(room) {
  if (room === current && !document.hidden && client.state === 'online' && !room.behind) {
    const position = room.markRead();
    if (position) kept.setRead(room.name, position);
  }
  badge(room.button.lastChild, room.unread, 'unread');
  const elsewhere = [...rooms.values()].reduce((n, r) => n + (r === current ? 0 : r.unread), 0);
  badge($('elsewhere'), elsewhere, 'unread in other rooms');
  if (!current) return;
  const total = elsewhere + current.unread;
  document.title = `${total ? `(${total}) ` : ''}#${current.name} · Chat`;
  showState();
  if (room === current) { showPeople(); showTyping(); showEmpty(); }
}

function badge(e, n, of) {
  e.hidden = n === 0;
  e.textContent = n > 99 ? '99+' : n || '';
  if (n) e.setAttribute('aria-label', `${n} ${of}`);
}

function showPeople() {
  const people = [...current.people.values()].sort((a, b) => a.name.localeCompare(b.name));
  $('count').textContent = people.length || '';
  $('here').textContent = people.length ? `${people.length} here` : '';
  $('people').replaceChildren(...people.map((p) => {
    const li = element('li', '');
    li.title = p.name; // it may be cut off
    li.append(avatar(p.name), element('bdi', 'name', p.name));
    if (p.name === me) li.append(element('span', 'muted', '(you)'));
    for (const x of p.protocols) if (x !== 'ws') li.append(element('span', 'protocol', protocols[x] ?? x));
    if (p.connections > 1) {
      const n = element('span', 'muted times', `×${p.connections}`);
      n.title = `${p.connections} connections`;
      li.append(n);
    }
    return li;
  }));
}

/** A room without messages says how to make some, also from where there is no browser. */
function showEmpty() {
  const away = ['127.0.0.1', 'localhost'].includes(location.hostname) ? '' : ` -h ${location.hostname}`;
  $('hint').textContent = `mosquitto_pub${away} -t chat/rooms/${current.name} -m hi`;
  $('empty').hidden = current.behind || current.items.some((i) => !i.note);
}

function showTyping() {
  const names = [...current.typing.keys()].map((n) => (n.length > 24 ? `${n.slice(0, 24)}…` : n));
  $('typing').classList.toggle('on', names.length > 0);
  $('typing').textContent = !names.length ? '' : names.length > 2 ? 'Several people are typing' : `${names.join(' and ')} ${names.length > 1 ? 'are' : 'is'} typing`;
}

// ---- writing

function send() {
  const text = $('text').value.trim();
  if (!text) return;
  const item = { from: me, text, key: random(), timeMs: Date.now(), mine: true, author: kept.author, offline: client.state !== 'online' };
  kept.unsentAdd({ room: current.name, text, key: item.key, timeMs: item.timeMs });
  current.sending(item);
  publish(current, item);
  $('text').value = '';
  lastTyping = 0; // a message says that its writer has stopped
  fit();
}

// The key is also the message's dedup id: whatever is sent again is stored once.
function publish(room, item) {
  const body = { from: me, text: item.text, key: item.key, author: kept.author };
  client.publish(topic('rooms', room.name), body, { dedupId: item.key }).then(
    () => kept.sent(item.key),
    (e) => {
      if (e.code === 'closed') return; // it stays with what is unsent, for the next time
      item.failed = e.message;
      log.refresh(room, item);
    });
}

function fit() {
  const t = $('text');
  t.style.height = 'auto';
  t.style.height = `${t.scrollHeight + t.offsetHeight - t.clientHeight}px`;
}

let lastTyping = 0;
function sayTyping() {
  const text = $('text').value.trim() ? '…' : '';
  if (text ? Date.now() - lastTyping < 2000 : !lastTyping) return;
  lastTyping = text ? Date.now() : 0;
  client.hint(topic('typing', current.name), { from: me, text, key: tab });
}

$('compose').addEventListener('submit', (e) => { e.preventDefault(); send(); $('text').focus(); });
$('text').addEventListener('input', () => { fit(); sayTyping(); });
$('newroom').addEventListener('submit', (e) => {
  e.preventDefault();
  const name = roomName($('roomname').value);
  if (!name) return;
  $('roomname').value = '';
  show(name);
  kept.rooms = [...rooms.keys()].filter((r) => !DEFAULT_ROOMS.includes(r));
  $('text').focus();
});

// ---- drawer, keys, other tabs

const narrow = window.matchMedia('(max-width: 720px)');
function drawer(open) {
  const shown = open && narrow.matches;
  $('side').classList.toggle('open', shown);
  $('shade').hidden = !shown;
  $('main').inert = shown;
  $('menu').setAttribute('aria-expanded', String(shown));
  if (shown) (current.button ?? $('close')).focus();
}
narrow.addEventListener('change', () => drawer(false));
$('menu').addEventListener('click', () => drawer(true));
for (const id of ['close', 'shade']) $(id).addEventListener('click', () => { drawer(false); $('menu').focus(); });

setUpKeys({
  send,
  toMessages: () => log.focusLast(),
  escape() {
    const open = $('side').classList.contains('open');
    drawer(false);
    (open ? $('menu') : $('text')).focus();
  },
  step(by) {
    const names = [...rooms.keys()];
    show(names[(names.indexOf(current.name) + by + names.length) % names.length]);
  },
});
document.addEventListener('visibilitychange', () => { if (!document.hidden && current) { tryNow(); showRoom(current); } });
window.addEventListener('hashchange', () => { const name = roomName(location.hash.slice(1)); if (current && name) show(name); });
kept.onread((name, position) => rooms.get(name)?.seenElsewhere(position));

let toastTimer;
function toast(text) {
  clearTimeout(toastTimer);
  $('toast').textContent = text;
  $('toast').hidden = false;
  toastTimer = setTimeout(() => { $('toast').hidden = true; }, 5000);
}

function askAccount() {
  $('account').open = true;
  $('user').value = kept.user;
  (kept.user ? $('password') : $('user')).focus();
}

// A reload goes on where it was; with an account it asks for the password again.
if (kept.name && kept.entered && !kept.user) enter(kept.name);
else if (kept.name && kept.entered) askAccount();
else $('name').focus();
