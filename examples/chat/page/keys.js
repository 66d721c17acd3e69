// The keys of the chat that are not the browser's own.

/** on: {send(), toMessages(), escape(), step(by)} */
export function setUpKeys(on) {
  const text = document.getElementById('text');
  const app = document.getElementById('app');
  text.addEventListener('keydown', (e) => {
    if (e.isComposing) return; // Enter chooses a character
    if (e.key === 'Enter' && !e.shiftKey) { e.preventDefault(); on.send(); }
    if (e.key === 'ArrowUp' && !e.altKey && text.value === '') { e.preventDefault(); on.toMessages(); }
  });
  document.addEventListener('keydown', (e) => {
    if (app.hidden) return;
    if (e.key === 'Escape') on.escape();
    if (e.altKey && (e.key === 'ArrowUp' || e.key === 'ArrowDown')) { e.preventDefault(); on.step(e.key === 'ArrowDown' ? 1 : -1); }
  });
}
