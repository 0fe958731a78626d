// What people do: pointer, wheel, keys, buttons, links.
// What is under the pointer: a bar, a mark, a row, or folded time.
function under(x, y) {
  const index = rowAt(y + chart.scrollTop);
  if (y < HEAD || index < 0) return x > gutter ? foldAt(x) : null;
  const it = visible[index], inside = y + chart.scrollTop - tops[index];
  if (x < gutter) return { kind: 'row', row: it, a: it.a, b: it.b };
  let best = null, near = 7;
  for (const mark of it.marks) {
    const away = Math.abs(at(mark.a) - x);
    if (away < near) { near = away; best = mark; }
  }
  if (best) return best;
  near = 6;
  for (const bar of it.bars) {
    const p = place(bar);
    const stacked = it.bars.length > 1 && bar.kind === 'attempt';
    if (stacked && (inside < p.y - 1 || inside > p.y + p.h + 1)) continue;
    const away = x < p.a ? p.a - x : x > p.b ? x - p.b : 0;
    if (away < near) { near = away; best = bar; }
  }
  return best || foldAt(x) || { kind: 'row', row: it, a: it.a, b: it.b };
}
function foldAt(x) {
  const fold = folds.find((it) => toX(it.ua) - 2 <= x && x <= toX(it.ub) + 2);
  return fold ? { kind: 'fold', row: null, fold } : null;
}
function toggle(it, open = !it.open) {
  if (!it.rows.length) return;
  it.open = open;
  layOut();
  redraw();
}
function say(text) { byId('said').textContent = text; }
function select(item, { show = false, scroll = true } = {}) {
  selected = item;
  if (!item) { setHash(''); redraw(); return; }
  const it = item.row;
  if (it.index < 0) reveal(it);
  if (scroll) scrollTo(it);
  const first = item.kind === 'row' ? it.bars[0] || it.marks[0] : item;
  const id = first && (first.id || (first.ids || []).find(Boolean));
  if (id) setHash('event=' + id);
  say(summary(first || item).replaceAll('\n', ', '));
  if (show || !panel.hidden) showDetails(item);
  redraw();
}
function setHash(text) {
  const link = text ? '#' + text : location.pathname + location.search;
  try { history.replaceState(null, '', link); } catch { /* some browsers refuse it for files */ }
}
function scrollTo(it) {
  if (it.index < 0) return;
  const y = tops[it.index], high = chart.clientHeight;
  if (y - HEAD < chart.scrollTop) chart.scrollTop = y - HEAD - 30;
  else if (y + heightOf(it) > chart.scrollTop + high - 30) chart.scrollTop = y - high / 2;
}
function inSight(item) {
  if (item.b === undefined || !Number.isFinite(item.a)) return;
  const a = toU(item.a), b = toU(item.b);
  if (b < view.a || a > view.b) { const half = (view.b - view.a) / 2, middle = (a + b) / 2; look(middle - half, middle + half); }
}

// Ranges and clicks.
function drag(box, on, x0, done) {
  box.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || event.shiftKey && on === 'chart') return;
    const left = box.getBoundingClientRect().left, x = event.clientX - left;
    const y = event.clientY - box.getBoundingClientRect().top;
    if (x < x0() || (on === 'chart' && event.pointerType === 'touch')) return;
    box.setPointerCapture(event.pointerId);
    range = { on, a: x, b: x, y };
  });
  box.addEventListener('pointermove', (event) => {
    if (!range || range.on !== on) return;
    range.b = Math.max(x0(), event.clientX - box.getBoundingClientRect().left);
    if (Math.abs(range.b - range.a) > 4) { hideTip(); redraw(); }
  });
  const end = (event) => {
    if (!range || range.on !== on) return;
    const { a, b } = range;
    range = null;
    if (event.type === 'pointerup') done(Math.min(a, b), Math.max(a, b), Math.abs(b - a) > 4);
    redraw();
  };
  box.addEventListener('pointerup', end);
  box.addEventListener('pointercancel', end);
}
let dragged = false;
drag(chart, 'chart', () => gutter, (a, b, far) => { dragged = far; if (far) look(fromX(a), fromX(b)); });
drag(map, 'map', () => 0, (a, b, far) => {
  const all = whole(), u = (x) => all.a + (x / map.clientWidth) * (all.b - all.a);
  if (far) look(u(a), u(b));
  else { const half = (view.b - view.a) / 2; look(u(a) - half, u(a) + half); }
});
map.addEventListener('dblclick', () => { view = whole(); redraw(); });
const spot = (event) => { const box = chart.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
chart.addEventListener('pointermove', (event) => {
  if (range) return;
  const [x, y] = spot(event);
  const item = under(x, y);
  const changed = (item && item.row) !== (hovered && hovered.row);
  hovered = item;
  chart.style.cursor = item && item.kind === 'row' && item.row.rows.length ? 'pointer' : item && (item.ids || item.id) ? 'pointer' : 'default';
  if (item && (item.kind !== 'row' || x < gutter)) showTip(item, event.clientX, event.clientY); else hideTip();
  if (changed) redraw();
});
chart.addEventListener('pointerleave', () => { hovered = null; hideTip(); redraw(); });
chart.addEventListener('click', (event) => {
  if (dragged) { dragged = false; return; }
  const [x, y] = spot(event);
  const item = under(x, y);
  if (!item || item.kind === 'fold') return;
  hideTip();
  if (item.kind === 'row' && x < gutter && item.row.rows.length) { toggle(item.row); select(item, { scroll: false }); return; }
  select(item, { show: item.kind !== 'row', scroll: false });
});
chart.addEventListener('dblclick', (event) => {
  const item = under(...spot(event));
  if (item && item.row && Number.isFinite(item.a)) { zoomTo(item.kind === 'row' ? item.row.bars[0] || item : item); redraw(); }
});
chart.addEventListener('wheel', (event) => {
  const [x] = spot(event);
  if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.003), fromX(Math.max(x, gutter))); }
  else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) { event.preventDefault(); pan((event.deltaX || event.deltaY) / 1000); }
  else return;
  redraw();
}, { passive: false });
map.addEventListener('wheel', (event) => { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.002)); redraw(); }, { passive: false });
chart.addEventListener('scroll', () => { hideTip(); redraw(); }, { passive: true });

