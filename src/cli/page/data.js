// From the page's data to rows: runs with their children, activities, and events between them.
const data = JSON.parse(document.getElementById('data').textContent);
const STATES = data.states;
const FAILURES = new Set(['failed', 'timed_out', 'terminated']);
const byId = (id) => document.getElementById(id);
const isFailure = (state) => FAILURES.has(state);
// What has not ended lasts until the page was written, but never looks longer than what is known by far.
const NOW = Math.max(data.now, data.last || 0);

function duration(ms) {
  if (ms < 9.95) return ms.toFixed(1) + ' ms';
  if (ms < 999.5) return ms.toFixed(0) + ' ms';
  if (ms < 9995) return (ms / 1000).toFixed(2) + ' s';
  if (ms < 59950) return (ms / 1000).toFixed(1) + ' s';
  const s = Math.floor(ms / 1000), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h < 1) return `${m} min ${s % 60} s`;
  if (h < 24) return `${h} h ${m % 60} min`;
  return `${Math.floor(h / 24)} d ${h % 24} h`;
}
const clock = (ms) => new Date(data.origin + ms).toISOString().slice(0, 23).replace('T', ' ') + 'Z';

// A row: `bars` are drawn in its lane, `inner` in its place while it is closed.
let serial = 0;
function row(kind, parent, fields) {
  const it = {
    kind, parent, key: serial++, depth: parent ? parent.depth + 1 : 0, rows: [], bars: [], marks: [], open: false,
    state: null, failed: false, bad: false, hit: false, shown: true, ...fields,
  };
  if (parent) parent.rows.push(it);
  return it;
}
const top = [];
const targets = new Map(); // event and run ids, for deep links
function target(id, item) { if (id) targets.set(id, item); }
function fail(it) { for (let at = it; at && !at.bad; at = at.parent) at.bad = true; }

function addActivity(parent, activity) {
  const it = row('activity', parent, {
    label: activity.type || activity.id, id: activity.id, local: activity.local, tries: activity.tries.length,
  });
  let last = null;
  activity.tries.forEach((attempt, lane) => {
    const a = attempt.a ?? attempt.b ?? 0;
    const bar = {
      kind: 'attempt', row: it, lane, a, b: attempt.b ?? Math.max(NOW, a), open: attempt.b === undefined,
      state: STATES[attempt.s], n: attempt.n, ms: attempt.ms, error: attempt.e, final: attempt.final, worker: attempt.w,
      ids: attempt.ids, wait: last ? a - last.b : null,
    };
    it.bars.push(bar);
    for (const id of attempt.ids) target(id, bar);
    if (isFailure(bar.state)) { it.failed = true; fail(it); }
    last = bar;
  });
  it.state = last ? last.state : 'unknown';
  it.a = it.bars.length ? it.bars[0].a : 0;
  it.b = last ? last.b : it.a;
  it.search = [it.label, it.id, ...it.bars.flatMap((bar) => [bar.error, bar.worker, ...bar.ids])];
  return it;
}
function addMarks(it, marks) {
  for (const mark of marks || []) {
    const one = { kind: 'mark', row: it, a: mark.at, b: mark.at, name: mark.name, type: mark.type, id: mark.id, data: mark.data };
    it.marks.push(one);
    target(mark.id, one);
  }
}

const runs = data.runs.map((run) => ({ run, it: null }));
function addRun(entry) {
  if (entry.it) return entry.it;
  const { run } = entry;
  const parent = run.parent === undefined ? null : addRun(runs[run.parent]);
  const a = run.a ?? run.b ?? 0, open = run.b === undefined;
  const it = row('run', parent, {
    label: run.id, sub: run.type, run, state: STATES[run.s], a, b: run.b ?? Math.max(NOW, a),
  });
  entry.it = it;
  if (!parent) top.push(it);
  const bar = { kind: 'run', row: it, a: it.a, b: it.b, open, state: it.state, ms: run.ms, error: run.e, ids: run.ids };
  it.bars.push(bar);
  target(run.run, bar);
  for (const id of run.ids) target(id, bar);
  addMarks(it, run.marks);
  if (isFailure(it.state)) { it.failed = true; fail(it); }
  for (const activity of run.acts || []) addActivity(it, activity);
  it.search = [run.id, run.run, run.type, run.e, ...Object.values(run.fields || {}).map(String), ...run.ids,
    ...it.marks.flatMap((mark) => [mark.name, mark.type, mark.id])];
  return it;
}
runs.forEach(addRun);
for (const { it } of runs) it.rows.sort((x, y) => x.a - y.a);

