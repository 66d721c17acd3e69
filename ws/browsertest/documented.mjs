// The examples of CLIENT.md, one behind the other, as they stand there but for the address.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';

const text = readFileSync(process.env.DOCUMENT, 'utf8');
const blocks = [...text.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map((m) => m[1]);
assert.equal(blocks.length, 5);
blocks[0] = blocks[0].replace("'/client/mqgate.js'", "'./mqgate.js'").replace('new Client({', 'new Client({ url, WebSocket,');
const program = `import { WebSocket } from 'ws';
import { shown, show, until, work, worked, url } from './stage.mjs';
${blocks[0]}
await until(() => shown.some(([s]) => s === 'online'));
${blocks[1]}
await until(() => shown.some(([s]) => s === 'hello') && shown.some(([s, who]) => s === 'here' && who.join() === 'Ann'));
await client.publish('/queue/work', { job: 'good' });
await client.publish('/queue/work', { job: 'fails once' });
${blocks[2].replace('5000', '1')}
await until(() => worked.join() === 'good,fails once,fails once');
${blocks[3]}
await until(() => shown.some(([s, n]) => s === 'sum' && n === 5));
${blocks[4]}
await until(() => shown.at(-1)[0] === 'closed' && shown.some(([c, retry]) => c === 'invalid' && retry === false));
if (shown.some(([s]) => s === 'error')) throw new Error(JSON.stringify(shown));
console.log('documented: all done');
`;
const stage = `export const shown = [];
export const show = (...all) => shown.push(all);
export const worked = [];
export const url = 'ws://${process.env.GATEWAY}/ws';
export async function work(data) { worked.push(data.job); if (worked.length === 2) throw new Error('not now'); }
export async function until(ok) {
  for (let i = 0; i < 2000 && !ok(); i++) await new Promise((r) => setTimeout(r, 10));
  if (!ok()) throw new Error(\`\${ok}: \${JSON.stringify([shown, worked])}\`);
}
`;
writeFileSync(new URL('./stage.mjs', import.meta.url), stage);
writeFileSync(new URL('./program.mjs', import.meta.url), program);
await import('./program.mjs');
