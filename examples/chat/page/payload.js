// What a message of a room says, whoever sent it: this page, mosquitto_pub, PHP over STOMP, a device.
// Everything that leaves here is plain text; nothing of it is ever read as HTML.

const MAX_TEXT = 8000; // a room takes any message; the page shows the beginning of a huge one

/** Reads a room's message: who wrote what, and whether it is prose or data to be shown as it is. */
export function read(m) {
  const named = m.headers?.from ?? '';
  if (m.base64 !== undefined) return entry(named, `(${byteLength(m.base64)} bytes that are not text)`, { data: true });
  const value = json(m);
  if (isObject(value) && typeof value.text === 'string') {
    return entry(value.from ?? named, value.text, { key: short(value.key), author: short(value.author) });
  }
  if (m.data === undefined && !isObject(value)) return entry(named, m.body ?? ''); // 21.5, or any words
  return entry(isObject(value) ? value.from ?? named : named, JSON.stringify(value, null, 2), { data: true });
}

/** The JSON of a message, also where its sender could not say that it is some, as in MQTT 3.1.1. */
export const json = (m) => (m.data !== undefined ? m.data : parsed(m.body));

/** A name as it may be called out in the protocol and shown in a line: no control characters, none that turn the text around, at most 64 bytes. */
export function cleanName(name) {
  let s = String(name).replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_C}\uFFFD]/gu, ' ').replace(/\s+/g, ' ').trim();
  while (new TextEncoder().encode(s).length > 64) s = [...s].slice(0, -1).join('');
  return s;
}

/** Splits text where it has links, as [text, url or undefined] pairs. Only http and https are links. */
export function links(text) {
  const out = [];
  let end = 0;
  for (const m of text.matchAll(/\bhttps?:\/\/[^\s<>"'`]+/gi)) {
    const raw = m[0].replace(/[.,;:!?)\]}]+$/, '');
    if (!URL.canParse(raw)) continue;
    if (m.index > end) out.push([text.slice(end, m.index)]);
    out.push([raw, new URL(raw).href]);
    end = m.index + raw.length;
  }
  if (end < text.length) out.push([text.slice(end)]);
  return out;
}

function entry(from, text, rest = {}) {
  return { from: cleanName(from), text: text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text, ...rest };
}

function parsed(body) {
  if (!/^\s*[{[]/.test(body ?? '')) return undefined; // words and numbers are what they are
  try { return JSON.parse(body); } catch { return undefined; }
}

const isObject = (v) => typeof v === 'object' && v !== null;
const short = (v) => (typeof v === 'string' && v.length <= 64 ? v : undefined);
const byteLength = (base64) => Math.floor(base64.replace(/=+$/, '').length * 3 / 4);
