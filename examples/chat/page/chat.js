// The chat. Whatever users wrote becomes text nodes only (textContent), never HTML.
import { Client } from '/client/mqgate.js';

const $ = (id) => document.getElementById(id);
const rooms = new Map(); // name -> {name, items, people, typing, unread, subs, pending}
let client, me, current, offlineSince;

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// ---- entering

$('name').value = localStorage.getItem('chat.name') ?? '';
$('welcome').addEventListener('submit', (e) => {
  e.preventDefault();
  me = $('name').value.trim();
  if (!me) return;
  localStorage.setItem('chat.name', me);
  enter();
});

function enter() {
  const user = $('user').value || undefined;
  client = new Client({ name: me, user, password: user && $('password').value, onstate, minDelayMs: 300 });
  $('welcome').hidden = true;
  $('app').hidden = false;
  for (const name of ['general', 'random', ...JSON.parse(localStorage.getItem('chat.rooms') ?? '[]')]) join(name);
  show(roomOf(location.hash.slice(1)) ?? 'general');
  $('text').focus();
}

function onstate(state, info) {
  const s = $('status');
  s.className = state;
  if (state === 'online') {
    sessionStorage.setItem('chat.in', '1');
    s.textContent = offlineSince ? 'Online, catching up…' : 'Online';
    if (offlineSince) setTimeout(() => { if (client.state === 'online') s.textContent = 'Online'; }, 1500);
    offlineSince = undefined;
  } else if (state === 'closed') {
    s.className = 'offline';
    s.textContent = 'Disconnected';
    if (info?.code !== 1000) leave(info);
  } else {
    offlineSince ??= Date.now();
    for (const r of rooms.values()) r.people = []; // nobody knows who is there
    if (current) showPeople();
    s.className = 'offline';
    s.textContent = state === 'connecting' && Date.now() - offlineSince < 1000 ? 'Connecting…' : 'Offline. What you write is sent when the connection is back.';
  }
}

function leave(info) {
  sessionStorage.removeItem('chat.in');
  $('app').hidden = true;
  $('welcome').hidden = false;
  $('refused').hidden = false;
  $('refused').textContent = info.code === 4401 ? 'The server wants an account, or the password is wrong.' : `The server ended the connection: ${info.reason || info.code}.`;
  if (info.code === 4401) $('account').open = true;
  rooms.clear();
  $('rooms').replaceChildren();
  $('log').replaceChildren();
}

// ---- rooms

const roomOf = (s) => (/^[a-z0-9-]{1,24}$/.test(s) ? s : undefined);
const topic = (kind, room) => `/topic/chat/${kind}/${room}`;

function join(name) {
  if (rooms.has(name)) return;
  const room = { name, items: [], ids: new Map(), removed: new Set(), people: [], typing: new Map(), unread: 0 };
  rooms.set(name, room);
  client.subscribe(topic('rooms', name), (m) => receive(room, m), {
    history: { last: 100 },
    onpresence: (people) => { room.people = people; if (room === current) showPeople(); },
    onmissed: () => add(room, { gap: true, text: 'Some messages are missing: you were away longer than they are kept.' }),
  });
  client.subscribe(topic('moderation', name), (m) => remove(room, m.data?.remove), { history: { last: 100 } });
  client.subscribe(topic('typing', name), (m) => typing(room, m.data?.from, m.data?.tab));
  const b = element('button', '', `# ${name}`);
  b.type = 'button';
  b.append(element('span', '', ''));
  b.addEventListener('click', () => show(name));
  room.button = b;
  $('rooms').append(b);
}

function show(name) {
  join(name);
  current = rooms.get(name);
  current.unread = 0;
  history.replaceState(null, '', `#${name}`);
  $('title').textContent = `# ${name}`;
  document.title = `#${name} · Chat`;
  for (const r of rooms.values()) {
    if (r === current) r.button.setAttribute('aria-current', 'page'); else r.button.removeAttribute('aria-current');
    showUnread(r);
  }
  $('log').replaceChildren(...current.items.map((i) => i.element));
  $('log').scrollTop = $('log').scrollHeight;
  showPeople();
  showTyping();
  toggleSide(false);
}

function showUnread(room) {
  const badge = room.button.lastChild;
  badge.className = room.unread ? 'new' : '';
  badge.textContent = room.unread ? String(room.unread) : '';
}

function showPeople() {
  const names = new Map(); // one who has several tabs is one person
  for (const p of current.people) names.set(p.name || p.user || 'someone', (names.get(p.name || p.user || 'someone') ?? 0) + 1);
  $('count').textContent = String(names.size);
  $('people').replaceChildren(...[...names].sort().map(([name, tabs]) => element('li', '', tabs > 1 ? `${name} (${tabs} connections)` : name)));
}

// ---- messages

function receive(room, m) {
  const from = m.data?.from ?? m.headers?.from ?? 'system';
  const text = m.data?.text ?? m.body ?? '';
  const mine = m.data?.key && room.ids.get(m.data.key);
  if (mine) return settle(room, mine, m);
  if (room.removed.has(m.id)) return;
  room.typing.delete(from);
  if (room === current) showTyping();
  add(room, { id: m.id, from: String(from), text: String(text), timeMs: m.timeMs, system: m.data === undefined });
}

