// Colors, and the shape of each outcome: what failed is seen without color, too.
let colors = {};
function readColors(print) {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['back', 'raised', 'line', 'soft', 'text', 'quiet', 'accent', 'pick', 'mark', 'worker', ...STATES]) {
    colors[name] = style.getPropertyValue('--' + name).trim();
  }
  if (print) Object.assign(colors, { back: '#fff', raised: '#fff', text: '#111', quiet: '#555', line: '#ddd', soft: '#f4f4f4' });
}
function size(canvas, width, height, scale = window.devicePixelRatio || 1) {
  const w = Math.round(width * scale), h = Math.round(height * scale);
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  canvas.style.width = width + 'px';
  canvas.style.height = height + 'px';
  const g = canvas.getContext('2d');
  g.setTransform(scale, 0, 0, scale, 0, 0);
  return g;
}
const FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
const STROKES = {
  completed: (g) => { g.moveTo(-3, 0.2); g.lineTo(-0.9, 2.4); g.lineTo(3.2, -2.4); },
  failed: (g) => { g.moveTo(-2.6, -2.6); g.lineTo(2.6, 2.6); g.moveTo(2.6, -2.6); g.lineTo(-2.6, 2.6); },
  timed_out: (g) => { g.moveTo(0, -2.8); g.lineTo(0, 0.4); g.lineTo(2.4, 1.6); },
  cancelled: (g) => { g.moveTo(-2.8, 2.8); g.lineTo(2.8, -2.8); },
  continued_as_new: (g) => { g.moveTo(-3, 0); g.lineTo(2.6, 0); g.moveTo(0.4, -2.6); g.lineTo(3, 0); g.lineTo(0.4, 2.6); },
  will_complete_async: (g) => { for (const x of [-2.8, 0, 2.8]) { g.moveTo(x - 0.1, 0); g.lineTo(x + 0.1, 0); } },
  unknown: (g) => { g.moveTo(-1.6, -1.6); g.quadraticCurveTo(0, -4, 1.6, -1.6); g.quadraticCurveTo(1.6, -0.4, 0, 0.6); g.moveTo(0, 2.8); g.lineTo(0, 3); },
};
// The sign of an outcome: in a disc, an octagon-like square for what was ended by force, a ring while it goes on.
function sign(g, state, x, y, r = 6) {
  const color = colors[state] || colors.quiet;
  g.save();
  g.translate(x, y);
  g.scale(r / 6, r / 6);
  g.fillStyle = color;
  g.strokeStyle = color;
  g.lineCap = g.lineJoin = 'round';
  if (state === 'running') {
    g.lineWidth = 1.6;
    g.beginPath(); g.arc(0, 0, 5, 0, 7); g.stroke();
    g.beginPath(); g.moveTo(-1.6, -2.6); g.lineTo(2.8, 0); g.lineTo(-1.6, 2.6); g.closePath(); g.fill();
  } else if (state === 'timed_out' || state === 'cancelled' || state === 'will_complete_async' || state === 'unknown') {
    g.lineWidth = 1.6;
    g.beginPath(); g.arc(0, 0, 5.2, 0, 7); g.stroke();
    g.beginPath(); STROKES[state](g); g.stroke();
  } else {
    g.beginPath();
    if (state === 'terminated') g.rect(-5.4, -5.4, 10.8, 10.8);
    else if (state === 'failed') { g.moveTo(0, -7); g.lineTo(7, 0); g.lineTo(0, 7); g.lineTo(-7, 0); g.closePath(); }
    else g.arc(0, 0, 6, 0, 7);
    g.fill();
    g.strokeStyle = g.fillStyle = colors.raised;
    g.lineWidth = 1.7;
    g.beginPath();
    if (state === 'terminated') g.fillRect(-2.2, -2.2, 4.4, 4.4); else { if (state === 'failed') g.scale(0.85, 0.85); (STROKES[state] || STROKES.unknown)(g); g.stroke(); }
  }
  g.restore();
}
function diamond(g, x, y, r) {
  g.beginPath();
  g.moveTo(x, y - r); g.lineTo(x + r, y); g.lineTo(x, y + r); g.lineTo(x - r, y);
  g.closePath(); g.fill();
}
const fits = new Map();
// A text in so much room, with an ellipsis where it is cut.
function text(g, string, x, y, room, from = 'start') {
  if (room < 8 || !string) return 0;
  const key = g.font + room.toFixed(0) + string;
  let cut = fits.get(key);
  if (cut === undefined) {
    cut = string;
    if (g.measureText(cut).width > room) {
      let low = 0, high = string.length;
      const part = (n) => from === 'end' ? '…' + string.slice(string.length - n) : string.slice(0, n) + '…';
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (g.measureText(part(middle)).width <= room) low = middle; else high = middle - 1;
      }
      cut = low ? part(low) : '';
    }
    if (fits.size > 20000) fits.clear();
    fits.set(key, cut);
  }
  if (cut) g.fillText(cut, x, y);
  return cut ? g.measureText(cut).width : 0;
}
const hatches = new Map();
function hatch(g, color, back) {
  const key = color + back;
  if (!hatches.has(key)) {
    const tile = document.createElement('canvas');
    tile.width = tile.height = 12;
    const t = tile.getContext('2d');
    if (back) { t.fillStyle = back; t.fillRect(0, 0, 12, 12); }
    t.strokeStyle = color; t.lineWidth = 2;
    for (const x of [-12, -6, 0, 6, 12]) { t.beginPath(); t.moveTo(x, 12); t.lineTo(x + 12, 0); t.stroke(); }
    hatches.set(key, g.createPattern(tile, 'repeat'));
  }
  return hatches.get(key);
}
