// Time on the page: idle time may be folded, so that what is shown (`u`) is not what passed (`t`).
const busy = (() => {
  const spans = [];
  const add = (a, b) => { if (Number.isFinite(a) && Number.isFinite(b)) spans.push([a, Math.max(a, b)]); };
  const walk = (it) => {
    for (const bar of it.bars) {
      if (bar.kind === 'attempt') add(bar.a, bar.b);
      else if (bar.kind === 'run') { add(bar.a, bar.a); add(bar.b, bar.b); }
    }
    for (const mark of it.marks) add(mark.a, mark.a);
    it.rows.forEach(walk);
  };
  top.filter((it) => it.label !== 'Workers').forEach(walk);
  if (!spans.length) for (const it of top) for (const child of it.rows) for (const bar of child.bars) add(bar.a, bar.b);
  spans.sort((x, y) => x[0] - y[0]);
  const merged = [];
  for (const [a, b] of spans) {
    const last = merged[merged.length - 1];
    if (last && a <= last[1]) last[1] = Math.max(last[1], b); else merged.push([a, b]);
  }
  return merged.length ? merged : [[0, 1]];
})();
const T0 = busy[0][0], T1 = Math.max(busy[busy.length - 1][1], T0 + 1);
let ts = [], us = [], folds = [], view = { a: 0, b: 1 }, folding = true;

function mapTime() {
  ts = [T0]; us = [0]; folds = [];
  if (folding) {
    const work = busy.reduce((sum, [a, b]) => sum + b - a, 0) || 1;
    // Worth folding is what is long against the work.
    const least = Math.max(500, work * 0.02);
    const gaps = [];
    for (let i = 1; i < busy.length; i++) {
      const a = busy[i - 1][1], b = busy[i][0];
      if (b - a > least) gaps.push([a, b]);
    }
    const kept = T1 - T0 - gaps.reduce((sum, [a, b]) => sum + b - a, 0);
    const width = Math.min(kept * 0.012, (kept * 0.2) / Math.max(gaps.length, 1));
    for (const [a, b] of gaps) {
      const pad = Math.min((b - a) * 0.1, width);
      const u = us[us.length - 1] + (a + pad - ts[ts.length - 1]);
      ts.push(a + pad, b - pad); us.push(u, u + width);
      folds.push({ a: a + pad, b: b - pad, ua: u, ub: u + width });
    }
  }
  us.push(us[us.length - 1] + (T1 - ts[ts.length - 1])); ts.push(T1);
}
function along(x, from, to) {
  let low = 0, high = from.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (from[middle] <= x) low = middle; else high = middle - 1;
  }
  const span = from[low + 1] - from[low];
  return to[low] + (span ? ((x - from[low]) / span) * (to[low + 1] - to[low]) : 0);
}
const toU = (t) => along(t, ts, us);
const toT = (u) => along(u, us, ts);
const whole = () => { const end = us[us.length - 1], pad = end * 0.012; return { a: -pad, b: end + pad * 6 }; };
function look(a, b) {
  const all = whole(), least = 0.02;
  let span = Math.min(Math.max(b - a, least), all.b - all.a);
  let from = Math.min(Math.max((a + b - span) / 2, all.a), all.b - span);
  view = { a: from, b: from + span };
}
function zoom(factor, u = (view.a + view.b) / 2) { look(u - (u - view.a) * factor, u + (view.b - u) * factor); }
function pan(share) { const by = (view.b - view.a) * share; look(view.a + by, view.b + by); }
function refold(on) {
  const a = toT(view.a), b = toT(view.b), all = whole();
  const isWhole = view.a <= all.a + 1e-9 && view.b >= all.b - 1e-9;
  folding = on; mapTime();
  if (isWhole) view = whole(); else look(toU(a), toU(b));
}
mapTime(); view = whole();

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5,
  72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 25920e5];
function tickText(t, step) {
  const text = new Date(data.origin + t).toISOString();
  if (step >= 864e5) return text.slice(5, 10);
  if (step >= 6e4) return text.slice(11, 16) === '00:00' ? text.slice(5, 10) : text.slice(11, 16);
  if (step >= 1e3) return text.slice(11, 19);
  return text.slice(14, 23);
}
// Ticks at round times, as many as have room; `x` maps what is shown to pixels.
function ticks(x, from, to) {
  const found = [], scale = (view.b - view.a) / (to - from);
  const step = STEPS.find((it) => it / scale >= 92) || STEPS[STEPS.length - 1];
  let last = -1e9;
  for (let i = 0; i + 1 < ts.length; i += 2) {
    const a = Math.max(ts[i], toT(view.a)), b = Math.min(ts[i + 1], toT(view.b));
    if (b < a) continue;
    let t = Math.ceil((data.origin + a) / step) * step - data.origin;
    if (t > b) {
      // A short piece between two folds still says when it was.
      const px = x(toU(a));
      if (px - last >= 92 && px < to - 40) { found.push({ px, text: tickText(a, step >= 6e4 ? 6e4 : 1e3) }); last = px; }
    }
    for (; t <= b; t += step) {
      const px = x(toU(t));
      if (px - last < 74) continue;
      found.push({ px, text: tickText(t, step) });
      last = px;
      if (found.length > 400) return found;
    }
  }
  return found;
}