function add(room, item) {
  const li = element('li', item.gap ? 'gap' : item.system ? 'system' : item.from === me ? 'mine' : '');
  if (!item.gap) {
    const who = element('div', 'who');
    who.append(element('b', '', item.from), element('time', '', clock(item.timeMs)));
    if (!item.system && item.from !== me) who.append(reportButton(room, item));
    li.append(who);
  }
  li.append(element('div', 'what', item.text));
  if (item.sending) li.classList.add('sending');
  item.element = li;
  room.items.push(item);
  if (room.items.length > 500) room.items.shift().element.remove();
  if (room === current) {
    const log = $('log');
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
    log.append(li);
    if (atEnd || item.from === me) log.scrollTop = log.scrollHeight;
  } else if (!item.gap) {
    room.unread++;
    showUnread(room);
  }
  return item;
}

function reportButton(room, item) {
  const b = element('button', 'report', 'report');
  b.type = 'button';
  b.addEventListener('click', () => {
    b.disabled = true;
    client.publish('/queue/chat.moderation', { room: room.name, id: item.id, from: item.from, text: item.text, by: me })
      .then(() => { b.textContent = 'reported'; }, () => { b.disabled = false; });
  });
  return b;
}

// The moderation topic is for the moderator alone to write, by the gateway's rules.
function remove(room, id) {
  if (!id) return;
  room.removed.add(id);
  const item = room.items.find((i) => i.id === id);
  if (item) item.element.querySelector('.what').textContent = '(removed by moderation)';
}

function settle(room, item, m) {
  item.id = m.id;
  item.element.classList.remove('sending', 'failed');
  item.element.querySelector('time').textContent = clock(m.timeMs);
  room.ids.delete(m.data.key);
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

// ---- writing

$('compose').addEventListener('submit', (e) => { e.preventDefault(); send(); });
$('text').addEventListener('keydown', (e) => {
  if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
});
$('text').addEventListener('input', () => { fit(); sayTyping(); });

function fit() {
  const t = $('text');
  t.style.height = 'auto';
  t.style.height = `${t.scrollHeight + 2}px`;
}

function send() {
  const text = $('text').value.trim();
  if (!text) return;
  const room = current;
  const key = crypto.getRandomValues(new Uint32Array(4)).join('-');
  const item = add(room, { from: me, text, timeMs: Date.now(), sending: true });
  room.ids.set(key, item); // until it comes back by the room
  client.publish(topic('rooms', room.name), { from: me, text, key })
    .then(() => item.element.classList.remove('sending'), (err) => {
      item.element.classList.add('failed');
      item.element.append(element('div', 'muted', `Not sent: ${err.message}`));
    });
  $('text').value = '';
  lastTyping = 0;
  fit();
}

// ---- typing: hints that nobody keeps

const tab = crypto.getRandomValues(new Uint32Array(2)).join('-');
let lastTyping = 0;
function sayTyping() {
  if (Date.now() - lastTyping < 2000) return;
  lastTyping = Date.now();
  client.hint(topic('typing', current.name), { from: me, tab });
}

function typing(room, from, fromTab) {
  if (!from || fromTab === tab) return;
  clearTimeout(room.typing.get(from));
  room.typing.set(String(from), setTimeout(() => { room.typing.delete(from); if (room === current) showTyping(); }, 4000));
  if (room === current) showTyping();
}

function showTyping() {
  const names = [...current.typing.keys()];
  $('typing').textContent = names.length === 0 ? '' : names.length > 2 ? 'Several people are typing…' : `${names.join(' and ')} ${names.length > 1 ? 'are' : 'is'} typing…`;
}

// ---- keyboard and phone

function toggleSide(open) {
  $('side').classList.toggle('open', open);
  $('menu').setAttribute('aria-expanded', String(open));
}
$('menu').addEventListener('click', () => toggleSide(!$('side').classList.contains('open')));
$('newroom').addEventListener('submit', (e) => {
  e.preventDefault();
  const name = roomOf($('roomname').value.trim().toLowerCase());
  if (!name) return;
  $('roomname').value = '';
  show(name);
  localStorage.setItem('chat.rooms', JSON.stringify([...rooms.keys()].filter((r) => r !== 'general' && r !== 'random').slice(-20)));
  $('text').focus();
});
document.addEventListener('keydown', (e) => {
  if (e.key === 'Escape') { toggleSide(false); $('text').focus(); }
  if (e.altKey && (e.key === 'ArrowUp' || e.key === 'ArrowDown')) {
    e.preventDefault();
    const names = [...rooms.keys()];
    const step = e.key === 'ArrowDown' ? 1 : names.length - 1;
    show(names[(names.indexOf(current.name) + step) % names.length]);
  }
});

// A reload goes on where it was.
if ($('name').value && sessionStorage.getItem('chat.in')) { me = $('name').value; enter(); } else $('name').focus();