// Buttons.
const search = byId('search');
function filter() {
  choose();
  const count = wanted.text ? visible.filter((it) => it.hit).length : 0;
  byId('matches').textContent = wanted.text ? (count === 1 ? '1 match' : `${count} matches`) : '';
  byId('failed').setAttribute('aria-pressed', wanted.failed);
  for (const button of byId('outcomes').children) button.setAttribute('aria-pressed', wanted.states.has(button.dataset.state));
  if (selected && selected.row.index < 0) selected = null;
  chart.scrollTop = Math.min(chart.scrollTop, total);
  redraw();
}
let typing = 0;
search.addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(() => { wanted.text = search.value.trim(); filter(); }, 80);
});
search.addEventListener('keydown', (event) => {
  if (event.key === 'Enter') {
    const hits = visible.filter((it) => it.hit);
    const next = hits.find((it) => !selected || it.index > selected.row.index) || hits[0];
    if (next) { select({ kind: 'row', row: next, a: next.a, b: next.b }); inSight(next); }
  } else if (event.key === 'Escape') { clear(); chart.focus(); }
  event.stopPropagation();
});
function clear() { search.value = ''; wanted.text = ''; wanted.failed = false; wanted.states.clear(); filter(); }
const actions = {
  failed: () => { wanted.failed = !wanted.failed; filter(); },
  idle: () => { refold(!folding); byId('idle').setAttribute('aria-pressed', folding); redraw(); },
  expand: () => { const open = !top.some((it) => it.open); openAll(open); byId('expand').textContent = open ? 'Close all' : 'Expand all'; layOut(); redraw(); },
  whole: () => { view = whole(); redraw(); },
  theme: () => {
    const root = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)').matches;
    const now = root.dataset.theme || (dark ? 'dark' : 'light');
    root.dataset.theme = now === 'dark' ? 'light' : 'dark';
    paint();
  },
  keys: () => byId('help').showModal(),
};
for (const name of Object.keys(actions)) byId(name).addEventListener('click', actions[name]);

