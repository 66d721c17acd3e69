// What the browser keeps: of the user in localStorage, of the tab in sessionStorage.

export const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, '0')).join('');

function load(store, key, otherwise) {
  try { return JSON.parse(store.getItem(`chat.${key}`)) ?? otherwise; } catch { return otherwise; }
}
function save(store, key, value) {
  try { store.setItem(`chat.${key}`, JSON.stringify(value)); } catch { /* full or forbidden: the chat works without */ }
}

const author = load(localStorage, 'author', undefined) ?? random();
save(localStorage, 'author', author);

export const kept = {
  /** Tells this browser's messages from those of someone with the same name. It is no secret and proves nothing. */
  author,

  get name() { return load(localStorage, 'name', ''); },
  set name(v) { save(localStorage, 'name', v); },

  get rooms() { return load(localStorage, 'rooms', []); },
  set rooms(names) { save(localStorage, 'rooms', names.slice(-20)); },

  /** Position {epoch, seq} of the last message that was seen in a room, in whichever tab. */
  read: (room) => load(localStorage, `read.${room}`, undefined),
  setRead(room, position) { save(localStorage, `read.${room}`, position); },
  onread(tell) {
    window.addEventListener('storage', (e) => {
      if (e.key?.startsWith('chat.read.')) tell(e.key.slice('chat.read.'.length), load(localStorage, e.key.slice('chat.'.length), undefined));
    });
  },

  /** The account of this tab. Its password is kept nowhere. */
  get user() { return load(sessionStorage, 'user', ''); },
  set user(v) { save(sessionStorage, 'user', v); },

  get entered() { return load(sessionStorage, 'entered', false); },
  set entered(v) { save(sessionStorage, 'entered', v); },

  /** Messages that the gateway has not confirmed: they outlive a reload. */
  get unsent() { return load(sessionStorage, 'unsent', []); },
  unsentAdd(message) { save(sessionStorage, 'unsent', [...kept.unsent, message]); },
  sent(key) { save(sessionStorage, 'unsent', kept.unsent.filter((m) => m.key !== key)); },
};
