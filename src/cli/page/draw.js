// Draws what is in sight, and only that: the strip with the whole time, the axis, and the rows.
const chart = byId('chart'), canvas = chart.querySelector('canvas'), map = byId('map'), mapCanvas = map.querySelector('canvas');
let selected = null, hovered = null, range = null, gutter = 300, wide = 800;
const toX = (u) => gutter + ((u - view.a) / (view.b - view.a)) * (wide - gutter - 8);
const fromX = (x) => view.a + ((x - gutter) / (wide - gutter - 8)) * (view.b - view.a);
const at = (t) => toX(toU(t));

let asked = false;
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); });
}
function draw() {
  wide = chart.clientWidth;
  const high = chart.clientHeight;
  gutter = Math.round(Math.min(Math.max(wide * 0.27, wide < 620 ? 132 : 210), 360));
  byId('room').style.height = Math.max(0, total + 24 - high) + 'px';
  const g = size(canvas, wide, high);
  drawRows(g, chart.scrollTop, high);
  drawMap();
}
function drawRows(g, scroll, high) {
  g.fillStyle = colors.raised;
  g.fillRect(0, 0, wide, high);
  g.textBaseline = 'middle';
  const marks = ticks(toX, gutter, wide);
  const bottom = Math.min(high, total - scroll);
  // Folded time, and lines at round times, behind everything.
  g.save();
  g.beginPath(); g.rect(gutter, 0, wide - gutter, high); g.clip();
  g.fillStyle = hatch(g, colors.line, colors.raised);
  for (const fold of folds) {
    const a = toX(fold.ua), b = toX(fold.ub);
    if (b < gutter || a > wide) continue;
    g.globalAlpha = 0.55;
    g.fillRect(a, HEAD, Math.max(b - a, 1), bottom - HEAD);
    g.globalAlpha = 1;
  }
  g.fillStyle = colors.line;
  for (const tick of marks) g.fillRect(Math.round(tick.px), HEAD, 1, bottom - HEAD);
  g.restore();
  let index = Math.max(0, rowAt(Math.max(HEAD, scroll + HEAD)));
  for (; index < visible.length && tops[index] - scroll < high; index++) drawRow(g, visible[index], tops[index] - scroll);
  drawAxis(g, marks);
  g.fillStyle = colors.line;
  g.fillRect(gutter - 1, 0, 1, Math.max(bottom, HEAD));
  if (range && range.on === 'chart') {
    const a = Math.max(gutter, Math.min(range.a, range.b)), b = Math.max(range.a, range.b);
    g.globalAlpha = 0.14; g.fillStyle = colors.accent; g.fillRect(a, HEAD, b - a, high);
    g.globalAlpha = 1; g.fillRect(a, HEAD, 1, high); g.fillRect(b, HEAD, 1, high);
    const length = duration(Math.abs(toT(fromX(b)) - toT(fromX(a))));
    g.font = '600 12px ' + FONT; g.fillText(length, a + 6, HEAD + 12);
  }
  if (!visible.length) {
    g.fillStyle = colors.quiet; g.font = '13px ' + FONT; g.textAlign = 'center';
    g.fillText('Nothing is like that. Esc shows everything again.', wide / 2, HEAD + 50);
    g.textAlign = 'start';
  }
}
function drawAxis(g, marks) {
  g.fillStyle = colors.soft;
  g.fillRect(0, 0, wide, HEAD);
  g.fillStyle = colors.line;
  g.fillRect(0, HEAD - 1, wide, 1);
  g.font = '11px ' + FONT;
  g.fillStyle = colors.quiet;
  const day = new Date(data.origin + Math.max(T0, toT(view.a))).toISOString().slice(0, 10);
  text(g, wide < 620 ? 'UTC' : `${day}, UTC`, 12, HEAD / 2, gutter - 24);
  g.save();
  g.beginPath(); g.rect(gutter, 0, wide - gutter, HEAD); g.clip();
  for (const tick of marks) {
    g.fillStyle = colors.line; g.fillRect(Math.round(tick.px), HEAD - 7, 1, 6);
    g.fillStyle = colors.quiet; g.fillText(tick.text, tick.px + 4, HEAD / 2);
  }
  g.restore();
}
function drawRow(g, it, y) {
  const high = heightOf(it), middle = y + 12;
  if (selected && selected.row === it) { g.fillStyle = colors.pick; g.fillRect(0, y, wide, high); }
  else if (hovered && hovered.row === it) { g.fillStyle = colors.soft; g.fillRect(0, y, wide, high); }
  else if (it.kind === 'run' && it.depth === 0) { g.fillStyle = colors.line; g.globalAlpha = 0.6; g.fillRect(0, y, wide, 1); g.globalAlpha = 1; }
  // The name.
  let x = 10 + Math.min(it.depth, 8) * (wide < 620 ? 9 : 15);
  if (it.rows.length) {
    const open = it.open || it.found;
    g.fillStyle = colors.quiet;
    g.beginPath();
    if (open) { g.moveTo(x, middle - 2); g.lineTo(x + 8, middle - 2); g.lineTo(x + 4, middle + 3); }
    else { g.moveTo(x + 1.5, middle - 4); g.lineTo(x + 1.5, middle + 4); g.lineTo(x + 6.5, middle); }
    g.fill();
  }
  x += 14;
  if (it.state) { sign(g, it.state, x + 6, middle, it.kind === 'run' ? 6 : 5); x += 17; }
  const room = gutter - x - 8;
  g.font = (it.kind === 'run' && it.depth === 0 ? '600 ' : '') + '12.5px ' + FONT;
  g.fillStyle = it.hit ? colors.accent : it.kind === 'group' || it.kind === 'marks' ? colors.quiet : colors.text;
  const label = it.kind === 'run' && it.parent && it.label.startsWith(it.parent.label + '/') ? it.label.slice(it.parent.label.length) : it.label;
  const used = text(g, label + (it.local ? ' (local)' : ''), x, middle, it.sub && wide >= 620 ? Math.max(room * 0.66, room - 90) : room);
  if (it.sub && wide >= 620 || it.tries > 1) {
    g.font = '11px ' + FONT; g.fillStyle = colors.quiet;
    text(g, it.sub || it.tries + ' attempts', x + used + 8, middle, room - used - 8);
  }
  g.save();
  g.beginPath(); g.rect(gutter, Math.max(y, HEAD - 2), wide - gutter, high); g.clip();
  if (it.kind === 'run' && !it.open && !it.found) drawInner(g, it, y);
  for (const bar of it.bars) {
    if (bar.kind === 'run') drawRun(g, bar, y);
    else drawBar(g, bar, y);
  }
  drawMarks(g, it, y);
  g.restore();
}
// Where a bar is, in pixels of the row.
function place(bar) {
  const a = at(bar.a), b = Math.max(at(bar.b), a + 2);
  if (bar.kind === 'run') return { a, b, y: 7, h: 10 };
  if (bar.kind === 'worker') return { a, b, y: 8, h: 8 };
  const stacked = bar.row.bars.length > 1;
  if (!stacked) return { a, b, y: 6, h: 12 };
  return { a, b, y: 6 + Math.min(bar.lane, 5) * 7, h: 6 };
}
function drawRun(g, bar, y) {
  const p = place(bar);
  if (p.b < gutter || p.a > wide) return;
  const color = colors[bar.state];
  const a = Math.max(p.a, gutter - 9), b = Math.min(p.b, wide + 9);
  g.globalAlpha = 0.2; g.fillStyle = color;
  g.beginPath(); g.roundRect(a, y + p.y, b - a, p.h, [5, bar.open ? 0 : 5, bar.open ? 0 : 5, 5]); g.fill();
  g.globalAlpha = 0.85; g.lineWidth = 1; g.strokeStyle = color;
  g.beginPath();
  if (bar.open) { g.moveTo(b, y + p.y + 0.5); g.lineTo(a + 5, y + p.y + 0.5); g.arc(a + 5, y + p.y + 5, 4.5, -Math.PI / 2, Math.PI / 2, true); g.lineTo(b, y + p.y + 9.5); }
  else g.roundRect(a + 0.5, y + p.y + 0.5, Math.max(b - a - 1, 1), p.h - 1, 4.5);
  g.stroke();
  g.globalAlpha = 1;
  if (selected === bar) outline(g, p, y);
  if (p.b < wide - 4) {
    let x = p.b + 6;
    const long = bar.open && 'open for ' + duration(bar.b - bar.a);
    g.font = '11px ' + FONT;
    if (long && g.measureText(long).width > wide - x - 6) {
      // Where there is no room behind it, inside.
      const room = Math.min(g.measureText(long).width + 8, p.b - Math.max(p.a, gutter) - 8);
      g.globalAlpha = 0.85; g.fillStyle = colors.raised; g.fillRect(p.b - 4 - room, y + 8, room, 8); g.globalAlpha = 1;
      g.fillStyle = colors.text; g.textAlign = 'end';
      text(g, long, p.b - 8, y + 12.5, p.b - Math.max(p.a, gutter) - 16);
      g.textAlign = 'start';
      return;
    }
    if (bar.state !== 'completed' && bar.state !== 'running') { sign(g, bar.state, x + 5, y + 12, 5); x += 15; }
    g.font = '11px ' + FONT; g.fillStyle = colors.quiet;
    const took = bar.open ? 'open for ' + duration(bar.b - bar.a) : duration(bar.ms ?? bar.b - bar.a);
    x += text(g, took, x, y + 12, wide - x - 6) + 8;
    if (bar.error) { g.fillStyle = colors[bar.state]; text(g, bar.error, x, y + 12, wide - x - 8); }
  }
}
// What a closed run has inside: each attempt of it and of its children, failures on top.
function drawInner(g, it, y) {
  it.all ??= (() => {
    const all = [];
    const walk = (one) => { for (const bar of one.bars) if (bar.kind === 'attempt') all.push(bar); one.rows.forEach(walk); };
    it.rows.forEach(walk);
    return all.sort((p, q) => p.a - q.a);
  })();
  for (const failures of [false, true]) {
    let last = -1e9;
    for (const bar of it.all) {
      if (isFailure(bar.state) !== failures) continue;
      const a = at(bar.a), b = Math.max(at(bar.b), a + 1.5);
      if (b < gutter || a > wide || b - last < 0.6) continue;
      g.fillStyle = colors[bar.state];
      g.fillRect(Math.max(a, last), y + (failures ? 8 : 10), b - Math.max(a, last), failures ? 8 : 4);
      last = b;
    }
  }
}
function outline(g, p, y) {
  g.strokeStyle = colors.accent; g.lineWidth = 2;
  g.beginPath(); g.roundRect(Math.max(p.a, gutter - 6) - 2, y + p.y - 2, Math.min(p.b, wide + 6) - Math.max(p.a, gutter - 6) + 4, p.h + 4, 5); g.stroke();
}
function drawBar(g, bar, y) {
  const p = place(bar), color = colors[bar.state] || colors.worker;
  if (bar.wait > 0) drawWait(g, bar, p, y);
  if (p.b < gutter || p.a > wide) return;
  const a = Math.max(p.a, gutter - 9), b = Math.min(p.b, wide + 9), w = b - a;
  const round = Math.min(p.h / 2, 4);
  g.fillStyle = color;
  const shape = (right) => { g.beginPath(); g.roundRect(a, y + p.y, w, p.h, w < 4 ? 1 : [round, right, right, round]); };
  if (bar.state === 'cancelled' || bar.state === 'timed_out' || bar.state === 'unknown') {
    g.fillStyle = hatch(g, color, colors.raised);
    shape(bar.state === 'cancelled' ? round : 0); g.fill();
    g.strokeStyle = color; g.lineWidth = 1; g.stroke();
  } else if (bar.open || bar.state === 'running' || bar.state === 'will_complete_async') {
    const fade = g.createLinearGradient(a, 0, b, 0);
    fade.addColorStop(0, color); fade.addColorStop(0.6, color); fade.addColorStop(1, bar.state === 'worker' ? color : 'transparent');
    g.fillStyle = fade; shape(0); g.fill();
  } else {
    shape(isFailure(bar.state) ? 0 : round); g.fill();
  }
  if (isFailure(bar.state) && w > 7) {
    // A notch at the end of what failed.
    g.fillStyle = colors.raised;
    g.beginPath(); g.moveTo(p.b + 0.5, y + p.y); g.lineTo(p.b - Math.min(p.h / 2, 5), y + p.y + p.h / 2); g.lineTo(p.b + 0.5, y + p.y + p.h); g.fill();
  }
  if (selected === bar) outline(g, p, y);
  const rows = bar.row.bars;
  if (rows.length === 1 || bar.lane === rows.length - 1) {
    let x = p.b + 5;
    const middle = y + p.y + p.h / 2 + 0.5;
    if (x > wide || bar.kind === 'worker') return;
    if (isFailure(bar.state)) { sign(g, bar.state, x + 4, middle, 4.5); x += 13; }
    g.font = '11px ' + FONT; g.fillStyle = colors.quiet;
    x += text(g, duration(bar.ms ?? bar.b - bar.a), x, middle, wide - x - 4) + 8;
    if (bar.error) { g.fillStyle = color; text(g, bar.error, x, middle, wide - x - 8); }
  }
}
// The wait before another attempt: a dotted step down.
function drawWait(g, bar, p, y) {
  const before = bar.row.bars[bar.lane - 1];
  const q = place(before);
  const a = Math.max(q.b, gutter - 9), b = Math.min(p.a, wide + 9);
  if (b < gutter || a > wide || b - a < 2) return;
  g.strokeStyle = colors.quiet; g.globalAlpha = 0.75; g.lineWidth = 1;
  g.setLineDash([1.5, 2.5]);
  g.beginPath();
  const from = Math.round(y + q.y + q.h / 2) + 0.5, to = Math.round(y + p.y + p.h / 2) + 0.5;
  g.moveTo(a, from); g.lineTo(b, from);
  if (to !== from) g.lineTo(b, to);
  g.stroke();
  g.setLineDash([]);
  g.globalAlpha = 1;
}
function drawMarks(g, it, y) {
  let last = -1e9;
  g.fillStyle = colors.mark;
  for (const mark of it.marks) {
    const x = at(mark.a);
    if (x < gutter - 6 || x > wide + 6) continue;
    if (selected === mark) { g.fillStyle = colors.accent; diamond(g, x, y + 12, 8.5); g.fillStyle = colors.mark; }
    else if (x - last < 1.5) continue;
    g.fillStyle = colors.raised; diamond(g, x, y + 12, 6.2);
    g.fillStyle = colors.mark; diamond(g, x, y + 12, 4.8);
    last = x;
  }
}
// The strip: how much ran when, failures in red, and what part of it is in sight.
let profile = null;
function measure(width) {
  const n = Math.max(10, Math.floor(width / 3));
  const all = whole(), most = all.b - all.a;
  const ok = new Float64Array(n + 1), bad = new Float64Array(n + 1);
  const cell = (t) => Math.min(n - 1, Math.max(0, Math.floor(((toU(t) - all.a) / most) * n)));
  const walk = (it) => {
    for (const bar of it.bars) if (bar.kind === 'attempt') {
      const a = cell(bar.a), b = cell(bar.b);
      ok[a]++; ok[b + 1]--;
      if (isFailure(bar.state)) bad[cell(bar.b)]++;
    }
    for (const mark of it.marks) { const a = cell(mark.a); ok[a] += 0.4; ok[a + 1] -= 0.4; }
    it.rows.forEach(walk);
  };
  top.forEach(walk);
  let sum = 0, max = 1;
  for (let i = 0; i < n; i++) { sum += ok[i]; ok[i] = sum; max = Math.max(max, sum, bad[i]); }
  return { n, ok, bad, max, folding, width };
}
function drawMap() {
  const width = map.clientWidth, high = map.clientHeight;
  const g = size(mapCanvas, width, high);
  if (!profile || profile.width !== width || profile.folding !== folding) profile = measure(width);
  const { n, ok, bad, max } = profile, all = whole(), step = width / n;
  g.fillStyle = colors.raised; g.fillRect(0, 0, width, high);
  const x = (u) => ((u - all.a) / (all.b - all.a)) * width;
  g.fillStyle = hatch(g, colors.line, colors.raised);
  for (const fold of folds) g.fillRect(x(fold.ua), 0, Math.max(x(fold.ub) - x(fold.ua), 1), high);
  const tall = (value) => value > 0 ? 2 + (high - 8) * Math.sqrt(value / max) : 0;
  for (let i = 0; i < n; i++) {
    const up = tall(ok[i]), down = tall(bad[i]) * 0.7;
    g.fillStyle = colors.completed; g.globalAlpha = 0.45;
    if (up > 0.5) g.fillRect(i * step, high - up, Math.max(step - 0.6, 0.6), up);
    g.fillStyle = colors.failed; g.globalAlpha = 0.9;
    if (down > 0.5) g.fillRect(i * step, high - down, Math.max(step - 0.6, 1), down);
  }
  g.globalAlpha = 1;
  const a = x(view.a), b = x(view.b);
  if (b - a < width - 1) {
    g.fillStyle = colors.back; g.globalAlpha = 0.65;
    g.fillRect(0, 0, a, high); g.fillRect(b, 0, width - b, high);
    g.globalAlpha = 1; g.strokeStyle = colors.accent; g.lineWidth = 1.5;
    g.strokeRect(a + 0.75, 0.75, Math.max(b - a - 1.5, 2), high - 1.5);
  }
  if (range && range.on === 'map') {
    g.fillStyle = colors.accent; g.globalAlpha = 0.25;
    g.fillRect(Math.min(range.a, range.b), 0, Math.abs(range.b - range.a), high);
    g.globalAlpha = 1;
  }
}