if (data.activities.length) {
  const group = row('group', null, { label: 'Standalone activities', search: [] });
  for (const activity of data.activities) addActivity(group, activity);
  top.push(group);
}
if (data.marks.length) {
  const it = row('marks', null, { label: 'Events outside of runs', search: data.marks.flatMap((m) => [m.name, m.type, m.id]) });
  addMarks(it, data.marks);
  top.push(it);
}
if (data.workers.length) {
  const group = row('group', null, { label: 'Workers', search: [] });
  const lanes = new Map();
  for (const worker of data.workers) {
    let it = lanes.get(worker.name);
    if (!it) {
      it = row('worker', group, { label: worker.name || 'worker', search: [worker.name, worker.queue] });
      lanes.set(worker.name, it);
    }
    const a = worker.a ?? 0;
    const bar = { kind: 'worker', row: it, a, b: worker.b ?? NOW, open: worker.b === undefined, state: 'worker', ids: worker.ids, queue: worker.queue };
    it.bars.push(bar);
    for (const id of worker.ids) target(id, bar);
  }
  top.push(group);
}
// Few runs are shown whole, many closed.
if (top.length <= 12 || data.events <= 300) openAll(true);
function openAll(open, rows = top) {
  for (const it of rows) {
    it.open = open && it.rows.length > 0;
    openAll(open, it.rows);
  }
}

// What is wanted: which rows are shown.
const wanted = { text: '', failed: false, states: new Set() };
let visible = [], tops = [], total = 0;
const HEAD = 26; // the axis
function heightOf(it) {
  const lanes = it.kind === 'activity' ? Math.min(it.bars.length, 6) : 1;
  return lanes > 1 ? 10 + lanes * 7 : 24;
}
function choose() {
  const text = wanted.text.toLowerCase();
  const matches = (it) => {
    it.hay ??= (it.search || []).filter(Boolean).join('\n').toLowerCase();
    return it.hay.includes(text);
  };
  const walk = (it, within) => {
    it.hit = text !== '' && matches(it);
    const inside = within || it.hit;
    let any = false;
    for (const child of it.rows) any = walk(child, inside) || any;
    const byText = text === '' || inside || any;
    const byFailure = !wanted.failed || it.bad;
    it.found = text !== '' && any;
    it.shown = byText && byFailure;
    return it.shown && (text === '' ? true : it.hit || any);
  };
  for (const it of top) {
    walk(it, false);
    if (wanted.states.size) it.shown = it.shown && it.kind === 'run' && hasState(it);
  }
  layOut();
}
function hasState(it) {
  return it.kind === 'run' && (wanted.states.has(it.state) || it.rows.some(hasState));
}
function layOut() {
  visible = []; tops = []; total = HEAD;
  const walk = (it) => {
    if (!it.shown) return;
    it.index = visible.length;
    visible.push(it); tops.push(total);
    total += heightOf(it);
    // What is searched for is shown, wherever it is.
    if (it.open || it.found) it.rows.forEach(walk);
  };
  for (const it of [...top, ...runs.map((entry) => entry.it)]) it.index = -1;
  top.forEach(walk);
}
function rowAt(y) {
  let low = 0, high = visible.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= y) low = middle; else high = middle - 1;
  }
  return visible.length && y >= HEAD && y < total ? low : -1;
}
function reveal(it) {
  for (let at = it.parent; at; at = at.parent) at.open = true;
  layOut();
}