// Keys.
function move(by) {
  if (!visible.length) return;
  const from = selected ? selected.row.index : by > 0 ? -1 : visible.length;
  const it = visible[Math.min(Math.max(from + by, 0), visible.length - 1)];
  select({ kind: 'row', row: it, a: it.a, b: it.b });
}
let failures = null;
function nextFailure(by) {
  failures ??= [...new Set(targets.values())].filter((item) => isFailure(item.state) && (item.kind !== 'run' || item.error)).sort((x, y) => x.a - y.a);
  if (!failures.length) { say('nothing failed'); return; }
  let index = selected ? failures.indexOf(selected) : -1;
  index = index < 0 && by < 0 ? failures.length - 1 : (index + by + failures.length) % failures.length;
  const item = failures[index];
  select(item, { show: true });
  inSight(item);
}
const keys = {
  ArrowDown: () => move(1), ArrowUp: () => move(-1), j: () => move(1), k: () => move(-1),
  PageDown: () => move(20), PageUp: () => move(-20), Home: () => move(-1e9), End: () => move(1e9),
  ArrowRight: () => { if (selected) { if (!selected.row.open && selected.row.rows.length) toggle(selected.row, true); else move(1); } },
  ArrowLeft: () => {
    const it = selected && selected.row;
    if (!it) return;
    if (it.open && it.rows.length) toggle(it, false);
    else if (it.parent) select({ kind: 'row', row: it.parent, a: it.parent.a, b: it.parent.b });
  },
  Enter: () => { if (selected) { showDetails(selected); inSight(selected); redraw(); } },
  n: () => nextFailure(1), p: () => nextFailure(-1), f: actions.failed, i: actions.idle, e: actions.expand, t: actions.theme,
  '/': () => search.focus(), '?': actions.keys, 0: actions.whole, '+': () => zoom(0.6), '=': () => zoom(0.6), '-': () => zoom(1 / 0.6),
  '[': () => pan(-0.25), ']': () => pan(0.25),
  Escape: () => { if (!panel.hidden) hideDetails(); else if (wanted.text || wanted.failed || wanted.states.size) clear(); else { select(null); view = whole(); } },
};
addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId('help').open) return;
  const within = event.target;
  const isControl = within instanceof Element && within.closest('button, input');
  if (isControl && (event.key === 'Enter' || event.key === ' ')) return;
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  action();
  redraw();
});

// Links to an event or a run.
function follow() {
  const link = new URLSearchParams(location.hash.slice(1));
  const item = targets.get(link.get('event') || link.get('run'));
  if (!item) return;
  if (item.row.index < 0) { clear(); reveal(item.row); }
  selected = item;
  showDetails(item);
  scrollTo(item.row);
  inSight(item);
  redraw();
}
addEventListener('hashchange', follow);

// Paper: a sheet for as many rows as fit, with the axis on each.
const SHEET = { width: 1000, height: 600, most: 100 };
let sheets = null;
function forPaper() {
  if (sheets) return;
  readColors(true);
  hatches.clear();
  sheets = [];
  wide = SHEET.width; gutter = 270;
  for (let first = 0; first < visible.length && sheets.length < SHEET.most;) {
    const scroll = tops[first] - HEAD;
    let next = first + 1;
    while (next < visible.length && tops[next] + heightOf(visible[next]) - scroll < SHEET.height) next++;
    const end = next < visible.length ? tops[next] : total;
    const sheet = element('canvas');
    chart.append(sheet);
    sheets.push(sheet);
    drawRows(size(sheet, SHEET.width, end - scroll, 2), scroll, end - scroll);
    first = next;
  }
  canvas.hidden = true;
}
function forScreen() {
  if (!sheets) return;
  for (const sheet of sheets) sheet.remove();
  sheets = null;
  canvas.hidden = false;
  paint();
}
addEventListener('beforeprint', forPaper);
addEventListener('afterprint', forScreen);

function paint() {
  readColors();
  hatches.clear();
  for (const button of byId('outcomes').children) {
    const g = size(button.firstChild, 14, 14);
    g.clearRect(0, 0, 14, 14);
    sign(g, button.dataset.state, 7, 7, 5.6);
  }
  draw();
}
function begin() {
  byId('title').textContent = data.title;
  const counts = new Map();
  for (const { it } of runs) counts.set(it.state, (counts.get(it.state) || 0) + 1);
  const plural = (n, noun) => `${n.toLocaleString('en')} ${noun}${n === 1 ? '' : 's'}`;
  const about = [plural(runs.length, 'run'), plural(data.events, 'event'), `${clock(0).slice(0, 16)} to ${clock(data.last ?? 0).slice(0, 16)} UTC`];
  if (data.redacted) about.push('redacted');
  byId('about').textContent = about.join(' · ');
  byId('about').title = `${data.store}, written ${clock(data.now)}`;
  for (const state of STATES.filter((it) => counts.has(it))) {
    const button = element('button');
    button.dataset.state = state;
    button.setAttribute('aria-pressed', 'false');
    button.append(element('canvas'), element('span', `${counts.get(state).toLocaleString('en')} ${state.replaceAll('_', ' ')}`));
    button.onclick = () => {
      if (!wanted.states.delete(state)) wanted.states.add(state);
      filter();
    };
    byId('outcomes').append(button);
  }
  byId('app').hidden = false;
  if (top.some((it) => it.open)) byId('expand').textContent = 'Close all';
  choose();
  paint();
  follow();
  new ResizeObserver(() => { if (!sheets) redraw(); }).observe(chart);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
}
begin();
