// What the scenes share: three browsers, the clients of other protocols, and looking instead of sleeping.
import { spawn, execFile } from 'node:child_process';
import { promisify } from 'node:util';
import axe from 'axe-core';
import { chromium } from 'playwright-core';

const env = process.env;
export const base = env.GATEWAY;
export const wide = { viewport: { width: 1280, height: 800 } };
export const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
export const problems = []; // what no page may ever do
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--in-process-gpu'];
const browsers = [];
const children = [];

export async function launch() {
  const browser = await chromium.launch({ executablePath: env.CHROMIUM, args });
  browsers.push(browser);
  return browser;
}

/** Opens the chat as someone in a browser of their own, or in a profile of an open one. */
export async function visitor(name, options, browser) {
  const context = await (browser ?? await launch()).newContext(options);
  return enter(await context.newPage(), name);
}

export async function open(page) {
  page.on('dialog', (d) => { problems.push(`a dialog: ${d.message()}`); d.dismiss(); });
  page.on('pageerror', (e) => problems.push(`an error: ${e.message}`));
  page.on('console', (m) => {
    if (['error', 'warning'].includes(m.type()) && !/WebSocket connection|ERR_CONNECTION|mqgate:/.test(m.text())) problems.push(`on the console: ${m.text()}`);
  });
  await page.goto(`${base}/chat/`);
  return page;
}

export async function enter(page, name) {
  await open(page);
  if (await page.locator('#welcome').isVisible()) {
    await page.fill('#name', name);
    await page.keyboard.press('Enter');
  }
  await online(page);
  return page;
}

export const online = (page) => until('the page is online', async () => (await page.locator('#status').textContent()) === 'Online');
export const texts = (page) => page.locator('#log .msg:not(.note) .what').allTextContents();
export const notes = (page) => page.locator('#log .note').allTextContents();
export const people = (page) => page.locator('#people .name').allTextContents();
export const count = async (page, text) => (await texts(page)).filter((t) => t === text).length;

export async function say(page, text) {
  await page.fill('#text', text);
  await page.locator('#text').press('Enter');
}

/** Polls until ok() is true; what it says otherwise is in the error. */
export async function until(what, ok, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  let last;
  do {
    last = await ok();
    if (last === true) return;
    await new Promise((r) => setTimeout(r, 80));
  } while (Date.now() < end);
  await Promise.all(pages().map((p, i) => shot(p, `failed-${i}`).catch(() => {})));
  const seen = await Promise.all(pages().map((p) => p.locator('body').innerText().catch(String)));
  throw new Error(`did not happen: ${what} (${JSON.stringify(last)}); ${problems.join('; ')}\n${seen.join('\n-----\n')}`);
}

export const everyone = async (all, f) => (await Promise.all(all.map(f))).every(Boolean);
const pages = () => browsers.flatMap((b) => b.contexts()).flatMap((c) => c.pages());
/** A picture for people, where they asked for it. */
export const shot = async (page, name) => { if (env.SCREENSHOTS) await page.screenshot({ path: `${env.SCREENSHOTS}/${name}.png` }); };

const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
/** What axe finds that keeps people out who see, hear or move differently; none of it is allowed. */
export async function barriers(page) {
  await page.evaluate(axe.source);
  return page.evaluate(async (runOnly) => (await globalThis.axe.run({ runOnly })).violations.map((v) => `${v.id} at ${v.nodes.map((n) => n.target)}`), rules);
}

/** Runs a program to its end; resolves to {stdout, stderr}. */
export const run = (file, ...a) => promisify(execFile)(file, a, { timeout: 60_000 });
export const publish = (topic, text, ...more) => run('mosquitto_pub', '-h', '127.0.0.1', '-p', env.MQTT_PORT, '-q', '1', '-t', topic, '-m', text, ...more);
export const php = (script, ...a) => run('php', `${env.SCRIPTS}/${script}`, ...a);

/** Starts a program that stays; .text is what it has printed. */
export function start(file, ...a) {
  const child = spawn(file, a, { stdio: ['ignore', 'pipe', 'inherit'] });
  const p = { text: '', kill: () => child.kill('SIGKILL'), ended: new Promise((r) => child.on('close', r)) };
  child.stdout.on('data', (b) => { p.text += b; });
  children.push(p);
  return p;
}

export async function control(verb) {
  const r = await fetch(`${env.CONTROL}/${verb}`, { method: 'POST' });
  if (!r.ok) throw new Error(`${verb}: ${r.status}`);
}

/** What the gateway itself keeps of a room, read by its own client in a page. */
export const stored = (page, room) => page.evaluate(async (to) => {
  const { Client } = await import('/client/mqgate.js');
  const got = [];
  await new Promise((done) => {
    const client = new Client();
    let last = Infinity;
    const look = () => { if ((got.at(-1)?.seq ?? 0) >= last) { client.close(); done(); } };
    client.subscribe(to, (m) => { got.push(m); look(); }, { history: { last: 200 }, onready: (r) => { last = r.last; look(); } });
  });
  return got.map((m) => m.data?.text ?? m.body);
}, `/topic/chat/rooms/${room}`);

export async function end() {
  for (const c of children) c.kill();
  await Promise.all([...children.map((c) => c.ended), ...browsers.map((b) => b.close())]);
}
